"""The command as a whole against a limiter that keeps its word, or breaks it in one way."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limiter.cli import replay_driver
from limiter.cli.main import app
from limiter.client.steps import Patience
from tests.replay.scripted_limiter import KEY, Scripted, Served

Serve = Callable[[str], Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start scripted limiters; the sockets are in a short path."""
    started: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="lim-") as directory:

        def start(lie: str = "") -> Served:
            started.append(Served.start(Scripted(lie), f"{directory}/{len(started)}"))
            return started[-1]

        yield start
        for served in started:
            served.stop()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty calls of 30 + 5 tokens, a tenth of a second apart."""
    rows = [f"2023-11-16 18:17:0{tenths / 10},30,5" for tenths in range(20)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    return path


def run(served: Served | str, trace: Path, *options: str) -> Result:
    address = served if isinstance(served, str) else served.address
    arguments = ["replay", str(trace), "--admin", address, "--address", address, "--callers", "4", *options]
    return CliRunner().invoke(app, arguments, env={"LIMITER_TOKEN": "", "LIMITER_ADMIN_TOKEN": ""})


def numbers(served: Served, trace: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = run(served, trace, "--format", "json", *options)
    return result.exit_code, json.loads(result.stdout)


def test_a_limiter_that_keeps_its_word_ends_in_0_and_all_numbers(serve: Serve, trace: Path) -> None:
    code, told = numbers(serve(""), trace)
    assert code == 0, told
    assert told["ok"]
    assert all(check["ok"] for check in told["checks"].values())
    assert told["granted"] + sum(told["denied"].values()) == told["played"] == told["calls"] == 20
    assert told["reservations"]["settled"] == told["granted"]
    (line,) = told["limits"]
    assert line["settled"] == 35_000 * told["granted"]
    assert line["settled"] <= line["limit_value"] == 500_000
    assert sum(one["cost_nanousd"] for one in told["customers"].values()) == line["settled"]


@pytest.mark.parametrize(
    ("lie", "check", "said"),
    [
        ("refuses", "refusals", "had room"),
        ("passes", "ceilings", "total of acme was passed by"),
        ("loses a row", "books", "its ledger rows say"),
        ("books another amount", "books", "by its answer"),
        ("loses a hold", "books", "its open reservations hold"),
        ("grants twice", "answers", "granted twice"),
    ],
)
def test_a_limiter_that_breaks_its_word_ends_in_1_and_is_told(
    serve: Serve, trace: Path, lie: str, check: str, said: str
) -> None:
    code, told = numbers(serve(lie), trace)
    assert code == 1
    assert not told["checks"][check]["ok"]
    assert said in " | ".join(told["checks"][check]["told"])


def test_people_read_tables_and_a_verdict(serve: Serve, trace: Path) -> None:
    kept = run(serve(""), trace)
    assert kept.exit_code == 0
    for expected in (
        "Limits",
        "0.0005 / total",
        "SPEND_",  # the ceiling is reached, or held by others, as the callers come
        "Customers",
        "customer-01",
        "The limiter kept its word.",
    ):
        assert expected in kept.stdout
    broken = run(serve("refuses"), trace)
    assert broken.exit_code == 1
    assert "not so: every refusal was justified by its own numbers (1 found)" in broken.stdout
    assert "The limiter did NOT keep its word." in broken.stdout


def test_the_same_seed_asks_the_same_and_calls_are_tagged_priced_and_sized_as_told(serve: Serve, trace: Path) -> None:
    def asked(*options: str) -> list[tuple[str, str, str, int, int]]:
        served = serve("")
        assert run(served, trace, "--callers", "1", "--model", "m", "--key", KEY, *options).exit_code == 0
        return [
            (one.key_id, one.model, one.tags[0].value, one.estimate.input_tokens, one.estimate.max_output_tokens)
            for one in served.limiter.asked
        ]

    first = asked("--customers", "5")
    assert first == asked("--customers", "5")
    assert first != asked("--customers", "5", "--seed", "1")
    assert {one[0] for one in first} == {KEY}
    assert {one[1] for one in first} == {"m"}
    assert {one[2] for one in first} <= {f"customer-0{number}" for number in range(1, 6)}
    assert {one[3:] for one in first} == {(30, 10)}
    assert {one[4] for one in asked("--max-output-tokens", "7")} == {7}


def test_a_refusal_for_now_is_asked_again(serve: Serve, trace: Path) -> None:
    code, told = numbers(serve(""), trace, "--max-output-tokens", "300", "--retry", "50")
    assert code == 0
    assert told["refused_for_now_and_asked_again"] > 0


def test_a_factor_on_the_recorded_speed_keeps_the_distances(serve: Serve, trace: Path) -> None:
    code, told = numbers(serve(""), trace, "--speed", "10x", "--tokens-per-second", "1000")
    assert code == 0
    assert told["seconds"] >= 0.19  # the last call comes 1.9 recorded seconds after the first


def test_a_limiter_that_is_gone_ends_the_replay_early(
    serve: Serve, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_driver, "PATIENCE", Patience(timeout_seconds=5.0, retries=0))
    code, told = numbers(serve("is gone"), trace, "--callers", "1")
    assert code == 1
    assert told["played"] == 4
    assert told["undecided"] == {"UNAVAILABLE": 1}
    assert not told["checks"]["answers"]["ok"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--speed", "fast"], "--speed: 'fast' is not valid; write max, recorded, or a factor such as 10x"),
        (["--speed", "nanx"], "--speed"),
        (["--key", "acme/search"], "--key"),
        (["--key", "other/search/bot"], "no policy is in force for other"),
        (["--callers", "0"], "--callers"),
    ],
)
def test_an_option_that_is_not_valid_ends_in_2(serve: Serve, trace: Path, options: list[str], said: str) -> None:
    result = run(serve(""), trace, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_trace_that_is_not_valid_ends_in_2_before_anything_is_asked(serve: Serve, tmp_path: Path) -> None:
    served = serve("")
    bad = tmp_path / "bad.csv"
    bad.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,-1,5\n")
    result = run(served, bad)
    assert result.exit_code == 2
    assert "bad.csv line 2 ContextTokens: '-1'" in result.stderr
    assert served.limiter.asked == []


def test_a_sidecar_that_is_not_there_ends_in_4(trace: Path, tmp_path: Path) -> None:
    result = run(f"unix:{tmp_path}/nobody.sock", trace)
    assert result.exit_code == 4
    assert "no sidecar at" in result.stderr


def test_a_policy_without_an_enabled_key_asks_for_keys(
    serve: Serve, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.replay.scripted_limiter.POLICY", "version: 1\norganizations: {acme: {}}")
    result = run(serve(""), trace)
    assert result.exit_code == 2
    assert "name keys with --key" in result.stderr

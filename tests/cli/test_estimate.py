"""`limiter estimate`: recorded calls beside what would have been held for them."""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limiter.cli.main import app
from tests.cli.conftest import CommandLine

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "llm_calls_sample.jsonl"
ALL = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "llm_calls.jsonl.gz"

KEYS = {
    "calls", "answered", "usage_read", "priced", "covered", "uncovered", "ratio_p50", "ratio_p90", "ratio_p99",
}  # fmt: skip

PRICES = """\
version: 1
models:
  - {provider: openai, match: mine, input_per_million: "1", output_per_million: "1"}
"""

Call = dict[str, Any]


def chat(*, asked: int | None = 100, used: int = 20, model: str = "gpt-4o", **changes: object) -> Call:
    """A recorded chat completion that wrote `used` tokens of the `asked` ones."""
    request: Call = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    if asked is not None:
        request["max_completion_tokens"] = asked
    usage = {"prompt_tokens": 14, "completion_tokens": used, "total_tokens": 14 + used}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris."}}
    return {
        "host": "api.openai.com",
        "path": "/v1/chat/completions",
        "query": "",
        "status": 200,
        "content_type": "application/json",
        "request": request,
        "response": {"id": "chatcmpl-1", "model": model, "choices": [choice], "usage": usage},
    } | changes


def record(*calls: Call | str, file: str = "calls.jsonl") -> str:
    text = "".join(f"{call if isinstance(call, str) else json.dumps(call)}\n" for call in calls)
    Path(file).write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())
    return file


def numbers(found: Call) -> tuple[int, ...]:
    return tuple(found[key] for key in ("calls", "answered", "usage_read", "priced", "covered", "uncovered"))


@pytest.mark.parametrize("mode", ["strict", "safe"])
@pytest.mark.parametrize("file", ["calls.jsonl", "calls.jsonl.gz"])
def test_a_call_that_cost_less_than_its_hold_is_covered(limiter: CommandLine, mode: str, file: str) -> None:
    found = limiter.run("estimate", "--calls", record(chat(), file=file), "--mode", mode, "--format", "json").json
    assert numbers(found) == (1, 1, 1, 1, 1, 0)
    assert found["mode"] == mode
    assert found["price_version"].startswith("genai-prices ")
    assert found["ratio_p50"] == found["ratio_p90"] == found["ratio_p99"] > 1
    assert found["by_provider"].keys() == {"openai"}
    assert found["by_provider"]["openai"] == {key: found[key] for key in KEYS}
    assert numbers(found["without_growth"]) == (1, 1, 1, 1, 1, 0)
    assert (found["growth"], found["with_growth"]["calls"]) == (0, 0)
    assert not any(found[kind] for kind in ("uncovered_calls", "unread", "unpriced", "refused", "skipped"))


def test_a_call_that_cost_more_than_its_hold_is_told_with_the_part_that_was_too_small(limiter: CommandLine) -> None:
    file = record(chat(), chat(asked=10, used=5000))
    found = limiter.run("estimate", "--calls", file, "--mode", "strict", "--format", "json", exit_code=1).json
    assert numbers(found) == (2, 2, 2, 2, 1, 1)
    (uncovered,) = found["uncovered_calls"]
    assert (uncovered["line"], uncovered["provider"], uncovered["model"]) == (2, "openai", "gpt-4o")
    assert uncovered["actual_nanousd"] > uncovered["hold_nanousd"]
    assert uncovered["reason"] == "output: 5000 tokens of at most 10"


def test_only_a_strict_hold_that_is_passed_is_a_failure(limiter: CommandLine) -> None:
    file = record(chat(asked=10, used=5000))
    lines = limiter.run("estimate", "--calls", file, "--mode", "safe").lines
    assert next(line.split()[6:8] for line in lines if line.startswith("all ")) == ["0", "1"]


def test_people_see_each_call_that_is_not_covered_read_or_priced_by_its_line(limiter: CommandLine) -> None:
    strange = {"host": "llm.example.com", "path": "/generate"}
    file = record(
        chat(),
        chat(asked=10, used=5000),
        chat() | strange,
        chat() | strange,
        "{",
        chat(model="no-such-model"),
        chat() | strange | {"status": 404, "response": {"error": "no such path"}},
    )
    output = limiter.run("estimate", "--calls", file, "--mode", "strict", exit_code=1)
    assert output.row("openai", "no-such-model")[2] == "6"
    assert output.row("output: 5000 tokens")[0] == "2"
    assert [row.split()[2] for row in output.lines if "llm.example.com" in row and "provider_request" in row] == [
        "3-4",
        "7",
    ]
    assert output.row("not JSON")[2] == "5"
    assert "1 of 2 calls covered (50.0 %)" in output.lines[-1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "no JSON object"),
        (json.dumps({"host": 1}), "host is missing"),
        (json.dumps(chat(status=True)), "status is missing"),
        (json.dumps(chat(query=1)), "query is no text"),
        (json.dumps({name: value for name, value in chat().items() if name != "response"}), "response is missing"),
        (json.dumps(chat(response={"__bytes__": "?"})), "not base64"),
        (json.dumps(chat(response="\ud800")), "surrogates"),
    ],
)
def test_a_line_that_is_no_call_is_unread_and_the_others_count(limiter: CommandLine, line: str, reason: str) -> None:
    file = record(line, "", chat())
    found = limiter.run("estimate", "--calls", file, "--mode", "strict", "--format", "json", exit_code=1).json
    assert numbers(found) == (2, 1, 1, 1, 1, 0)
    (unread,) = found["unread"]
    assert unread["line"] == 1
    assert reason in unread["reason"]


@pytest.mark.parametrize("status", [99, 100, 1000, -1])
def test_a_status_that_no_answer_has_is_no_answer(limiter: CommandLine, status: int) -> None:
    found = limiter.run("estimate", "--calls", record(chat(status=status)), "--format", "json").json
    assert numbers(found) == (1, 0, 0, 0, 0, 0)


def test_an_answer_that_does_not_tell_its_usage_is_not_answered(limiter: CommandLine) -> None:
    failed = chat(status=400, response={"error": {"message": "no such model"}})
    silent = chat(response={"id": "chatcmpl-1", "model": "gpt-4o", "choices": []})
    found = limiter.run("estimate", "--calls", record(failed, silent), "--format", "json").json
    assert numbers(found) == (2, 0, 0, 0, 0, 0)
    assert found["ratio_p50"] is None


def test_streams_and_bytes_are_read_as_they_were_sent(limiter: CommandLine) -> None:
    answer = chat()["response"]
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": []}
    events = [event | {"choices": [{"index": 0, "delta": {"content": "Paris."}}]}, event | {"usage": answer["usage"]}]
    text = "".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n"
    stream = chat(content_type="text/event-stream", response=text)
    raw = {"__bytes__": base64.b64encode(json.dumps(answer).encode()).decode()}
    raw_stream = chat(
        content_type="text/event-stream", response={"__bytes__": base64.b64encode(text.encode()).decode()}
    )
    calls = record(stream, chat(response=raw), raw_stream)
    found = limiter.run("estimate", "--calls", calls, "--format", "json").json
    assert numbers(found) == (3, 3, 3, 3, 3, 0)


def test_the_standard_input_is_read_too() -> None:
    packed = gzip.compress(json.dumps(chat()).encode())
    for given in (packed, json.dumps(chat()).encode()):
        result = CliRunner().invoke(app, ["estimate", "--calls", "-", "--format", "json"], input=given)
        assert result.exit_code == 0
        assert json.loads(result.stdout)["covered"] == 1


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_caller(limiter: CommandLine) -> None:
    assert "name a file that can be read" in limiter.run("estimate", "--calls", "no.jsonl", exit_code=2).err
    assert "name a file that can be read" in limiter.run("estimate", "--calls", ".", exit_code=2).err
    Path("empty.jsonl").write_text("\n")
    assert "it has no calls" in limiter.run("estimate", "--calls", "empty.jsonl", exit_code=2).err
    packed = gzip.compress("".join(f"{json.dumps(chat())}\n" for _ in range(99)).encode())
    Path("cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut off" in limiter.run("estimate", "--calls", "cut.jsonl.gz", exit_code=2).err


def test_prices_of_ones_own_are_used(limiter: CommandLine) -> None:
    Path("prices.yaml").write_text(PRICES)
    file = record(chat(model="mine"))
    assert limiter.run("estimate", "--calls", file, "--format", "json").json["unpriced"][0]["line"] == 1
    found = limiter.run("estimate", "--calls", file, "--prices", "prices.yaml", "--format", "json").json
    assert numbers(found) == (1, 1, 1, 1, 1, 0)
    assert "sha256" in found["price_version"]


def test_a_policy_gives_defaults_aliases_and_free_models(limiter: CommandLine) -> None:
    Path("policy.yaml").write_text(
        "version: 1\n"
        "settings: {default_max_output_tokens: 10, free: ['local-*']}\n"
        "aliases: {mine: gpt-4o}\n"
        "organizations:\n  acme: {}\n  other: {settings: {default_max_output_tokens: 5000}}\n"
    )
    file = record(chat(asked=None, used=4000, model="mine"), chat(model="local-llama"))
    with_policy = ("estimate", "--calls", file, "--format", "json", "--policy", "policy.yaml", "--mode", "safe")
    assert "2 organizations" in limiter.run(*with_policy, exit_code=2).err
    found = limiter.run(*with_policy, "--key", "acme/a/b").json
    assert (found["covered"], found["uncovered_calls"][0]["reason"]) == (1, "output: 4000 tokens of at most 10")
    assert limiter.run(*with_policy, "--key", "other/a/b").json["covered"] == 2
    assert limiter.run(*with_policy, "--key", "acme/a/b", "--default-max-output-tokens", "5000").json["covered"] == 2
    assert "the policy has acme, other" in limiter.run(*with_policy, "--key", "x/y/z", exit_code=2).err
    assert "--policy" in limiter.run("estimate", "--calls", file, "--key", "acme/a/b", exit_code=2).err


def test_prices_may_be_those_of_another_day(limiter: CommandLine) -> None:
    Path("prices.yaml").write_text(
        f"{PRICES}"
        '  - {provider: openai, match: mine, input_per_million: "1000", output_per_million: "1", from: 2026-01-01}\n'
    )
    options = ("--calls", record(chat(model="mine")), "--prices", "prices.yaml", "--format", "json")
    early = limiter.run("estimate", *options, "--price-date", "2025-06-30").json
    late = limiter.run("estimate", *options, "--price-date", "2026-06-30").json
    assert early["ratio_p50"] != late["ratio_p50"]
    assert "write a time" in limiter.run("estimate", *options, "--price-date", "someday", exit_code=2).err


@pytest.mark.parametrize("mode", ["strict", "safe"])
@pytest.mark.parametrize("file", [SAMPLE, ALL], ids=["sample", "all"])
def test_recorded_calls_are_read_priced_and_covered(file: Path, mode: str) -> None:
    if not file.exists():
        pytest.skip(f"{file.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    words = ("estimate", "--calls", str(file), "--mode", mode, "--format", "json")
    result = CliRunner().invoke(app, words)
    found = json.loads(result.stdout)
    plain = found["without_growth"]
    assert result.exit_code == (mode == "strict" and bool(found["uncovered"] or found["unread"]))
    assert found["answered"] >= 9
    assert found["usage_read"] >= 0.99 * found["answered"], found["unread"]
    assert found["priced"] + len(found["unpriced"]) >= 0.995 * found["usage_read"]
    assert plain["refused"] == 0, found["refused"]
    if mode == "strict":
        assert found["uncovered"] == 0, found["uncovered_calls"]
    else:
        assert plain["covered"] >= 0.995 * (plain["covered"] + plain["uncovered"]), found["uncovered_calls"]


def trace(*calls: tuple[int, int], file: str = "trace.csv") -> str:
    rows = [f"2023-11-16 18:{at // 60 % 60:02}:{at % 60:02},{taken},{made}" for at, (taken, made) in enumerate(calls)]
    Path(file).write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return file


def test_a_trace_is_held_for_by_what_its_calls_cost_before(limiter: CommandLine) -> None:
    file = trace(*((1000 + at % 7, 10 + at % 5) for at in range(700)))
    found = limiter.run("estimate", "--trace", file, "--max-output-tokens", "4096", "--format", "json").json
    assert (found["mode"], found["calls"], found["samples_before"]) == ("learned", 700, 500)
    assert found["safe"]["covered"] == found["learned"]["calls"] == 200
    assert found["learned"]["covered"] >= 198
    assert 1 <= found["learned"]["ratio_p50"] < 1.1 < found["safe"]["ratio_p50"]
    assert found["of_safe"] == pytest.approx(found["learned"]["ratio_p50"] / found["safe"]["ratio_p50"], abs=0.001)
    output = limiter.run("estimate", "--trace", file)
    assert output.row("learned", "200")
    assert "after 500 calls" in output.lines[-1]


def test_nothing_is_learned_from_a_short_trace(limiter: CommandLine) -> None:
    found = limiter.run("estimate", "--trace", trace((10, 10)), "--format", "json").json
    assert (found["calls"], found["learned"]["calls"], found["of_safe"], found["factor"]) == (1, 0, None, None)
    assert "fewer than 500" in limiter.run("estimate", "--trace", "trace.csv").out


def test_a_mode_goes_with_what_it_can_be_tried_on(limiter: CommandLine) -> None:
    calls, replayed = record(chat()), trace((10, 10))
    assert "recorded calls or a --trace" in limiter.run("estimate", exit_code=2).err
    assert "--trace" in limiter.run("estimate", "--calls", calls, "--trace", replayed, exit_code=2).err
    assert "--trace" in limiter.run("estimate", "--calls", calls, "--mode", "learned", exit_code=2).err
    assert "--calls" in limiter.run("estimate", "--trace", replayed, "--mode", "strict", exit_code=2).err
    assert "no price" in limiter.run("estimate", "--trace", replayed, "--model", "no-such", exit_code=2).err


def test_a_production_trace_is_covered_by_learned_holds_a_fifth_as_large(limiter: CommandLine) -> None:
    file = ALL.with_name("azure_llm_code_2023.csv.gz")
    if not file.exists():
        pytest.skip(f"{file.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    found = limiter.run("estimate", "--trace", str(file), "--max-output-tokens", "4096", "--format", "json").json
    assert found["covered_of_learned"] >= 0.99
    assert found["of_safe"] <= 0.2


def test_a_file_that_has_no_calls_at_all_is_the_wrong_one(limiter: CommandLine) -> None:
    output = limiter.run("estimate", "--calls", record("a,b", "1,2"), exit_code=2)

    assert "it has no calls (line 1: it is not JSON" in output.err

"""`limiter keys …`."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import FakeSidecar, at, key

MINTED = "lk-QYZcyiInWIZmkDLvFqQHBopaJWYj64o05jyFgXvJvBY"
DAY_S = 86_400


def test_creating_a_key_prints_key_and_secret_for_programs(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("CreateKey", pb.CreateKeyResponse(key=key(), secret=MINTED))

    printed = limiter.run("keys", "create", "acme/search/bot", "--format", "json").json

    assert list(printed)[:2] == ["key", "secret"]
    assert printed["key"] == "acme/search/bot"
    assert printed["secret"] == MINTED
    assert printed["expires_at"] is None
    assert printed["secrets"] == [
        {"hint": "JvBY", "not_after": None, "pepper_version": "1", "created_at": "2023-11-14T22:13:20Z"}
    ]


def test_creating_a_key_tells_people_that_its_secret_is_shown_once(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("CreateKey", pb.CreateKeyResponse(key=key(), secret=MINTED))

    output = limiter.run("keys", "create", "acme/search/bot")

    assert output.row("secret", MINTED)
    assert "shown this once" in output.err


def test_limits_and_expiry_of_a_new_key_are_sent(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    limits = "[{id: daily, spend: 5, per: day}]"

    limiter.run(
        *("keys", "create", "acme/search/bot", "--limits", "-", "--expires", "2030-12-31T18:00:00Z"), stdin=limits
    )

    request = sidecar.request("CreateKey")
    assert request.limits_yaml == limits
    assert request.expires_at.ToJsonString() == "2030-12-31T18:00:00Z"


def test_an_empty_file_of_limits_is_refused_because_it_would_mean_the_policys(
    limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    output = limiter.run("keys", "create", "acme/search/bot", "--limits", "-", exit_code=2)

    assert "write [] for a key without limits" in output.err
    assert not sidecar.asked


def test_an_imported_secret_comes_from_the_standard_input_and_is_not_printed(
    limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    sidecar.answers("ImportKey", pb.CreateKeyResponse(key=key()))

    output = limiter.run("keys", "import", "acme/search/bot", "--format", "json", stdin=f"{MINTED}\n")

    assert sidecar.request("ImportKey").secret == MINTED
    assert MINTED not in output.out + output.err
    assert "secret" not in output.json


def test_an_imported_secret_may_come_from_a_file(limiter: CommandLine, sidecar: FakeSidecar, directory: Path) -> None:
    (directory / "secret").write_text(f"{MINTED}\n")

    limiter.run("keys", "import", "acme/search/bot", "--secret-file", "secret")

    assert sidecar.request("ImportKey").secret == MINTED


def test_listing_reads_every_page(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers(
        "ListKeys",
        pb.ListKeysResponse(keys=[key(key="acme/search/a")], next_page_token="acme/search/a"),
        pb.ListKeysResponse(keys=[key(key="acme/search/b", enabled=False, expires_at=at(1_900_000_000))]),
    )

    output = limiter.run("keys", "list", "acme/search")

    assert [request.page_token for request in sidecar.requests("ListKeys")] == ["", "acme/search/a"]
    assert {request.scope for request in sidecar.requests("ListKeys")} == {"acme/search"}
    assert output.row("acme/search/a", "yes", "never")
    assert output.row("acme/search/b", "no", "2030-03-17 17:46:40Z")


def test_listing_a_key_lists_that_key_alone(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListKeys", pb.ListKeysResponse(keys=[key(), key(key="acme/search/bot2")]))

    printed = limiter.run("keys", "list", "acme/search/bot", "--format", "json").json

    assert [one["key"] for one in printed] == ["acme/search/bot"]


def test_rotating_sends_how_long_the_older_secrets_last(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    limiter.run("keys", "rotate", "acme/search/bot", "--overlap", "1h30m")
    limiter.run("keys", "rotate", "acme/search/bot")

    with_overlap, without = sidecar.requests("RotateKey")
    assert with_overlap.overlap.ToSeconds() == 5400
    assert not without.HasField("overlap")


@pytest.mark.parametrize(("word", "enabled"), [("enable", True), ("disable", False)])
def test_enabling_and_disabling_change_nothing_else(
    word: str, *, enabled: bool, limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    limiter.run("keys", word, "acme/search/bot")

    assert sidecar.request("UpdateKey") == pb.UpdateKeyRequest(key="acme/search/bot", enabled=enabled)


def test_updating_can_take_limits_and_expiry_back(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    limiter.run("keys", "update", "acme/search/bot", "--policy-limits", "--no-expiry")

    assert sidecar.request("UpdateKey") == pb.UpdateKeyRequest(key="acme/search/bot", limits_yaml="", clear_expiry=True)


@pytest.mark.parametrize(
    "options",
    [(), ("--expires", "30d", "--no-expiry"), ("--limits", "x", "--policy-limits"), ("--expires", "soon")],
)
def test_an_update_that_says_nothing_or_two_things_is_refused(
    options: tuple[str, ...], limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    limiter.run("keys", "update", "acme/search/bot", *options, exit_code=2)

    assert not sidecar.asked

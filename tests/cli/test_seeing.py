"""`limiter inspect`, `reservations …` and `ledger …`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import RESERVATION, Fails, FakeSidecar, held, key, spend

BOT = "acme/search/bot"


def row(seq: int, **changes: object) -> pb.LedgerRow:
    facts: dict[str, Any] = {
        "shard": 7,
        "epoch": 1,
        "seq": seq,
        "kind": "SETTLEMENT",
        "organization": "acme",
        "basis": "USAGE",
        "flags": ["OVERAGE"],
        "amount_nanousd": 3_250_001,
        "cost_nanousd": 9_007_199_254_740_993,  # beyond what a double holds
        "at_ms": 1_700_000_000_123,
        "call": {"key": BOT, "model": "gpt-4o", "tags": [["customer", "initech"]]},
    }
    return pb.LedgerRow(shard=7, epoch=1, seq=seq, json=json.dumps(facts | changes))


def test_a_reservation_is_shown_with_all_that_is_known(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("GetReservation", held(), held())

    output = limiter.run("inspect", RESERVATION)
    printed = limiter.run("inspect", RESERVATION, "--format", "json").json

    assert output.row("held", "0.0075 USD")
    assert output.row("tags", "customer:initech")
    assert output.row("taken from", "acme monthly:spend:month")
    assert (printed["state"], printed["held_usd"], printed["ended_at"]) == ("HELD", "0.0075", None)
    assert printed["tags"] == [{"name": "customer", "value": "initech"}]


def test_a_key_is_shown_with_its_record_its_counters_and_its_holds(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    for _ in range(2):
        sidecar.answers(
            "ListScopes", pb.ListScopesResponse(scopes=[pb.ScopeStatus(scope=BOT, limits=[spend(overage=250_000_000)])])
        )
        sidecar.answers("ListKeys", pb.ListKeysResponse(keys=[key()]))
        sidecar.answers("ListReservations", pb.ListReservationsResponse(reservations=[held()]))

    output = limiter.run("inspect", BOT)
    printed = limiter.run("inspect", BOT, "--format", "json").json

    assert output.row("secrets", "…JvBY")
    assert output.row("daily", "20.00 USD/day", "97.5 %", "0.25")
    assert printed["key"]["key"] == BOT
    assert printed["open_reservations"] == [RESERVATION]
    (limit,) = printed["scopes"][0]["limits"]
    assert (limit["remaining_usd"], limit["overage_usd"]) == ("0.499999999", "0.25")


def test_a_scope_that_nobody_knows_is_not_found(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    output = limiter.run("inspect", "acme/nowhere", exit_code=5)

    assert "there is no scope acme/nowhere" in output.err
    assert sidecar.request("ListScopes").scope == "acme/nowhere"


def test_listing_holds_reads_pages_up_to_its_limit_and_says_that_there_are_more(
    limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    for _ in range(2):
        sidecar.answers(
            "ListReservations",
            pb.ListReservationsResponse(reservations=[held(), held()], next_page_token="acme 2"),
            pb.ListReservationsResponse(reservations=[held(), held()]),
        )

    limited = limiter.run("reservations", "list", "acme", "--limit", "3", "--format", "json")
    everything = limiter.run("reservations", "list", "--limit", "0", "--format", "json")

    assert len(limited.json) == 3
    assert "There are more than these 3" in limited.err
    assert len(everything.json) == 4
    assert everything.err == ""


def test_releasing_by_force_gives_its_reason(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    limiter.run("reservations", "release", RESERVATION, "--reason", "stuck")

    assert sidecar.request("ForceRelease") == pb.ReleaseRequest(reservation=RESERVATION, reason="stuck")


def test_the_ledgers_tail_is_a_line_for_each_row(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    refused = {"scope": "acme/search", "limit": "rpm", "reason": "REQUEST_RATE", "count": 3}
    sidecar.answers("ReadLedger", [row(1), row(2, kind="REFUSALS", flags=[], call={"refusals": [refused]})])

    output = limiter.run("ledger", "tail", "acme", "--last", "5")

    assert sidecar.request("ReadLedger") == pb.ReadLedgerRequest(scope="acme", last=5)
    heading, settlement, refusals = output.lines
    assert heading.split()[:4] == ["time", "kind", "key", "model"]
    assert settlement.split() == [
        *("2023-11-14", "22:13:20Z", "SETTLEMENT", BOT, "gpt-4o", "0.003250001", "9007199.254740993", "USAGE"),
        *("OVERAGE", "customer:initech"),
    ]
    assert refusals.split()[2:4] == ["REFUSALS", "acme"]
    assert refusals.endswith("3 × REQUEST_RATE at acme/search rpm")


def test_an_export_is_json_lines_with_exact_amounts(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ReadLedger", [row(1), row(2)])

    first, second = map(json.loads, limiter.run("ledger", "export").lines)

    assert (first["seq"], second["seq"]) == (1, 2)
    assert first["cost_nanousd"] == 9_007_199_254_740_993
    assert first["cost_usd"] == "9007199.254740993"
    assert sidecar.request("ReadLedger") == pb.ReadLedgerRequest()


def test_an_export_never_overwrites_a_file(limiter: CommandLine, sidecar: FakeSidecar, directory: Path) -> None:
    sidecar.answers("ReadLedger", [row(1)])

    limiter.run("ledger", "export", "--output", "rows.jsonl")
    limiter.run("ledger", "export", "--output", "rows.jsonl", exit_code=2)

    assert len((directory / "rows.jsonl").read_text().splitlines()) == 1
    assert len(sidecar.asked) == 1


def test_a_stream_that_breaks_off_is_no_success(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ReadLedger", [row(1), Fails(grpc.StatusCode.UNAVAILABLE, "the store is gone")])

    output = limiter.run("ledger", "export", exit_code=4)

    assert len(output.lines) == 1
    assert "the store is gone" in output.err


@pytest.mark.parametrize("words", [("inspect", "a/b/c/d"), ("inspect", "a//b")])
def test_what_is_no_scope_is_refused(words: tuple[str, ...], limiter: CommandLine, sidecar: FakeSidecar) -> None:
    limiter.run(*words, exit_code=2)

    assert not sidecar.asked

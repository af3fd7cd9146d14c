"""`limiter reconcile`: what it prints, how it ends, and that nothing is adjusted in silence."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from sqlalchemy import select

from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.schema import alerts
from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import Fails, FakeSidecar
from tests.ledger.rows import HOUR, NOVEMBER, Ledger

MAPPING = "columns: {time: at, model: model, cost: usd, request_id: id}\n"
COMMAND = ("reconcile", "--provider", "openai", "--file", "bill.csv", "--mapping", "map.yaml")


@pytest.fixture
def book(directory: Path) -> Ledger:
    """Books in the data directory: four calls, of a dollar each."""
    (directory / "data").mkdir(exist_ok=True)
    database = Database(sqlite_url(directory / "data" / "books.db"))
    database.migrate()
    book = Ledger()
    for i in range(4):
        book.row(cost=1_000_000_000, at_ms=NOVEMBER + i * HOUR, provider_request_id=f"id-{i}")
    book.book(Booking(database))
    database.close()
    (directory / "map.yaml").write_text(MAPPING)
    return book


@pytest.fixture
def service(book: Ledger, directory: Path) -> Iterator[FakeSidecar]:
    """A sidecar in the data directory of the books."""
    del book
    fake = FakeSidecar(directory / "data")
    fake.start()
    yield fake
    fake.close()


def bill(directory: Path, costs: Sequence[str]) -> None:
    """Write the bill: the cost of each call."""
    lines = [
        f"id-{i},{datetime.fromtimestamp((NOVEMBER + i * HOUR) / 1000, UTC).isoformat()},gpt-4o-2024-08-06,{cost}"
        for i, cost in enumerate(costs)
    ]
    (directory / "bill.csv").write_text("\n".join(["id,at,model,usd", *lines]) + "\n")


def told(directory: Path) -> list[str]:
    """The ids of the alerts in the books."""
    database = Database(sqlite_url(directory / "data" / "books.db"))
    with database.read() as connection:
        found = list(connection.execute(select(alerts.c.id)).scalars())
    database.close()
    return found


def test_a_bill_that_fits_ends_well_and_tells_nobody(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["1.000000"] * 4)
    output = limiter.run(*COMMAND)
    assert output.row("0.00 USD (+0.0000 %)")[0] == "drift"
    assert output.row("gpt-4o", "4.00") == ["gpt-4o-2024-08-06", "4.00", "4.00", "0.00", "+0.0000 %"]
    assert told(directory) == []


def test_drift_is_shown_with_its_rows_ends_with_1_and_is_an_alert(
    limiter: CommandLine, book: Ledger, directory: Path
) -> None:
    bill(directory, ["1", "1.1", "1", "1", "0.5"])
    output = limiter.run(*COMMAND, exit_code=1)
    assert output.row("price changed", "theirs is 1.1 of ours")[1:3] == ["+0.10", "1"]
    row = output.row("id-1", "bill.csv:3")
    assert row[2:4] == ["1.00", "1.10"]
    organization, _, number = book.made[1].member.partition("/")
    assert row[4] == f"organizations/{organization}/reservations/{number}"
    assert output.row("calls that only the bill has", "id-4")[2] == "0.50"
    (alert,) = told(directory)
    assert alert.startswith("books.drift:openai:")
    limiter.run(*COMMAND, exit_code=1)
    assert told(directory) == [alert]


def test_on_80_columns_no_name_hour_amount_or_id_is_folded_and_what_has_no_ids_fits(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    del service
    monkeypatch.setenv("COLUMNS", "80")
    bill(directory, ["1", "1.123456789", "1", "1", "0.5"])
    output = limiter.run(*ADJUST, stdin="n\n", exit_code=1)
    whole = ("2026-11-01 01:00Z", "gpt-4o-2024-08-06", "+0.123456789", "id-4", "bill.csv:3")
    organization, _, number = book.made[1].member.partition("/")
    for text in (*whole, f"organizations/{organization}/reservations/{number}"):
        assert text in output.out, text
    facts, why, models, buckets, *_ = output.out.split("\n\n")
    lines = f"{facts}\n{why}\n{models}\n{buckets}".splitlines()
    assert [line for line in lines if len(line) > 80] == []


def test_a_bill_of_another_name_is_told_what_the_books_call_it(
    limiter: CommandLine, book: Ledger, directory: Path
) -> None:
    del book
    bill(directory, ["1", "1", "1", "1"])
    command = [word if word != "openai" else "gateway" for word in COMMAND]
    said = limiter.run(*command, exit_code=1).err
    assert "no call of gateway in this time, but of openai" in said
    assert "--ours" in said
    assert "--ours" not in limiter.run(*command, "--ours", "openai").err


def test_a_tolerance_accepts_some_drift(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["1", "1.1", "1", "1"])
    limiter.run(*COMMAND, "--tolerance", "0.1")
    limiter.run(*COMMAND, "--tolerance", "0.099", exit_code=1)
    assert "--tolerance" in limiter.run(*COMMAND, "--tolerance", "much", exit_code=2).err


def test_json_has_every_amount_and_the_parts_add_up(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["1", "1.1", "1", "0.9", "0.5"])
    found = limiter.run(*COMMAND, "--format", "json", exit_code=1).json
    assert (found["ours_usd"], found["theirs_usd"], found["drift_nanousd"]) == ("4.00", "4.50", 500_000_000)
    assert sum(one["amount_nanousd"] for one in found["explanations"]) == found["drift_nanousd"]
    for cell in found["cells"]:
        assert sum(one["amount_nanousd"] for one in cell["explanations"]) == cell["drift_nanousd"]
    assert (found["matched_by"], found["matched_calls"], found["unexplained_nanousd"]) == ("request_id", 4, 0)


def test_csv_has_a_line_for_each_model_and_bucket(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["1", "1.1", "1", "1"])
    rows = list(csv.DictReader(io.StringIO(limiter.run(*COMMAND, "--format", "csv", exit_code=1).out)))
    assert [row["drift_usd"] for row in rows] == ["0.00", "0.10", "0.00", "0.00"]
    assert (rows[1]["start"], rows[1]["explanations"]) == ("2026-11-01 01:00Z", "price_changed 0.10")


def test_what_is_left_out_of_the_bill_is_said(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["1", "1", "1", "1", "-0.25"])
    output = limiter.run(*COMMAND)
    assert "left out: 1 credits, -0.25 USD" in output.out
    limiter.run(*COMMAND, "--count-credits", exit_code=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--provider", "nobody", "--file", "bill.csv"), "--mapping"),
        (("--provider", "openai", "--file", "none.csv"), "No such file"),
        (("--provider", "openai", "--file", "bill.csv"), "give OpenAI's export"),
        ((*COMMAND[1:], "--from", "2026-11-02", "--to", "2026-11-01"), "a time after --from"),
        ((*COMMAND[1:], "--adjust", "--charge-to", "acme"), "--charge-to"),
        ((*COMMAND[1:], "--adjust", "--charge-tag", "acme"), "--charge-tag"),
    ],
)
def test_a_mistake_is_a_usage_error(
    limiter: CommandLine, book: Ledger, directory: Path, words: tuple[str, ...], said: str
) -> None:
    del book
    bill(directory, ["1"])
    assert said in limiter.run("reconcile", *words, exit_code=2).err


# ------------------------------------------------------------------ adjusting

ADJUST = (*COMMAND, "--adjust", "--charge-to", "acme/search/bot", "--by", "ann")


def written(service: FakeSidecar) -> list[str]:
    """What the sidecar was asked to write."""
    return [asked.method for asked in service.asked if asked.method in {"AdjustReservation", "Charge"}]


def refused(reason: pb.Denial.Reason) -> pb.ReserveResponse:
    return pb.ReserveResponse(decision=pb.ReserveResponse.DENIED, denial=pb.Denial(reason=reason))


@pytest.mark.parametrize(
    ("answer", "exit_code", "said"),
    [
        (refused(pb.Denial.KEY_UNKNOWN), 5, "the key acme/search/bot is not known; name another one, or mint it with"),
        (refused(pb.Denial.KEY_DISABLED), 6, "the key acme/search/bot is disabled; name another one"),
        (refused(pb.Denial.KEY_EXPIRED), 6, "the key acme/search/bot is expired; name another one"),
        (Fails(grpc.StatusCode.PERMISSION_DENIED, "send api_key"), 7, "--charge-address"),
        (Fails(grpc.StatusCode.UNAVAILABLE, "no store"), 4, "no store"),
        (Fails(grpc.StatusCode.INVALID_ARGUMENT, "model: use at most"), 2, "model: use at most"),
        (Fails(grpc.StatusCode.INVALID_ARGUMENT, "tags.name: use 1 to 64"), 2, "tags.name: use 1 to 64"),
    ],
)
def test_a_charge_that_would_be_refused_is_found_before_any_row_is_written(
    limiter: CommandLine,
    book: Ledger,
    directory: Path,
    service: FakeSidecar,
    *,
    answer: object,
    exit_code: int,
    said: str,
) -> None:
    del book
    bill(directory, ["1", "1.1", "1", "1", "0.5"])  # a correction comes before the charge
    service.answers("Reserve", answer)
    assert said in limiter.run(*ADJUST, "--charge-tag", "customer:acme", "--yes", exit_code=exit_code).err
    assert written(service) == []
    asked = service.request("Reserve")
    assert (asked.key_id, asked.model, asked.dry_run) == ("acme/search/bot", "gpt-4o-2024-08-06", True)
    assert [(tag.name, tag.value) for tag in asked.tags] == [("customer", "acme")]


def test_a_limit_that_is_used_up_does_not_keep_a_charge_from_being_written(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar
) -> None:
    del book
    bill(directory, ["1", "1", "1", "1", "0.5"])
    service.answers("Reserve", refused(pb.Denial.SPEND_CEILING))
    limiter.run(*ADJUST, "--yes")
    assert written(service) == ["Charge"]


@pytest.mark.parametrize(
    ("costs", "words", "said"),
    [
        (["1", "1.1", "1", "1"], ("--reason", "x" * 257), "--reason"),
        (["1", "1.1", "1", "1", "10000000"], (), "a row books at most"),
    ],
)
def test_a_row_that_the_books_cannot_take_is_found_before_any_is_written(
    limiter: CommandLine,
    book: Ledger,
    directory: Path,
    service: FakeSidecar,
    *,
    costs: list[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    del book
    bill(directory, costs)
    assert said in limiter.run(*ADJUST, *words, "--yes", exit_code=2).err
    assert written(service) == []


def test_charges_carry_the_tags_that_are_said_and_show_them_before_the_question(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar
) -> None:
    del book
    bill(directory, ["1", "1", "1", "1", "0.5"])
    tags = ("--charge-tag", "customer:acme", "--charge-tag", "project:bill")
    output = limiter.run(*ADJUST, *tags, stdin="y\n")
    assert "1 charge, +0.50 USD, to acme/search/bot, customer:acme, project:bill" in output.out
    charged = service.request("Charge")
    assert [(tag.name, tag.value) for tag in charged.tags] == [("customer", "acme"), ("project", "bill")]
    (step,) = limiter.run(*ADJUST, *tags, "--format", "json", exit_code=1).json["plan"]
    assert (step["charge_to"], step["tags"]) == ("acme/search/bot", [["customer", "acme"], ["project", "bill"]])
    assert "without tags: for no customer" in limiter.run(*ADJUST, stdin="n\n", exit_code=1).out


def test_adjusting_shows_the_rows_and_asks_first(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar
) -> None:
    del book
    bill(directory, ["1", "1.1", "1", "1", "0.5"])
    output = limiter.run(*ADJUST, stdin="n\n", exit_code=1)
    assert output.row("adjust", "1.10")[3:5] == ["1.00", "1.10"]
    assert output.row("charge ", "id-4", "0.00")[3:5] == ["0.00", "0.50"]
    assert "1 correction, +0.10 USD" in output.out
    assert "nothing was written" in output.err
    assert written(service) == []


def test_adjusting_corrects_calls_and_charges_what_only_the_bill_has(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar
) -> None:
    bill(directory, ["1", "1.1", "1", "1", "0.5"])
    output = limiter.run(*ADJUST, stdin="y\n")
    assert "1 call corrected, 1 charge written; the books changed by +0.60 USD" in output.err
    adjusted = service.request("AdjustReservation")
    organization, _, reservation = book.made[1].member.partition("/")
    assert adjusted.reservation == f"organizations/{organization}/reservations/{reservation}"
    assert (adjusted.cost_nanousd, adjusted.by, adjusted.reason) == (1_100_000_000, "ann", "the bill of openai")
    charged = service.request("Charge")
    assert (charged.key_id, charged.cost_nanousd, charged.provider_request_id) == (
        "acme/search/bot", 500_000_000, "id-4",
    )  # fmt: skip
    assert charged.occurred_at.seconds * 1000 == NOVEMBER + 4 * HOUR
    limiter.run(*ADJUST, "--yes")
    assert service.requests("Charge")[1].request_id == charged.request_id


def test_charges_without_a_key_are_left_out_and_drift_remains(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar
) -> None:
    del book
    bill(directory, ["1", "1", "1", "1", "0.5"])
    output = limiter.run(*COMMAND, "--adjust", "--yes", exit_code=1)
    assert "1 charge left out: say with --charge-to" in output.err
    assert service.asked == []


def test_a_call_that_cannot_be_corrected_is_told_and_the_others_go_on(
    limiter: CommandLine, book: Ledger, directory: Path, service: FakeSidecar
) -> None:
    del book
    bill(directory, ["2", "2", "1", "1"])
    service.answers("AdjustReservation", Fails(grpc.StatusCode.NOT_FOUND, "no such reservation"))
    output = limiter.run(*ADJUST, "--yes", exit_code=1)
    assert "no such reservation" in output.err
    assert len(service.requests("AdjustReservation")) == 2


def test_without_a_sidecar_nothing_is_adjusted(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["2", "1", "1", "1"])
    assert "no sidecar" in limiter.run(*ADJUST, "--yes", exit_code=4).err


def test_a_plan_is_in_the_json(limiter: CommandLine, book: Ledger, directory: Path) -> None:
    del book
    bill(directory, ["2", "1", "1", "1"])
    found = json.loads(limiter.run(*ADJUST, "--format", "json", exit_code=1).out)
    (step,) = found["plan"]
    assert (step["kind"], step["before_usd"], step["after_usd"]) == ("adjust", "1.00", "2.00")

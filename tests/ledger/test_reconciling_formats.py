"""A hundredth of the calls withheld or repriced is found and explained in every provider's bill, with usage or without.

Without usage, by what our rows tell: other prices, holds and estimates, and whole tokens at our price.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from limiter.domain.reservations import Basis, State
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.reconciling.bills import Bill
from limiter.ledger.reconciling.costs import COARSE
from limiter.ledger.reconciling.results import Kind
from limiter.ledger.reconciling.run import drift_of
from tests.ledger.provider_calls import PRICES, Call, booked, by_kind, calls_of, hundredth, settled
from tests.ledger.rows import HOUR, Ledger

DAY = 24 * HOUR
#: What a provider bills for: tokens by kind.
PARTS = ("input", "output")


class Sum(NamedTuple):
    """What a provider bills and counts for one kind of token of a model in a bucket."""

    start_ms: int
    model: str
    part: str
    usd: Decimal
    calls: int
    tokens: int


def sums(calls: list[Call], width_ms: int) -> Iterator[Sum]:
    """Add up by bucket, model and kind of token, exactly."""
    found: defaultdict[tuple[int, str, str], list[Any]] = defaultdict(lambda: [Decimal(0), 0, 0])
    for call in calls:
        rates = dict(zip(PARTS, PRICES[call.model], strict=True))
        tokens = {"input": call.input, "output": call.output}
        listed = sum(rates[part] * tokens[part] for part in PARTS)
        for part in PARTS:
            into = found[call.at_ms // width_ms * width_ms, call.model, part]
            for i, more in enumerate((Decimal(rates[part] * tokens[part] * call.nanousd) / listed, 1, tokens[part])):
                into[i] += more
    for (start_ms, model, part), (nanousd, count, tokens_) in sorted(found.items()):
        yield Sum(start_ms, model, part, round(nanousd.scaleb(-9), 10), count, tokens_)


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def page(path: Path, buckets: dict[int, list[Any]], names: tuple[str, str], time: Callable[[int], object]) -> Path:
    """Write a page of an API that has daily buckets."""
    data = [
        {names[0]: time(start), names[1]: time(start + DAY), "results": results}
        for start, results in sorted(buckets.items())
    ]
    path.write_text(json.dumps({"data": data, "has_more": False}))
    return path


def openai(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    costs: defaultdict[int, list[Any]] = defaultdict(list)
    used: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for one in sums(calls, DAY):
        amount = {"value": float(one.usd), "currency": "usd"}
        costs[one.start_ms].append({"amount": amount, "line_item": f"{one.model}-2024-08-06, {one.part}"})
        result = used[one.start_ms].setdefault(one.model, {"model": one.model, "num_model_requests": one.calls})
        result[f"{one.part}_tokens"] = one.tokens
    names, seconds = ("start_time", "end_time"), lambda at_ms: at_ms // 1000
    files = [page(directory / "costs.json", costs, names, seconds)]
    if usage:
        counted = {start: list(models.values()) for start, models in used.items()}
        files.append(page(directory / "usage.json", counted, names, seconds))
    return Bill("openai", files)


def anthropic(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    costs: defaultdict[int, list[Any]] = defaultdict(list)
    used: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    kinds = {"input": "uncached_input_tokens", "output": "output_tokens"}
    for one in sums(calls, DAY):
        line = {"amount": f"{one.usd * 100:f}", "currency": "USD", "model": one.model, "token_type": kinds[one.part]}
        costs[one.start_ms].append(line)
        used[one.start_ms].setdefault(one.model, {"model": one.model})[kinds[one.part]] = one.tokens
    names = ("starting_at", "ending_at")
    files = [page(directory / "costs.json", costs, names, iso)]
    if usage:
        counted = {start: list(models.values()) for start, models in used.items()}
        files.append(page(directory / "usage.json", counted, names, iso))
    return Bill("anthropic", files)


def anthropic_console(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    assert not usage
    kinds = {"input": "input_no_cache", "output": "output"}
    rows = [
        {
            "usage_date_utc": iso(one.start_ms)[:10],
            "model": one.model,
            "token_type": kinds[one.part],
            "cost_usd": one.usd,
        }
        for one in sums(calls, DAY)
    ]
    return Bill("anthropic", [write_rows(directory / "console.csv", rows)])


def vertex(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    rows = [
        {
            "service_description": "Vertex AI",
            "sku_description": f"{NAMES['vertex'][one.model]} Text {one.part.title()} - Predictions",
            "usage_start_time": iso(one.start_ms), "cost": one.usd, "currency": "USD",
        } | ({"usage_amount": one.tokens, "usage_unit": "count"} if usage else {})
        for one in sums(calls, HOUR)
    ]  # fmt: skip
    return Bill("vertex", [write_rows(directory / "vertex.csv", rows)])


def aws(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    rows = [
        {
            "line_item_usage_start_date": iso(one.start_ms), "line_item_product_code": "AmazonBedrock",
            "line_item_usage_type": f"USE1-{NAMES['aws'][one.model]}-{one.part}-tokens",
            "line_item_unblended_cost": f"{one.usd:f}",
        } | ({"line_item_usage_amount": Decimal(one.tokens) / 1000, "pricing_unit": "1K tokens"} if usage else {})
        for one in sums(calls, HOUR)
    ]  # fmt: skip
    return Bill("aws", [write_rows(directory / "cur.csv", rows)])


def mapped(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    """A model's costs by hour, all kinds of token in one line."""
    found: defaultdict[tuple[int, str], dict[str, Any]] = defaultdict(lambda: defaultdict(Decimal))
    for one in sums(calls, HOUR):
        line = found[one.start_ms, one.model]
        line["cost"] += one.usd
        line[one.part] = one.tokens
    tokens = ", input_tokens: input, output_tokens: output" if usage else ""
    (directory / "map.yaml").write_text(f"columns: {{time: at, model: model, cost: cost{tokens}}}\nbucket: hour\n")
    rows = [{"at": iso(at_ms), "model": model, **line} for (at_ms, model), line in found.items()]
    return Bill("acme", [write_rows(directory / "bill.csv", rows)], directory / "map.yaml")


def openrouter(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    names = ("tokens_prompt", "tokens_completion") if usage else ("a", "b")
    rows = [
        {"generation_id": call.id, "created_at": iso(call.at_ms), "cost_total": Decimal(call.nanousd).scaleb(-9),
         "model_permaslug": call.model, names[0]: call.input, names[1]: call.output}
        for call in calls
    ]  # fmt: skip
    return Bill("openrouter", [write_rows(directory / "activity.csv", rows)])


def litellm(directory: Path, calls: list[Call], *, usage: bool) -> Bill:
    names = ("prompt_tokens", "completion_tokens") if usage else ("a", "b")
    lines = [
        {"request_id": call.id, "startTime": iso(call.at_ms), "spend": call.nanousd / 10**9, "model": call.model,
         names[0]: call.input, names[1]: call.output}
        for call in calls
    ]  # fmt: skip
    (directory / "spend.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return Bill("litellm", [directory / "spend.jsonl"])


#: What the books call the models, where the provider has names of its own.
NAMES = {
    "vertex": {"gpt-4o": "Gemini 2.5 Pro", "gpt-4o-mini": "Gemini 2.5 Flash"},
    "aws": {"gpt-4o": "Claude4.5Sonnet", "gpt-4o-mini": "Claude4.5Haiku"},
}
_ALONE = ((openai, "openai"), (anthropic, "anthropic"), (vertex, "vertex"), (aws, "aws"), (mapped, "acme"))
_LOGS = ((openrouter, "openrouter"), (litellm, "litellm"))
FORMATS = [
    (anthropic_console, "anthropic", False),
    *((make, provider, usage) for make, provider in (*_ALONE, *_LOGS) for usage in (False, True)),
]
EVERY_FORMAT = pytest.mark.parametrize(
    ("make", "provider", "usage"),
    FORMATS,
    ids=[f"{make.__name__}-{'usage' if usage else 'costs'}" for make, _, usage in FORMATS],
)
Make = Callable[..., Bill]


def written(calls: list[Call], booking: Booking, provider: str) -> Ledger:
    """Book the calls under the names of a provider."""
    book = Ledger()
    for call in calls:
        model = NAMES.get(provider, {}).get(call.model, call.model)
        settled(book, call, provider=provider, model=model, served=model)
    book.book(booking)
    return book


@pytest.fixture
def calls() -> list[Call]:
    """Calls of thirty hours."""
    return calls_of(1500)


@EVERY_FORMAT
def test_a_bill_of_the_same_calls_has_no_drift(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, *, make: Make, provider: str, usage: bool
) -> None:
    written(calls, booking, provider)
    drift = drift_of(database, make(tmp_path, calls, usage=usage))
    assert not by_kind(drift)
    assert not drift.beyond(0)


@EVERY_FORMAT
def test_a_hundredth_of_the_calls_withheld_from_the_books_is_found_and_explained(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, *, make: Make, provider: str, usage: bool
) -> None:
    gone = hundredth(calls)
    written([call for call in calls if call not in gone], booking, provider)
    drift = drift_of(database, make(tmp_path, calls, usage=usage))
    assert by_kind(drift) == {Kind.ONLY_THEIRS: sum(call.nanousd for call in gone)}


@EVERY_FORMAT
def test_a_hundredth_of_the_calls_withheld_from_the_bill_is_found_and_explained(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, *, make: Make, provider: str, usage: bool
) -> None:
    gone = hundredth(calls)
    written(calls, booking, provider)
    drift = drift_of(database, make(tmp_path, [call for call in calls if call not in gone], usage=usage))
    assert by_kind(drift) == {Kind.ONLY_OURS: -sum(call.nanousd for call in gone)}


@EVERY_FORMAT
def test_a_hundredth_of_the_calls_repriced_is_found_and_explained(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, *, make: Make, provider: str, usage: bool
) -> None:
    dearer = set(hundredth(calls))
    written(calls, booking, provider)
    billed = [replace(call, nanousd=call.nanousd * 126 // 100) if call in dearer else call for call in calls]
    drift = drift_of(database, make(tmp_path, billed, usage=usage))
    assert by_kind(drift) == {Kind.PRICE: sum(call.nanousd * 126 // 100 - call.nanousd for call in dearer)}


# ------------------------------------------------------------------ costs alone: what our rows tell


def kinds_and_notes(calls: list[Call], database: Database, directory: Path) -> dict[tuple[Kind, str], tuple[int, int]]:
    """What OpenAI's costs of these calls are explained by: nano-USD and calls."""
    drift = drift_of(database, openai(directory, calls, usage=False))
    by_kind(drift)
    return {(one.kind, one.note): (one.nanousd, one.calls) for one in drift.explanations() if one.nanousd}


def test_calls_booked_at_a_former_price_are_found_with_both_prices(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    late = [call for call in hundredth(calls) if call.model == "gpt-4o"]
    book = Ledger()
    for call in calls:
        if call in late:
            settled(book, call, rates=(3_000, 12_000), cost=call.input * 3_000 + call.output * 12_000)
        else:
            settled(book, call)
    book.book(booking)
    shift = -sum(call.input * 500 + call.output * 2_000 for call in late)
    assert kinds_and_notes(calls, database, tmp_path) == {
        (Kind.PRICE, "booked at 3 and 12 USD per million, billed at 2.5 and 10 USD per million"): (shift, len(late))
    }


@pytest.mark.parametrize(
    ("basis", "state", "times", "kind"),
    [
        (Basis.EXPIRED, State.EXPIRED, Decimal(3), Kind.EXPIRED),
        (Basis.ESTIMATED, State.SETTLED, Decimal(3), Kind.ESTIMATED),
        (Basis.ESTIMATED, State.SETTLED, Decimal("0.75"), Kind.ESTIMATED),
    ],
)
def test_holds_that_nobody_settled_and_estimates_explain_what_they_were_off(  # the test's parameters
    calls: list[Call],
    database: Database,
    booking: Booking,
    tmp_path: Path,
    *,
    basis: Basis,
    state: State,
    times: Decimal,
    kind: Kind,
) -> None:
    lost, *rest = calls
    book = booked(rest, booking)
    settled(book, lost, basis=basis, state=state, cost=int(times * lost.nanousd))
    book.book(booking)
    assert kinds_and_notes(calls, database, tmp_path) == {(kind, ""): (lost.nanousd - int(times * lost.nanousd), 1)}


def test_one_day_at_another_price_is_told_by_the_same_ratio_of_input_and_output(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    booked(calls, booking)
    dearer = [replace(call, nanousd=call.nanousd * 2) if call.model == "gpt-4o" else call for call in calls]
    day = [call for call in dearer if call.at_ms // DAY == calls[0].at_ms // DAY]
    assert {kind for kind, _ in kinds_and_notes(day, database, tmp_path)} == {Kind.PRICE}


def test_what_a_coarse_bill_hides_is_unexplained_with_its_amount(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    booked(calls, booking)
    gone = max(calls, key=lambda call: call.nanousd)
    mapped(tmp_path, [call for call in calls if call is not gone], usage=False)
    rows = list(csv.DictReader((tmp_path / "bill.csv").read_text().splitlines()))
    write_rows(tmp_path / "bill.csv", [row | {"cost": round(Decimal(row["cost"]), 3)} for row in rows])
    drift = drift_of(database, Bill("openai", [tmp_path / "bill.csv"], tmp_path / "map.yaml"))
    (one,) = [one for one in drift.explanations() if one.kind is Kind.UNEXPLAINED]
    assert one.note == COARSE
    assert abs(one.nanousd + gone.nanousd) <= 500_000

"""Calls as a provider knows them, for tests that hold books against bills."""

from __future__ import annotations

import csv
import gzip
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from limiter.ledger.booking import Booking
from limiter.ledger.reconciling.results import Drift, Kind
from tests.ledger.rows import HOUR, NOVEMBER, Ledger

ROOT = Path(__file__).parent.parent.parent
TRACE = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "azure_llm_code_2023.csv.gz"
#: nano-USD per token: input, output; and as rows have them.
PRICES = {"gpt-4o": (2_500, 10_000), "gpt-4o-mini": (150, 600)}
SERVED = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}
MILLION = Decimal(1000)


@dataclass(frozen=True)
class Call:
    """A call as the provider knows it."""

    id: str
    model: str
    at_ms: int
    took_ms: int
    input: int
    output: int
    nanousd: int


def calls_of(count: int) -> list[Call]:
    """Calls of a production trace, over some hours; made up where the trace is absent."""
    random_ = random.Random(5)
    if TRACE.exists():
        with gzip.open(TRACE, "rt") as text:
            rows = list(csv.DictReader(text))[:count]
        sizes = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows]
    else:
        sizes = [(random_.randint(100, 8000), random_.randint(1, 500)) for _ in range(count)]
    made = []
    for i, (input_, output) in enumerate(sizes):
        model = "gpt-4o" if i % 3 else "gpt-4o-mini"
        rates = PRICES[model]
        cost = input_ * rates[0] + output * rates[1]
        at_ms = NOVEMBER + 30 * HOUR * i // len(sizes)
        made.append(Call(f"chatcmpl-{i}", model, at_ms, random_.randint(200, 30_000), input_, output, cost))
    return made


def booked(calls: list[Call], booking: Booking) -> Ledger:
    """Write calls as the store's rows."""
    book = Ledger()
    for call in calls:
        settled(book, call)
    book.book(booking)
    return book


def settled(
    book: Ledger,
    call: Call,
    *,
    rates: tuple[int, int] | None = None,
    served: str = "",
    **changes: Any,  # noqa: ANN401 - fields of a row
) -> None:
    """Make the row of a call, by default at its price and of the model that OpenAI serves."""
    rates = rates or PRICES[call.model]
    price = {"input_per_million": str(rates[0] / MILLION), "output_per_million": str(rates[1] / MILLION)}
    given: dict[str, Any] = {
        "model": call.model,
        "cost": call.nanousd,
        "at_ms": call.at_ms,
        "took_ms": call.took_ms,
        "usage": {"input_tokens": call.input, "output_tokens": call.output},
        "provider_request_id": call.id,
        "end": {"model_served": served or SERVED[call.model], "price": price, "price_version": "v"},
    }
    book.row(**(given | changes))


def by_kind(drift: Drift) -> dict[Kind, int]:
    """What each kind explains; together, the whole drift."""
    found: defaultdict[Kind, int] = defaultdict(int)
    for one in drift.explanations():
        found[one.kind] += one.nanousd
    assert sum(found.values()) == drift.drift
    for cell in drift.cells:
        assert sum(one.nanousd for one in cell.explanations) == cell.drift, cell
    return {kind: amount for kind, amount in found.items() if amount}


def hundredth(calls: list[Call]) -> list[Call]:
    return random.Random(7).sample(calls, len(calls) // 100)

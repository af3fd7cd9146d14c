"""`python -m bench.sizing`: what it takes to size a hold from a provider's own request; prints a table, writes JSON.

One number is one call of everything between the bytes of a request and its hold in money: reading the request, finding
the price, and the hold. No sidecar, no store, one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.machine import description
from bench.report import Spread, shown, spread_of
from bench.run import console_for_people, write
from limiter.domain.calls import BODY_MAX_BYTES, ProviderRequest
from limiter.pricing.book import PriceBook
from limiter.pricing.reading import read_request

#: Bytes of the bodies; the last is the largest that is read.
BODIES = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20, BODY_MAX_BYTES)
#: Models in the price file, for a body of 4 kB.
MODELS = (10, 10_000)
_CHAT = 4 << 10
#: What is wanted of a chat body of 4 kB, at any number of models.
GOAL_US = 30.0

_AT_MS = 1_760_000_000_000
_OUTPUT = 500
_HOST, _PATH = "api.openai.com", "/v1/chat/completions"
_WORDS = "The quick brown fox jumps over the lazy dog and says hello to all of them. "


@dataclass(frozen=True, slots=True)
class Sized:
    """How long it took for bodies of so many bytes, with so many models of one's own in the price book."""

    body_bytes: int
    models: int
    us: Spread

    @property
    def ns_per_byte(self) -> float:
        """Grows no further where the time is linear in the body."""
        return self.us.median * 1000 / self.body_bytes

    @property
    def met(self) -> bool | None:
        """Whether the goal is; None: there is none."""
        return self.us.median <= GOAL_US if self.body_bytes <= _CHAT else None


def main(arguments: list[str] | None = None) -> None:
    """Measure as the arguments say."""
    options = _parser().parse_args(arguments)
    started = datetime.now(UTC)
    results = measure(rounds=1 if options.quick else options.rounds, seconds=0.02 if options.quick else options.seconds)
    console = console_for_people()
    show(console, results)
    figures = {
        "started_at": started.isoformat(timespec="seconds"),
        "limiter": version("limiter"),
        "machine": description(),
        **as_json(results),
    }
    file = write(options.json, figures, name="sizing.json")
    console.print(f"written: {file}", highlight=False, soft_wrap=True)


def measure(*, rounds: int, seconds: float) -> list[Sized]:
    """Measure bodies of all sizes, and the usual one in price books of all sizes; each for so many seconds a round."""
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as directory:
        books = {models: _book(Path(directory) / f"prices-{models}.yaml", models) for models in MODELS}
    wanted = [(size, MODELS[0]) for size in BODIES] + [(_CHAT, models) for models in MODELS[1:]]
    calls = {(size, models): _sizing(chat(size), books[models]) for size, models in wanted}
    took: dict[tuple[int, int], list[float]] = {case: [] for case in wanted}
    for _ in range(rounds):
        for case, call in calls.items():
            took[case].append(_us(call, seconds))
    found = [(case, spread_of(values)) for case, values in took.items()]
    return [Sized(size, models, spread) for (size, models), spread in found if spread is not None]


def chat(size: int) -> bytes:
    """A chat of `size` bytes: messages of up to 400 words."""
    request = {"model": "own-model-7", "messages": [], "max_completion_tokens": _OUTPUT, "stream": True}
    frame = len(json.dumps(request, separators=(",", ":")))
    turns = max(1, min(200, size // 400))
    room = (size - frame) // turns - len('{"role":"assistant","content":""},')
    text = (_WORDS * (room // len(_WORDS) + 1))[:room]
    roles = ("user", "assistant")
    request["messages"] = [{"role": roles[i % 2], "content": text} for i in range(turns)]
    body = json.dumps(request, separators=(",", ":")).encode()
    return body[:-1] + b" " * (size - len(body)) + b"}"


def _book(path: Path, models: int) -> PriceBook:
    prices = "input_per_million: 2.5, cache_read_per_million: 0.25, output_per_million: 10"
    lines = [f"  - {{provider: openai, match: own-model-{i}, {prices}}}" for i in range(models)]
    path.write_text("\n".join(["version: 1", "models:", *lines, ""]), "utf-8")
    return PriceBook.load(path)


def _sizing(body: bytes, book: PriceBook) -> Callable[[], int]:
    request = ProviderRequest(_HOST, _PATH, body)

    def size() -> int:
        reading = read_request(request)
        price = book.find(provider=reading.provider, model=reading.model, at_ms=_AT_MS, context=reading.context)
        if price is None:
            raise LookupError(reading.model)
        bound = reading.size.safe
        return price.hold_nanousd(
            input_tokens=bound.input_tokens, max_output_tokens=reading.max_output_tokens or 0, units=bound.units
        )

    size()
    return size


def _us(call: Callable[[], int], seconds: float) -> float:
    """The median of batches that take about a millisecond or one call each: what other programs take is no part."""
    began = time.perf_counter()
    call()
    once = max(time.perf_counter() - began, 1e-7)
    batch = max(1, int(0.001 / once))
    took: list[float] = []
    until = time.perf_counter() + seconds
    while not took or time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(batch):
            call()
        took.append((time.perf_counter() - began) / batch)
    return statistics.median(took) * 1e6


def as_json(results: list[Sized]) -> dict[str, object]:
    """The figures, ready for JSON."""
    return {
        "goal_us": GOAL_US,
        "sizing": [{**asdict(one), "ns_per_byte": one.ns_per_byte, "met": one.met} for one in results],
    }


def show(console: Console, results: list[Sized]) -> None:
    """Print the table."""
    table = Table(
        title=f"sizing a hold: medians (least–most) of the rounds; wanted: {GOAL_US:g} µs up to {_CHAT // 1024} kB",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("body, kB", "models in the price file", "µs", "ns per byte", ""):
        table.add_column(heading, justify="right")
    for one in results:
        table.add_row(
            f"{one.body_bytes / 1024:,.0f}",
            f"{one.models:,}",
            shown(one.us, ",.1f"),
            f"{one.ns_per_byte:.2f}",
            "" if one.met is None else "met" if one.met else "missed",
        )
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sizing",
        description="Measures how long it takes to size a hold from a provider's request.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it works")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one run (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="where to write the figures (bench/results/sizing.json)"
    )
    return parser


if __name__ == "__main__":
    main()

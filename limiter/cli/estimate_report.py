"""How an estimate of recorded calls looks: tables for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table

from limiter.cli.estimate_call import End, Finding
from limiter.cli.estimate_tally import LISTED, Group, Listing, Tally
from limiter.cli.output import table
from limiter.domain.money import format_usd

_PERCENTS: Final = (50, 90, 99)


def as_json(tally: Tally, *, mode: str, price_version: str) -> dict[str, Any]:
    """All that is known of the calls; amounts in nano-USD."""
    return {
        **numbers(tally.total),
        "mode": mode,
        "price_version": price_version,
        "by_provider": {name: numbers(group) for name, group in sorted(tally.providers.items())},
        "growth": tally.with_growth.calls,
        "without_growth": numbers(tally.without_growth) | {"refused": tally.without_growth.ends[End.REFUSED]},
        "with_growth": numbers(tally.with_growth) | {"refused": tally.with_growth.ends[End.REFUSED]},
        **{name: [_one(*each) for each in listing.told] for name, listing in tally.listings.items()},
        "not_listed": {
            name: listing.count - len(listing.told)
            for name, listing in tally.listings.items()
            if listing.count > len(listing.told)
        },
    }


def numbers(group: Group) -> dict[str, Any]:
    """How many calls came how far, and how many times their cost their holds were."""
    return {
        "calls": group.calls,
        "answered": group.answered,
        "usage_read": group.usage_read,
        "priced": group.priced,
        "covered": group.covered,
        "uncovered": group.uncovered,
        **{f"ratio_p{at}": ratio for at, ratio in zip(_PERCENTS, group.ratios_at(*_PERCENTS), strict=True)},
    }


def _one(found: Finding, reason: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"line": found.line, "provider": found.provider, "model": found.model}
    if found.hold is not None:
        facts["hold_nanousd"] = found.hold
    if found.actual is not None:
        facts["actual_nanousd"] = found.actual
    return facts | {"reason": reason}


def parts(tally: Tally, *, mode: str, price_version: str) -> Iterator[RenderableType]:
    """Yield what people read: the table by provider, and what went wrong by reason."""
    yield _providers(tally)
    for name, listing in tally.listings.items():
        if listing.told:
            yield ""
            yield _uncovered(listing) if name == LISTED[End.UNCOVERED] else _reasons(name, listing)
    yield ""
    total = tally.total
    judged = total.covered + total.uncovered
    covered = f"{total.covered} of {judged} calls covered{_share(total.covered, judged)}"
    refused = f", {total.ends[End.REFUSED]} refused" if total.ends[End.REFUSED] else ""
    yield f"mode {mode}, prices {price_version}: {covered}{refused}"


def _share(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""


def _providers(tally: Tally) -> Table:
    columns = ("provider", "calls>", "answered>", "read>", "priced>", "refused>", "covered>", "uncovered>")
    rows = [(name, group) for name, group in sorted(tally.providers.items())]
    rows.append(("all", tally.total))
    if tally.with_growth.calls:
        rows += [("  without growth", tally.without_growth), ("  with growth", tally.with_growth)]
    return table(
        (*columns, "hold/cost p50>", "p90>", "p99>"), (row(name, _counts(group), group) for name, group in rows)
    )


def _counts(group: Group) -> tuple[int, ...]:
    refused = group.ends[End.REFUSED]
    return group.calls, group.answered, group.usage_read, group.priced, refused, group.covered, group.uncovered


def row(name: str, counts: Iterable[int], group: Group) -> list[str]:
    """The cells of a table: a name, counts, and how large holds were."""
    ratios = ("" if ratio is None else f"{ratio:,.1f}" for ratio in group.ratios_at(*_PERCENTS))
    return [name, *map(str, counts), *ratios]


def _uncovered(listing: Listing) -> Table:
    return table(
        ("line>", "provider", "model", "hold USD>", "cost USD>", "reason"),
        (
            [str(one.line), one.provider, one.model, _usd(one.hold), _usd(one.actual), reason]
            for one, reason in listing.told
        ),
        title=f"uncovered ({listing.count})",
    )


def _reasons(name: str, listing: Listing) -> Table:
    """Calls with why they are told; those with the same reason share a row."""
    folded: dict[tuple[str, str], list[int]] = {}
    for found, reason in listing.told:
        folded.setdefault((found.provider, reason), []).append(found.line)
    return table(
        ("calls>", "provider", "lines", "reason"),
        ([str(len(lines)), provider, _ranges(lines), reason] for (provider, reason), lines in folded.items()),
        title=f"{name} ({listing.count})",
    )


def _usd(nanousd: int | None) -> str:
    return "" if nanousd is None else format_usd(nanousd)


def _ranges(lines: list[int]) -> str:
    """Write numbers, those that follow each other as one: 7, 9-12."""
    ranges: list[list[int]] = []
    for line in lines:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)

"""What a proposed policy would have refused: for people, and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, Final

from rich.console import RenderableType

from limiter.cli.output import table, usd
from limiter.cli.plain import with_usd
from limiter.domain.limits import Limit, LimitKind
from limiter.domain.money import format_usd
from limiter.domain.verdicts import Place
from limiter.ledger.periods import local
from limiter.service.what_if_tally import Split, Sum, Tally, Use

#: Lines of a table, and keys that are named.
_SHOWN: Final = 20
_KEYS_NAMED: Final = 100
_TOP: Final = 10

_SHADOW: Final = " (shadow)"

_ALWAYS: Final = (
    "calls that were refused at the time are not in the books, and so not in this answer",
    "a refused call counts as not made; that its caller would have tried again, or gone another way, is not considered",
    "holds, tokens and costs are those of the time: another policy may have sized holds in another way",
    "slots are free and rate limits full at the beginning; calls that were open then are spend of before",
)


@dataclass(slots=True)
class Played:
    """A replay: of which calls, under which policy, and what came of it."""

    policy: str
    start_ms: int
    end_ms: int
    zone: tzinfo
    organizations: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to replay."""
        return not (self.tally.calls or self.tally.charges)

    def at(self, at_ms: int) -> str:
        """A time in the zone, with its offset."""
        return local(at_ms, self.zone).isoformat(timespec="seconds")

    def clock(self, at_ms: int) -> str:
        """The wall clock's reading in the zone."""
        return local(at_ms, self.zone).strftime("%Y-%m-%d %H:%M:%S")

    @property
    def places(self) -> list[Place]:
        """Every limit that a call met: those that would have refused most money first, then the fullest."""
        tally = self.tally

        def order(place: Place) -> tuple[Any, ...]:
            refused = tally.limits[place].total if place in tally.limits else Sum()
            return -refused.cost, -refused.calls, -_share(tally.uses[place]), place.scope, place.limit.id

        return sorted(tally.uses, key=order)

    @property
    def notes(self) -> list[str]:
        """What has to be known of the answer."""
        tally = self.tally
        notes = [] if self.is_empty else list(_ALWAYS)
        if tally.opening:
            notes.append(
                "spend limits start from what the books say was spent in their windows before the beginning:"
                f" {usd(tally.opening)} in all"
            )
        if tally.charges:
            notes.append(f"charges, which had no hold, are never refused: {tally.charges:,} of the calls")
        if tally.unnamed_keys:
            notes.append(
                f"{_counted(tally.unnamed_keys, 'key')} that the policy does not name had the key_defaults of their"
                " teams; limits of their own, with which they were minted, are not in the books"
            )
        if self.left_out:
            names = ", ".join(f"{name} ({count:,})" for name, count in sorted(self.left_out.items())[:_TOP])
            more = ", …" if len(self.left_out) > _TOP else ""
            notes.append(f"calls of organizations that the policy does not name are left out: {names}{more}")
        return notes


def as_json(played: Played) -> dict[str, Any]:
    """All that is known of a replay."""
    tally = played.tally
    facts = {
        "policy": played.policy,
        "from": played.at(played.start_ms),
        "to": played.at(played.end_ms),
        "organizations": list(played.organizations),
        "calls": tally.calls,
        "charges": tally.charges,
        "cost_nanousd": tally.cost,
        "opening_nanousd": tally.opening,
    }
    return {
        **with_usd(facts),
        "refused": _split(played, tally.refused),
        "limits": [_limit(played, place) for place in played.places],
        "refused_without_limit": [
            {"scope": scope.path, **_split(played, split)} for scope, split in sorted(tally.elsewhere.items())
        ],
        "keys_not_named": [key.path for key in sorted(tally.unnamed_keys)[:_KEYS_NAMED]],
        "organizations_left_out": dict(sorted(played.left_out.items())),
        "notes": played.notes,
    }


def _limit(played: Played, place: Place) -> dict[str, Any]:
    limit, use = place.limit, played.tally.uses[place]
    unit = "_nanousd" if limit.kind is LimitKind.SPEND else ""
    found = (played.tally.shadowed if limit.shadow else played.tally.limits).get(place, Split())
    facts = {
        "scope": place.scope.path,
        "limit": limit.id,
        "kind": limit.kind.name,
        "window": limit.per or None,
        "shadow": limit.shadow,
        f"amount{unit}": limit.amount,
        "burst": limit.burst or None,
        f"highest{unit}": use.most,
        "highest_millionths": _share(use),
        "highest_at": played.at(use.at_ms) if use.at_ms else None,
    }
    return {**with_usd(facts), "shadowed" if limit.shadow else "refused": _split(played, found)}


def _split(played: Played, split: Split) -> dict[str, Any]:
    parts = (("reason", split.reasons), ("customer", split.customers), ("model", split.models))
    return {
        **_sum(played, split.total),
        **{f"{name}s": [{name: value, **_sum(played, one)} for value, one in _sorted(found)] for name, found in parts},
    }


def _sum(played: Played, one: Sum) -> dict[str, Any]:
    facts = {"calls": one.calls, "cost_nanousd": one.cost, "first_at": played.at(one.first_ms) if one.calls else None}
    return with_usd(facts)


def parts(played: Played) -> Iterator[RenderableType]:
    """Yield what people read."""
    tally = played.tally
    start, end = played.clock(played.start_ms), played.clock(played.end_ms)
    yield f"{played.policy} on calls reserved from {start} to {end} ({played.zone})"
    yield ""
    if played.is_empty:
        yield "Nothing: the books have no call of this time and of the policy's organizations."
    else:
        yield from _refused(played)
        yield from _near(played)
        yield ""
    for note in played.notes:
        yield f"Note: {note}."
    if len(tally.limits) > _SHOWN or len(tally.uses) > _SHOWN:
        yield "Note: --format json has every limit."


def _refused(played: Played) -> Iterator[RenderableType]:
    tally = played.tally
    total = tally.refused.total
    yield f"{_counted(tally.calls + tally.charges, 'call')} that cost {usd(tally.cost)}"
    share = f" ({100 * total.calls / (tally.calls + tally.charges):.1f} % of the calls)" if total.calls else ""
    yield f"{total.calls:,} would have been refused{share}, which would have saved {usd(total.cost)}"
    lines = sorted(_lines(tally), key=lambda line: (line[1].endswith(_SHADOW), -line[3].cost, -line[3].calls, line[:3]))
    if lines:
        yield ""
        yield table(
            ("refused at", "limit", "reason", "calls>", "cost USD>", "first"),
            ((*where, *_cells(one), played.clock(one.first_ms)) for *where, one in lines[:_SHOWN]),
        )
        if len(tally.limits) > 1:
            yield "A call that several limits would have refused counts at each of them."
        if tally.shadowed:
            yield "Shadow limits refuse nothing: what they say is not in the sums."
    for name, found in (("customer", tally.refused.customers), ("model", tally.refused.models)):
        if any(found):
            yield ""
            rows = ((value or "(none)", *_cells(one)) for value, one in _sorted(found)[:_TOP])
            yield table((f"refused by {name}", "calls>", "cost USD>"), rows)


def _lines(tally: Tally) -> Iterator[tuple[str, str, str, Sum]]:
    """Scope, limit and reason of refusals, and their sum."""
    named = [
        *((place.scope, place.limit.id, split) for place, split in tally.limits.items()),
        *((scope, "", split) for scope, split in tally.elsewhere.items()),
        *((place.scope, place.limit.id + _SHADOW, split) for place, split in tally.shadowed.items()),
    ]
    return ((scope.path, limit, reason, one) for scope, limit, split in named for reason, one in split.reasons.items())


def _near(played: Played) -> Iterator[RenderableType]:
    """How near limits came to refusing, or how far they went."""
    uses = sorted(played.tally.uses.items(), key=lambda item: (-_share(item[1]), item[0].scope, item[0].limit.id))[
        :_SHOWN
    ]
    if not uses:
        return
    yield ""
    yield table(
        ("scope", "limit", "ceiling>", "highest>", "used>", "at"),
        (
            (
                place.scope.path,
                place.limit.id + (_SHADOW if place.limit.shadow else ""),
                _ceiling(place.limit),
                _amount(place.limit, use.most),
                f"{_share(use) / 10_000:.1f} %",
                played.clock(use.at_ms) if use.at_ms else "",
            )
            for place, use in uses
        ),
    )


def _cells(one: Sum) -> tuple[str, str]:
    return f"{one.calls:,}", format_usd(one.cost)


def _sorted(found: Mapping[str, Sum]) -> list[tuple[str, Sum]]:
    return sorted(found.items(), key=lambda item: (-item[1].cost, -item[1].calls, item[0]))


def _share(use: Use) -> int:
    """How much of a limit was taken at most, in millionths, rounded down; a limit of 0 is full."""
    return use.most * 1_000_000 // use.of if use.of else 1_000_000


def _amount(limit: Limit, value: int) -> str:
    return format_usd(value) if limit.kind is LimitKind.SPEND else f"{value:,}"


def _ceiling(limit: Limit) -> str:
    """What a limit allows: `20.00 USD/day`, `600 requests/minute, burst 100`, `200 holds`."""
    unit = {LimitKind.SPEND: "USD", LimitKind.CONCURRENCY: "holds"}.get(limit.kind, limit.kind.name.lower())
    per = f"/{limit.per}" if limit.per and limit.per != "total" else ""
    burst = f", burst {limit.burst:,}" if limit.burst not in (0, limit.amount) else ""
    return f"{_amount(limit, limit.amount)} {unit}{per}{burst}"


def _counted(things: Any, thing: str) -> str:  # noqa: ANN401 - a count, or what can be counted
    count = things if isinstance(things, int) else len(things)
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"

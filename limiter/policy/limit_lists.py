"""Lists of limits: as the file writes them, and the limits that they mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from limiter.domain.limits import LIMITS_PER_SCOPE_MAX, RATE_PERIODS, SPEND_WINDOWS, Limit, LimitKind
from limiter.domain.mistakes import Place, gather, shown
from limiter.policy.fields import (
    Estimate,
    LimitId,
    Per,
    Rate,
    Shadow,
    Slots,
    SomePatterns,
    Spend,
    WarnAt,
    fractions,
    usd,
)
from limiter.policy.part import Part

#: The field of each kind of limit, and what its `per` may say.
KINDS: Final[dict[str, tuple[LimitKind, tuple[str, ...]]]] = {
    "spend": (LimitKind.SPEND, SPEND_WINDOWS),
    "requests": (LimitKind.REQUESTS, tuple(RATE_PERIODS)),
    "tokens": (LimitKind.TOKENS, tuple(RATE_PERIODS)),
    "concurrency": (LimitKind.CONCURRENCY, ()),
}


class LimitPart(Part):
    """A rule on one scope: exactly one of spend, requests, tokens and concurrency."""

    id: LimitId
    """Names the limit and its counter; an amount can change without losing what was counted."""
    spend: Spend | None = None
    """A ceiling in USD per window, at most nine decimals; 0 refuses every call that costs anything."""
    requests: Rate | None = None
    """Requests per period, as a bucket that refills steadily."""
    tokens: Rate | None = None
    """Input and output tokens per period, as a bucket that refills steadily."""
    concurrency: Slots | None = None
    """Open holds at the same time."""
    per: Per | None = None
    """spend: hour, day, week, month, quarter, year or total; requests and tokens: second, minute, hour or day."""
    burst: Rate | None = None
    """The bucket's size; as much as the amount if left out."""
    models: SomePatterns | None = None
    """The limit counts only calls of models that match one of these patterns (* and ?); else every call."""
    mode: Shadow = False
    """shadow: count what it would refuse, refuse nothing."""
    warn_at: WarnAt = ()
    """Fractions of a spend ceiling; grants above them carry a warning."""
    estimate: Estimate | None = None
    """How large holds are for a spend limit, if not as the settings say: strict, safe or learned."""

    @classmethod
    def together(cls, data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield the fields that do not fit the kind of limit."""
        kinds = [kind for kind in KINDS if kind in data]
        if len(kinds) != 1:
            yield (), f"has {' and '.join(kinds) or 'no amount'}; give exactly one of {', '.join(KINDS)}"
            return
        (kind,) = kinds
        periods = KINDS[kind][1]
        per = data.get("per")
        if periods and "per" not in data:
            yield ("per",), f"missing; write one of {', '.join(periods)}"
        elif per is not None and not periods:
            yield ("per",), f"{shown(per)} is not valid; concurrency counts open holds, remove per"
        elif per is not None and per not in periods:
            yield ("per",), f"{shown(per)} is not valid; {kind} can be per {', '.join(periods)}"
        if "warn_at" in data and kind != "spend":
            yield ("warn_at",), "only a spend limit warns; remove it"
        if "estimate" in data and kind != "spend":
            yield ("estimate",), "only a spend limit holds money; remove it"
        if "burst" in data:
            yield from _burst_mistakes(kind, amount=data[kind], burst=data["burst"])

    def limit(self) -> Limit:
        """Return the limit that this means."""
        name, amount = next((name, amount) for name in KINDS if (amount := getattr(self, name)) is not None)
        kind = KINDS[name][0]
        bucket = kind in (LimitKind.REQUESTS, LimitKind.TOKENS)
        return Limit(
            id=self.id,
            kind=kind,
            amount=amount,
            per=self.per or "",
            burst=(amount if self.burst is None else self.burst) if bucket else 0,
            models=self.models or (),
            shadow=self.mode,
            warn_at=self.warn_at,
            sizing=self.estimate,
        )


def _burst_mistakes(kind: str, *, amount: object, burst: object) -> Iterator[tuple[Place, str]]:
    if kind in ("spend", "concurrency"):
        yield ("burst",), f"a {kind} limit has no bucket; remove it"
    elif isinstance(amount, int) and isinstance(burst, int) and (amount == 0) != (burst == 0):
        remedy = f"a bucket with {kind}: 0 holds nothing, leave burst out" if burst else "use at least 1"
        yield ("burst",), f"{shown(burst)} is not valid; {remedy}"


_LIMIT_PARTS: Final = TypeAdapter(list[LimitPart])


def read_limits(value: object) -> tuple[Limit, ...]:
    """Return the limits that a list in the file means; raises pydantic's ValidationError with all mistakes."""
    further: list[tuple[Place, str]] = []
    if isinstance(value, list):
        if len(value) > LIMITS_PER_SCOPE_MAX:
            further.append(((), f"has {len(value)} limits; the most on one scope is {LIMITS_PER_SCOPE_MAX}"))
        first: dict[object, int] = {}
        for at, item in enumerate(value):
            name = item.get("id") if isinstance(item, dict) else None
            if isinstance(name, str) and first.setdefault(name, at) != at:
                further.append(
                    ((at, "id"), f"{shown(name)} is taken by limits[{first[name]}]; name each limit differently")
                )
    parts = gather(value, _LIMIT_PARTS.validate_python, further=further)
    return tuple(part.limit() for part in parts)


def write_limits(limits: tuple[Limit, ...]) -> list[dict[str, Any]]:
    """Return the list in a file that means these limits."""
    return [_written(limit) for limit in limits]


def _written(limit: Limit) -> dict[str, Any]:
    spend = limit.kind is LimitKind.SPEND
    written: dict[str, Any] = {
        "id": limit.id,
        limit.kind.name.lower(): usd(limit.amount) if spend else limit.amount,
    }
    if limit.per:
        written["per"] = limit.per
    if limit.burst and limit.burst != limit.amount:
        written["burst"] = limit.burst
    if limit.models:
        written["models"] = list(limit.models)
    if limit.shadow:
        written["mode"] = "shadow"
    if limit.warn_at:
        written["warn_at"] = fractions(limit.warn_at)
    if limit.sizing is not None:
        written["estimate"] = limit.sizing.name.lower()
    return written


Limits = Annotated[
    tuple[Limit, ...],
    PlainValidator(read_limits, json_schema_input_type=list[LimitPart]),
    PlainSerializer(write_limits),
]

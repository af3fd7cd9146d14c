"""What hypothesis draws of a call, and the call that it becomes in a world."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from hypothesis import strategies as st

from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag
from limiter.store.port import ChargeCall, EndCall, HoldCall, Plan
from tests.model.world import MODELS, NAMES, costs, token_counts

T = TypeVar("T")

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

steps_forward = st.sampled_from(
    [0, 1, 2, 999, 1_000, 1_001, 59_999, 60_000, 600_000, 600_001, HOUR_MS, DAY_MS, 31 * DAY_MS, 400 * DAY_MS]
)
steps_back = st.sampled_from([1, 1_000, 30_000, 60_000, 60_000, 60_001, HOUR_MS, 40 * DAY_MS])
lives = st.sampled_from([600_000, 600_000, 1, 1_000, DAY_MS])
fingerprints = st.sampled_from([b"a" * 16, b"a" * 16, b"a" * 16, b"b" * 16])

#: Which call is meant: one that is known (open ones first), or from 8 on any name at all.
subjects = st.integers(0, 9)

Draft = dict[str, Any]


def seldom(usual: T, *others: T) -> st.SearchStrategy[T]:
    """Mostly the usual value."""
    return st.integers(0, 11).map(lambda n: usual if n < 12 - len(others) else others[11 - n])


reserve_drafts = st.fixed_dictionaries(
    {
        "name": st.integers(0, len(NAMES) - 1),
        "model": st.sampled_from(MODELS),
        "age": seldom(0, 1, 2, 5),
        "denial": seldom(0, 2, 4, 5),
        "fingerprint": fingerprints,
        "cost": costs,
        "tokens": token_counts,
        "ttl_ms": lives,
        "lifetime_ms": st.sampled_from([600_000, DAY_MS]),
        "secret_expires_in_ms": seldom(None, 0, 1, -1),
        "output_max": st.sampled_from([-1, 0, 4096]),
        "on_expiry": st.sampled_from(OnExpiry),
        "dry_run": seldom("no", "yes").map("yes".__eq__),
        "all_limits": st.booleans(),
        "consume": seldom("no", "yes").map("yes".__eq__),
        "quarters": st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)),
        "flags": seldom(RowFlag(0), RowFlag.ZERO_COST),
    }
)
end_drafts = st.fixed_dictionaries(
    {
        "subject": subjects,
        "basis": st.sampled_from([Basis.ESTIMATED, Basis.USAGE]),
        "cost": costs,
        "tokens": st.sampled_from([-1]) | token_counts,
        "flags": st.sampled_from(
            [RowFlag(0), RowFlag.ABORTED, RowFlag.FAILED, RowFlag.ABORTED | RowFlag.ZERO_COST, RowFlag.SUSPECT]
        ),
        "ending": st.sampled_from([b"", b'{"usage":{}}']),
    }
)
release_drafts = st.fixed_dictionaries(
    {
        "subject": subjects,
        "basis": st.just(Basis.RELEASED),
        "cost": st.just(0),
        "tokens": st.just(0),
        "flags": st.sampled_from([RowFlag(0), RowFlag.UNCLAIMED, RowFlag.FORCED]),
        "ending": st.just(b""),
    }
)
extend_drafts = st.fixed_dictionaries({"subject": subjects, "ttl_ms": lives})
charge_drafts = st.fixed_dictionaries(
    {
        "name": st.integers(0, len(NAMES) - 1),
        "model": st.sampled_from(MODELS),
        "age": seldom(0, 1, 2),
        "fingerprint": fingerprints,
        "cost": costs,
        "ago_ms": st.sampled_from([None, None, 0, 1, HOUR_MS, 40 * DAY_MS]),
        "flags": seldom(RowFlag(0), RowFlag.SUSPECT),
    }
)


def hold_call(draft: Draft, plan: Plan, now_ms: int) -> HoldCall:
    """The Reserve of a draft under a plan."""
    fields = dict(draft)
    for of_the_plan in ("age", "denial"):
        del fields[of_the_plan]
    expires_in_ms = fields.pop("secret_expires_in_ms")
    # Some limits of the world take a part of a hold only; a consumed call costs the same everywhere.
    quarters = fields.pop("quarters")
    lesser = None if quarters is None or draft["consume"] else tuple(draft["cost"] * part // 4 for part in quarters)
    return HoldCall(
        plan=plan,
        name=NAMES[fields.pop("name")],
        requests=1,
        retention_ms=HOUR_MS,
        key_expires_ms=0,
        secret_expires_ms=0 if expires_in_ms is None else now_ms + expires_in_ms,
        own_id=False,
        lesser=lesser,
        call=b'{"model":"%s"}' % fields.pop("model").encode(),
        **fields,
    )


def end_call(draft: Draft, name: ReservationName) -> EndCall:
    """The Settle or Release of a draft."""
    fields = {key: value for key, value in draft.items() if key != "subject"}
    return EndCall(name=name, retention_ms=HOUR_MS, **fields)


def charge_call(draft: Draft, plan: Plan, now_ms: int) -> ChargeCall:
    """The Charge of a draft under a plan."""
    return ChargeCall(
        plan=plan,
        name=NAMES[draft["name"]],
        fingerprint=draft["fingerprint"],
        cost=draft["cost"],
        occurred_ms=0 if draft["ago_ms"] is None else now_ms - draft["ago_ms"],
        retention_ms=HOUR_MS,
        call=b"{}",
        ending=b'{"charged":1}',
        flags=draft["flags"],
    )

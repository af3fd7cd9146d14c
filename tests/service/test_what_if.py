"""What a proposed policy would have refused: as one would count by hand, and as the rules written down say."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from limiter.cli.replay_trace import read_trace
from limiter.domain.errors import Unavailable
from limiter.domain.money import CALL_MAX_NANOUSD, parse_usd
from limiter.domain.scopes import Scope
from limiter.ledger.replaying import PastCall, Spent, Way
from limiter.policy.document import parse_policy
from limiter.service.what_if import WhatIf
from limiter.service.what_if_plans import Proposal
from limiter.service.what_if_tally import Split, Tally
from limiter.store import keys
from limiter.store.in_order import InOrder
from limiter.store.port import ChargeCall, EndCall, HoldCall, StoredPolicy
from limiter.store.port.timed import PastStore, TimedCall, TimedReply
from tests.fakes.plugin import OpenClient
from tests.ledger.rows import DAY, HOUR, NOVEMBER
from tests.model.reference import Reference

BOT, ANT = Scope("acme", "search", "bot"), Scope("acme", "search", "ant")
SECOND, MINUTE = 1_000, 60_000
WHOLE = (
    Path(os.environ.get("LIMITER_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    / "azure_llm_code_2023.csv.gz"
)


class ByTheRules:
    """A store of the past that decides by the rules as the tests have them written down."""

    def __init__(self) -> None:
        self._reference = Reference(0)

    async def replace_policy(self, new: StoredPolicy) -> bool:
        self._reference.versions[new.organization] = new.version
        return True

    async def play(self, calls: Sequence[TimedCall]) -> list[TimedReply]:
        return [self._decide(timed) for timed in calls]

    def _decide(self, timed: TimedCall) -> TimedReply:
        self._reference.now_ms = timed.at_ms
        call = timed.call
        if isinstance(call, HoldCall):
            return self._reference.reserve([call])[0]
        if isinstance(call, ChargeCall):
            return self._reference.charge([call])[0]
        if isinstance(call, EndCall):
            end = self._reference.settle if timed.verb == "settle" else self._reference.release
            return end([call])[0]
        return self._reference.inspect([call])[0]


@pytest.fixture
async def store(open_client: OpenClient) -> Any:  # noqa: ANN401 - an asynchronous fixture
    """An empty store, on both servers."""
    store = InOrder(open_client())
    yield store
    await store.close()


def call(at_ms: int, cost: str = "0.10", *, held: str = "", **others: Any) -> PastCall:  # noqa: ANN401 - its fields
    """A call that took ten seconds from `at_ms` of November on; its hold is of its cost unless it says so."""
    fields: dict[str, Any] = {
        "key": BOT,
        "model": "gpt-4o",
        "customer": "globex",
        "way": Way.SETTLED,
        "reserved_ms": NOVEMBER + at_ms,
        "ended_ms": NOVEMBER + at_ms + 10 * SECOND,
        "held": parse_usd(held or cost, field="held"),
        "cost": parse_usd(cost, field="cost"),
        "bucket_tokens": 100,
        "used_tokens": 100,
    }
    return PastCall(**fields | others)


def acme(text: str, **rules: str) -> str:
    """A policy of acme whose organization has these limits."""
    more = "".join(f"\n    {name}: {value}" for name, value in rules.items())
    return f"version: 1\norganizations:\n  acme:\n    limits: [{text}]{more}\n"


async def played(
    store: PastStore, policy: str, calls: Iterable[PastCall], spent: Iterable[Spent] = (), *, at_ms: int = NOVEMBER
) -> Tally:
    """What comes of calls under a policy."""
    replay = WhatIf(store, Proposal(parse_policy(dedent(policy)).organizations))
    await replay.open(spent, at_ms=at_ms)
    await replay.play(calls)
    return replay.tally


def counts(splits: Mapping[Any, Split]) -> dict[str, dict[str, int]]:
    """Refusals by `scope limit` (or scope) and reason."""
    return {
        f"{getattr(place, 'scope', place).path} {place.limit.id if hasattr(place, 'limit') else ''}".strip(): {
            reason: one.calls for reason, one in split.reasons.items()
        }
        for place, split in splits.items()
    }


def highest(tally: Tally) -> dict[str, int]:
    return {f"{place.scope.path} {place.limit.id}": use.most for place, use in tally.uses.items()}


# ---------------------------------------------------------------------- ceilings


async def test_a_policy_without_limits_refuses_nothing(store: InOrder) -> None:
    tally = await played(store, "version: 1\norganizations: {acme: {}}", [call(i * MINUTE) for i in range(600)])

    assert (tally.calls, tally.refused.total.calls, tally.cost) == (600, 0, 60 * 10**9)
    assert tally.unnamed_keys == {BOT}


async def test_the_first_calls_fit_under_a_ceiling_and_the_others_are_refused(store: InOrder) -> None:
    calls = [call(i * MINUTE, customer=f"c{i % 2}") for i in range(300)]

    tally = await played(store, acme("{id: monthly, spend: 10, per: month}"), calls)

    assert counts(tally.limits) == {"acme monthly": {"SPEND_CEILING": 200}}
    refused = tally.refused
    assert (refused.total.calls, refused.total.cost) == (200, 20 * 10**9)
    assert refused.total.first_ms == NOVEMBER + 100 * MINUTE
    assert {name: one.calls for name, one in refused.customers.items()} == {"c0": 100, "c1": 100}
    assert highest(tally) == {"acme monthly": 10 * 10**9}
    assert [use.at_ms for use in tally.uses.values()] == [NOVEMBER + 99 * MINUTE]


async def test_what_was_held_counts_until_the_call_is_settled(store: InOrder) -> None:
    # 0.40 of 1.00 held for each: two fit at once, and 0.10 of each stays; the call of 12 s comes after both ended.
    calls = [call(at * SECOND, "0.10", held="0.40") for at in (0, 1, 2, 12)]

    tally = await played(store, acme("{id: daily, spend: 1, per: day}"), calls)

    assert counts(tally.limits) == {"acme daily": {"SPEND_HELD": 1}}
    assert tally.refused.total.cost == 10**8


async def test_a_call_counts_once_in_total_and_at_every_limit_that_refuses_it(store: InOrder) -> None:
    policy = """\
    version: 1
    organizations:
      acme:
        limits: [{id: monthly, spend: 0.35, per: month}]
        teams:
          search:
            limits: [{id: daily, spend: 0.25, per: day}]
            key_defaults: {limits: [{id: hourly, spend: 5, per: hour}]}
    """

    tally = await played(store, policy, [call(i * MINUTE) for i in range(2)] + [call(5 * MINUTE, "0.20")])

    assert tally.refused.total.calls == 1
    assert counts(tally.limits) == {
        "acme monthly": {"SPEND_CEILING": 1},
        "acme/search daily": {"SPEND_CEILING": 1},
    }
    assert highest(tally)["acme/search/bot hourly"] == 2 * 10**8


async def test_a_window_begins_at_midnight_of_the_policys_zone(store: InOrder) -> None:
    # 1 November 2026, 00:00 UTC is 20:00 in New York; its midnight is 04:00 UTC. The clock goes back that night, so
    # that the next midnight is 05:00 UTC.
    policy = acme("{id: daily, spend: 0.10, per: day}", timezone="America/New_York")
    moments = (0, 4 * HOUR - 20 * SECOND, 4 * HOUR, 28 * HOUR, 29 * HOUR - 20 * SECOND, 29 * HOUR)

    tally = await played(store, policy, [call(at) for at in moments])

    assert tally.refused.total.calls == 3
    assert tally.refused.total.first_ms == NOVEMBER + moments[1]


async def test_a_limit_on_some_models_refuses_only_these(store: InOrder) -> None:
    calls = [call(i * MINUTE, model=("gpt-4o", "claude-3", "mine")[i % 3]) for i in range(30)]
    policy = acme('{id: gpt, spend: 0.50, per: day, models: ["gpt-*"]}', aliases="{mine: gpt-4o}")

    tally = await played(store, policy, calls)

    assert {name: one.calls for name, one in tally.refused.models.items()} == {"gpt-4o": 7, "mine": 8}


async def test_a_shadow_limit_refuses_nothing_and_is_told_of(store: InOrder) -> None:
    tally = await played(
        store, acme("{id: new, spend: 0.20, per: day, mode: shadow}"), [call(i * MINUTE) for i in range(5)]
    )

    assert tally.refused.total.calls == 0
    assert not tally.limits
    assert counts(tally.shadowed) == {"acme new": {"SPEND_CEILING": 3}}
    assert highest(tally) == {"acme new": 2 * 10**8}


# ---------------------------------------------------------------------- slots and rates


async def test_open_calls_take_slots_until_they_end(store: InOrder) -> None:
    # Each takes ten seconds, and one comes every four: the third finds two open, the fourth comes when one has ended.
    tally = await played(store, acme("{id: inflight, concurrency: 2}"), [call(i * 4 * SECOND) for i in range(9)])

    assert counts(tally.limits) == {"acme inflight": {"CONCURRENCY": 3}}
    assert highest(tally) == {"acme inflight": 2}


async def test_the_end_of_a_call_frees_its_slot_before_a_call_of_the_same_ms(store: InOrder) -> None:
    tally = await played(store, acme("{id: inflight, concurrency: 1}"), [call(i * 10 * SECOND) for i in range(5)])

    assert tally.refused.total.calls == 0


async def test_requests_beyond_the_rate_are_refused(store: InOrder) -> None:
    # A burst of 3 and one more every 20 s, for a call every 5 s over a minute.
    tally = await played(store, acme("{id: rpm, requests: 3, per: minute}"), [call(i * 5 * SECOND) for i in range(12)])

    assert counts(tally.limits) == {"acme rpm": {"REQUEST_RATE": 12 - 3 - 2}}
    assert highest(tally) == {"acme rpm": 3}


async def test_tokens_that_were_not_used_come_back(store: InOrder) -> None:
    used = [call(i * 11 * SECOND, used_tokens=10) for i in range(5)]
    said_nothing = [call(i * 11 * SECOND + HOUR, used_tokens=-1) for i in range(5)]
    too_many = [call(2 * HOUR, bucket_tokens=201)]

    tally = await played(store, acme("{id: tph, tokens: 200, per: hour}"), [*used, *said_nothing, *too_many])

    assert counts(tally.limits) == {"acme tph": {"TOKEN_RATE": 3, "NEVER_FITS": 1}}


async def test_a_released_call_gives_everything_back(store: InOrder) -> None:
    released = [call(i * 11 * SECOND, "0", held="1", way=Way.RELEASED) for i in range(5)]
    policy = acme("{id: daily, spend: 1, per: day}, {id: rph, requests: 2, per: hour}")

    tally = await played(store, policy, [*released, call(MINUTE, "1")])

    assert tally.refused.total.calls == 0
    assert highest(tally) == {"acme daily": 10**9, "acme rph": 1}


# ---------------------------------------------------------------------- spend that is never refused


async def test_a_charge_is_never_refused_and_counts(store: InOrder) -> None:
    calls = [call(0, "3", way=Way.CHARGED, held="0"), call(MINUTE), call(2 * MINUTE, "5", way=Way.CHARGED, held="0")]

    tally = await played(store, acme("{id: daily, spend: 2, per: day}"), calls)

    assert (tally.calls, tally.charges, tally.refused.total.calls) == (1, 2, 1)
    assert tally.cost == 8_100_000_000
    assert highest(tally) == {"acme daily": 8 * 10**9}


async def test_a_call_that_cost_more_than_its_hold_counts_with_its_cost(store: InOrder) -> None:
    tally = await played(store, acme("{id: daily, spend: 2, per: day}"), [call(0, "3", held="1"), call(MINUTE)])

    assert tally.refused.total.calls == 1
    assert highest(tally) == {"acme daily": 3 * 10**9}


async def test_limits_start_from_what_was_spent_in_their_windows_before(store: InOrder) -> None:
    middle = NOVEMBER + 14 * DAY + 6 * HOUR
    today = middle - 6 * HOUR
    before = [
        Spent(NOVEMBER, BOT, "gpt-4o", 6 * 10**9),
        Spent(NOVEMBER, ANT, "claude-3", 2 * 10**9),
        Spent(today, BOT, "gpt-4o", 10**9),
    ]
    policy = """\
    version: 1
    organizations:
      acme:
        limits: [{id: monthly, spend: 10, per: month}, {id: old, spend: 5, per: month, mode: shadow}]
        teams:
          search:
            key_defaults:
              limits: [{id: daily, spend: 1.5, per: day}, {id: gpt, spend: 9, per: month, models: ["gpt*"]}]
    """

    tally = await played(store, policy, [call(middle - NOVEMBER + i * MINUTE) for i in range(8)], before, at_ms=middle)

    assert tally.opening == 9 * 10**9
    assert highest(tally) == {
        "acme monthly": 9_500_000_000,
        "acme old": 9 * 10**9,
        "acme/search/bot daily": 1_500_000_000,
        "acme/search/bot gpt": 7_500_000_000,
    }
    assert counts(tally.limits) == {"acme/search/bot daily": {"SPEND_CEILING": 3}}
    assert counts(tally.shadowed) == {"acme old": {"SPEND_CEILING": 5}}


async def test_more_can_have_been_spent_than_a_single_charge_can_be(store: InOrder) -> None:
    spent = 3 * CALL_MAX_NANOUSD + 5
    tally = await played(
        store, acme("{id: total, spend: 100000000, per: total}"), [call(0, "0.01")], [Spent(0, BOT, "gpt-4o", spent)]
    )

    assert highest(tally) == {"acme total": spent + 10**7}


# ---------------------------------------------------------------------- what no limit says


async def test_models_keys_and_costs_that_the_policy_does_not_allow_are_refused_without_a_limit(store: InOrder) -> None:
    policy = """\
    version: 1
    organizations:
      acme:
        settings: {max_cost_per_call: 1}
        limits: [{id: monthly, spend: 10, per: month}]
        teams:
          search: {models: ["gpt-*"], keys: {ant: {enabled: false}}}
    """
    calls = [call(0), call(1, model="claude-3"), call(2, key=ANT), call(3, "0.10", held="1.01")]

    tally = await played(store, policy, calls)

    assert counts(tally.elsewhere) == {
        "acme/search/bot": {"MODEL_NOT_ALLOWED": 1, "MAX_COST_PER_CALL": 1},
        "acme/search/ant": {"KEY_DISABLED": 1},
    }
    assert tally.unnamed_keys == {BOT}
    assert highest(tally) == {"acme monthly": 10**8}


async def test_a_store_that_somebody_else_uses_is_not_believed(store: InOrder) -> None:
    policy = acme("{id: monthly, spend: 10, per: month}")
    await played(store, policy, [call(0)])

    with pytest.raises(Unavailable, match="somebody else"):
        await played(store, policy, [call(0)])


async def test_a_replay_ends_when_it_is_interrupted(store: InOrder) -> None:
    async def endless() -> int:
        this = asyncio.current_task()
        assert this is not None
        calls = (call(i * MINUTE) for i in range(100_000))
        replay = WhatIf(store, Proposal(parse_policy(acme("")).organizations), advance=lambda _: this.cancel())
        await replay.open([], at_ms=NOVEMBER)
        await replay.play(calls)
        return replay.tally.calls

    task = asyncio.create_task(endless())
    await asyncio.wait([task])

    assert task.cancelled()


async def test_nothing_of_a_replay_piles_up_in_the_store(store: InOrder) -> None:
    await played(store, EVERYTHING, anything(1, 500))

    assert await store._command("DBSIZE") <= 8
    assert await store._command("XLEN", keys.shard_keys(keys.shard_of("acme"))[1]) == 0


# ---------------------------------------------------------------------- against the rules

EVERYTHING = """\
version: 1
organizations:
  acme:
    timezone: America/New_York
    limits: [{id: monthly, spend: 16, per: month, warn_at: [0.5]}, {id: inflight, concurrency: 5}]
    teams:
      search:
        limits: [{id: daily, spend: 14, per: day}, {id: rpm, requests: 3, per: minute, burst: 3}]
        key_defaults:
          limits:
            - {id: hourly, spend: 3, per: hour}
            - {id: tpm, tokens: 1500, per: minute, burst: 1800}
            - {id: gpt, spend: 3, per: day, models: ["gpt*"]}
            - {id: trial, spend: 1, per: hour, mode: shadow}
"""


def anything(seed: int, count: int) -> list[PastCall]:
    """Calls of all kinds, in the order of their times."""
    chance = random.Random(seed)
    calls = []
    for at_ms in sorted(chance.randrange(5 * HOUR) for _ in range(count)):
        cost, held = chance.randrange(2 * 10**8), chance.randrange(3 * 10**8)
        way = chance.choice([Way.SETTLED] * 8 + [Way.RELEASED, Way.CHARGED, Way.CONSUMED])
        if way is Way.CONSUMED:
            held = cost
        calls.append(
            PastCall(
                key=chance.choice([BOT, ANT]),
                model=chance.choice(["gpt-4o", "claude-3"]),
                customer=f"c{chance.randrange(5)}",
                way=way,
                reserved_ms=NOVEMBER + at_ms,
                ended_ms=NOVEMBER + at_ms + chance.choice([0, chance.randrange(10 * MINUTE)]),
                held=0 if way is Way.CHARGED else held,
                cost=0 if way is Way.RELEASED else cost,
                bucket_tokens=chance.randrange(1_500),
                used_tokens=chance.choice([-1, chance.randrange(1_800)]),
            )
        )
    return calls


@pytest.mark.parametrize("seed", range(3))
async def test_the_answer_is_that_of_the_rules_and_always_the_same(store: InOrder, seed: int) -> None:
    calls = anything(seed, 500)
    before = [Spent(NOVEMBER - DAY, BOT, "gpt-4o", 10**9)]

    found = await played(store, EVERYTHING, calls, before)

    assert found == await played(ByTheRules(), EVERYTHING, calls, before)
    assert {place.limit.id for place in found.limits} == {"monthly", "inflight", "daily", "rpm", "hourly", "tpm", "gpt"}
    assert found.shadowed


def recorded() -> list[PastCall]:
    """The calls of a production trace, held for 1,000 tokens of output each."""
    return [
        PastCall(
            key=Scope("acme", "search", f"bot{i % 5 % 3}"),
            model="gpt-4o",
            customer=f"c{i % 10}",
            way=Way.SETTLED,
            reserved_ms=(at_ms := NOVEMBER + int(traced.at_s * 1000)),
            ended_ms=at_ms + 500 + 20 * traced.generated_tokens,
            held=2_500 * traced.context_tokens + 10_000 * 1_000,
            cost=2_500 * traced.context_tokens + 10_000 * traced.generated_tokens,
            bucket_tokens=traced.context_tokens + 1_000,
            used_tokens=traced.context_tokens + traced.generated_tokens,
        )
        for i, traced in enumerate(read_trace(WHOLE))
    ]


@pytest.mark.parametrize("back_end", ["valkey"], indirect=True)
async def test_a_production_trace_is_refused_as_the_rules_say(store: InOrder) -> None:
    if not WHOLE.is_file():
        pytest.skip(f"{WHOLE.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    calls = recorded()
    policy = """\
    version: 1
    organizations:
      acme:
        limits: [{id: daily, spend: 17, per: day}, {id: inflight, concurrency: 25}]
        teams:
          search:
            limits: [{id: rpm, requests: 400, per: minute, burst: 60}]
            key_defaults: {limits: [{id: hourly, spend: 6, per: hour}, {id: tpm, tokens: 100000, per: minute}]}
    """

    found = await played(store, policy, calls)

    assert found == await played(ByTheRules(), policy, calls)
    assert found.calls == len(calls)
    assert {place.limit.id for place in found.limits} == {"daily", "inflight", "rpm", "hourly", "tpm"}

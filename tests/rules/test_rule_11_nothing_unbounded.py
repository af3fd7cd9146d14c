"""Rule 11: nothing is unbounded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from limiter.domain.calls import COUNT_MAX, ProviderRequest
from limiter.domain.errors import FailedPrecondition, InvalidArgument, LimiterError, NotFound, Unavailable
from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import Granted
from limiter.policy.document import PolicyInvalid, parse_policy
from limiter.store.keys import hold_key
from limiter.v1 import limiter_pb2 as pb
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import BOT, Limiter, name_of, usd

HOUR_MS, WEEK_MS = 3_600_000, 7 * 86_400_000
POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: day, spend: 100, per: day}]
        teams: {search: {keys: {bot: {}, dog: {settings: {on_expiry: release}}}}}
"""


async def life_ms(limiter: Limiter, name: ReservationName) -> int:
    """How long a reservation's record will stay; -1: for ever."""
    return int(await limiter.client.pttl(hold_key(name)))


# ---------------------------------------------------------------------- lives


@pytest.mark.parametrize(
    ("end", "kept_ms"),
    [("settle", HOUR_MS), ("release", HOUR_MS), ("unclaimed", HOUR_MS), ("consume", HOUR_MS), ("expire", WEEK_MS)],
)
async def test_ended_holds_stay_for_their_retention_and_open_ones_until_they_end(
    limiter: Limiter, end: str, kept_ms: int
) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="r", ttl="5 minutes", consume=end == "consume")
    name = name_of(hold)
    if end != "consume":
        assert await life_ms(limiter, name) == -1
        await limiter.extend(hold, "10 minutes")
        assert await life_ms(limiter, name) == -1
    if end == "settle":
        await limiter.settle(hold, "1")
    elif end == "release":
        await limiter.release(hold)
    elif end == "unclaimed":
        limiter.service.give_back(name)
        await limiter.service.give_backs.drain()
    elif end == "expire":
        limiter.tick("1 hour")
        await limiter.service.sweep()
    assert kept_ms - 10_000 < await life_ms(limiter, name) <= kept_ms


async def test_after_its_retention_a_reservation_is_not_found_nothing_is_charged_and_charge_is_the_way(
    limiter: Limiter,
) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="r")
    await limiter.settle(hold, "0.5", estimated=True)
    await limiter.client.delete(hold_key(name_of(hold)))  # as its TTL does
    before = (await limiter.dump()).raw
    for call in (limiter.settle(hold, "1"), limiter.release(hold), limiter.extend(hold, "1 hour")):
        with pytest.raises(NotFound, match=r"nothing was charged.*Charge"):
            await call
    assert (await limiter.dump()).raw == before
    assert (await limiter.charge(id="r-again", actual="0.5")).cost_nanousd == usd("0.5")
    assert (await limiter.money("acme day")).settled == "1.00"


async def test_a_reservation_that_never_was_is_not_found(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    for organization in ("acme", "nobody"):
        with pytest.raises(NotFound, match="not known"):
            await limiter.settle(f"organizations/{organization}/reservations/{'0' * 32}", "1")


async def test_the_due_index_holds_open_holds_only(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    holds = [await limiter.grant(cost="1", ttl="5 minutes") for _ in range(4)]
    assert len((await limiter.dump()).due) == 4
    await limiter.settle(holds[0], "1")
    await limiter.release(holds[1])
    assert len((await limiter.dump()).due) == 2
    limiter.tick("5 minutes")
    await limiter.service.sweep()
    assert (await limiter.dump()).due == {}


async def test_an_entry_of_the_due_index_whose_record_is_lost_is_dropped(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant("acme/search/dog", cost="0", ttl="5 minutes")
    await limiter.client.delete(hold_key(name_of(hold)))
    limiter.tick("5 minutes")
    assert await limiter.service.sweep() == 0
    assert (await limiter.dump()).due == {}


async def test_more_holds_than_one_round_can_end_all_end_in_one_sweep(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await asyncio.gather(*(limiter.grant(cost="0.001", ttl="5 minutes") for _ in range(600)))
    limiter.tick("5 minutes")
    assert await limiter.service.sweep() == 600
    assert (await limiter.money("acme day")).settled == "0.60"


async def test_calls_that_are_refused_or_strange_leave_nothing_in_the_store(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    before = (await limiter.dump()).raw
    for number in range(20):
        await limiter.refusal(cost="101", id=f"r{number}")
        await limiter.refusal(f"lk-stranger-{number}", cost="1")
        await limiter.refusal(f"acme/search/nobody-{number}", cost="1")
        await limiter.refusal(f"acme-{number}/search/nobody", cost="1")
        with pytest.raises(NotFound):
            await limiter.limits(f"acme/search/nobody-{number}")
        with pytest.raises(NotFound):
            await limiter.charge(f"acme/search/nobody-{number}", actual="1", id=f"c{number}")
        await limiter.refusal(tokens=(1, 1), model=f"model-{number}")
    assert (await limiter.dump()).raw == before


# ---------------------------------------------------------------------- backlog


async def test_a_full_backlog_stops_reserve_and_nothing_else(open_limiter: OpenLimiter) -> None:
    limiter = open_limiter(max_backlog=3)
    await limiter.apply(POLICY)
    holds = [await limiter.grant(cost="1", id=f"r{number}") for number in range(5)]
    for hold in holds[:3]:
        await limiter.settle(hold, "1")
    before = (await limiter.dump()).raw
    with pytest.raises(Unavailable, match="max_backlog"):
        await limiter.reserve(cost="1")
    assert (await limiter.dump()).raw == before
    assert (await limiter.grant(cost="1", id="r4")).repeated_call
    await limiter.settle(holds[3], "1")
    await limiter.release(holds[4])
    await limiter.charge(id="c", actual="1")
    assert (await limiter.money("acme day")).settled == "5.00"


async def test_a_trimmed_ledger_lets_reserve_go_on(open_limiter: OpenLimiter) -> None:
    limiter = open_limiter(max_backlog=1)
    await limiter.apply(POLICY)
    await limiter.grant(cost="0", consume=True)
    with pytest.raises(Unavailable):
        await limiter.reserve(cost="0")
    (ledger,) = await limiter.client.keys("*ledger")
    await limiter.client.xtrim(ledger, maxlen=0)
    await limiter.grant(cost="0")


# ---------------------------------------------------------------------- sizes


def valid() -> pb.ReserveRequest:
    return pb.ReserveRequest(request_id="r", key_id=BOT, model="m", cost_nanousd=1)


HUGE = pb.ProviderRequest(host="api.openai.com", path="/v1/responses", body=b" " * (4 * 1024 * 1024 + 1))
TOO_LARGE: list[tuple[str, dict[str, Any]]] = [
    ("request_id", {"request_id": "x" * 257}),
    ("model", {"model": "x" * 257}),
    ("provider", {"provider": "x" * 257}),
    ("key_id", {"key_id": "acme/search/" + "x" * 129}),
    ("api_key", {"api_key": "x" * 513}),
    ("tags", {"tags": [pb.Tag(name="a", value="b")] * 17}),
    ("tags.name", {"tags": [pb.Tag(name="x" * 65, value="b")]}),
    ("tags.value", {"tags": [pb.Tag(name="a", value="x" * 257)]}),
    ("cost_nanousd", {"cost_nanousd": 2**53}),
    ("cost_nanousd", {"cost_nanousd": -1}),
    ("estimate.input_tokens", {"estimate": pb.Estimate(input_tokens=COUNT_MAX + 1)}),
    ("estimate.input_tokens", {"estimate": pb.Estimate(input_tokens=-1)}),
    ("estimate.max_output_tokens", {"estimate": pb.Estimate(max_output_tokens=COUNT_MAX + 1)}),
    ("estimate", {"estimate": pb.Estimate(input_tokens=COUNT_MAX, max_output_tokens=COUNT_MAX)}),
    ("estimate.units", {"estimate": pb.Estimate(units={f"u{n}": 1 for n in range(17)})}),
    ("provider_request.body", {"provider_request": HUGE}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "change"), TOO_LARGE, ids=[f"{field}-{n}" for n, (field, _) in enumerate(TOO_LARGE)])
async def test_every_part_of_a_call_has_a_limit_with_a_clear_error(
    limiter: Limiter, field: str, change: dict[str, Any]
) -> None:
    await limiter.apply(POLICY)
    message = valid()
    for name, value in change.items():
        if isinstance(value, list):
            message.tags.extend(value)
        elif isinstance(value, pb.Estimate | pb.ProviderRequest):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    with pytest.raises(InvalidArgument) as error:
        await limiter.send(message)
    assert error.value.field == field
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("field", ["request_id", "model", "provider", "tag"])
async def test_what_is_as_long_as_it_may_be_is_taken_and_kept_whole(limiter: Limiter, field: str) -> None:
    await limiter.apply(POLICY)
    message, longest = valid(), "é" * 256
    if field == "tag":
        message.tags.add(name="n" * 64, value=longest)
    else:
        setattr(message, field, longest)
    verdict = await limiter.send(message)
    assert isinstance(verdict, Granted)
    call = json.loads((await limiter.record(verdict)).call)
    assert longest in (
        call["request_id"],
        call["model"],
        call.get("provider"),
        *(tag[1] for tag in call.get("tags", ())),
    )


# ---------------------------------------------------------------------- injection

EVIL = ["{0}", "a{b}c", "a:b", "a/b", "a\nb", "a\0b", "a b", "", " ", "..", "*", "é", "a" * 129, "\u202e", "-a"]


@pytest.mark.parametrize("evil", EVIL, ids=repr)
async def test_ids_of_keys_cannot_inject(limiter: Limiter, evil: str) -> None:
    await limiter.apply(POLICY)
    before = (await limiter.dump()).raw
    for path in (f"{evil}/search/bot", f"acme/{evil}/bot", f"acme/search/{evil}"):
        message = valid()
        message.key_id = path
        with pytest.raises(LimiterError):
            await limiter.send(message)
        with pytest.raises(InvalidArgument):
            Scope.parse_key(path)
    for name in (f"organizations/{evil}/reservations/{'0' * 32}", f"organizations/acme/reservations/{evil}"):
        with pytest.raises(InvalidArgument):
            await limiter.settle(name, "1")
    assert (await limiter.dump()).raw == before


@pytest.mark.parametrize("evil", [evil for evil in EVIL if evil != "a" * 129], ids=repr)
@pytest.mark.parametrize("place", ["organization", "team", "key", "limit"])
def test_ids_in_a_policy_cannot_inject(evil: str, place: str) -> None:
    quoted = '"' + evil.replace("\n", "\\n").replace("\0", "\\0") + '"'
    names = {name: (quoted if name == place else "fine") for name in ("organization", "team", "key", "limit")}
    with pytest.raises(PolicyInvalid):
        parse_policy(f"""
version: 1
organizations:
  {names["organization"]}:
    limits: [{{id: {names["limit"]}, spend: 1, per: day}}]
    teams: {{{names["team"]}: {{keys: {{{names["key"]}: {{}}}}}}}}
""")


@pytest.mark.parametrize("evil", ["a\nb", "a\0b", "\x1b[31m", "\u202e", "a\u2028b"])
@pytest.mark.parametrize("field", ["request_id", "model", "provider", "tag"])
async def test_control_characters_are_refused_everywhere(limiter: Limiter, field: str, evil: str) -> None:
    await limiter.apply(POLICY)
    message = valid()
    if field == "tag":
        message.tags.add(name="a", value=evil)
    else:
        setattr(message, field, evil)
    with pytest.raises(InvalidArgument) as error:
        await limiter.send(message)
    assert evil not in str(error.value)


@pytest.mark.parametrize(
    "odd", ['{"a": 1}', "}{:", 'quote " and \\ backslash', "acme/search/bot", "lim1:{0}:due", "🎲"]
)
async def test_whatever_else_a_caller_says_is_text_and_nothing_more(limiter: Limiter, odd: str) -> None:
    await limiter.apply(POLICY)
    message = valid()
    message.request_id = message.model = message.provider = odd
    message.tags.add(name="customer", value=odd)
    verdict = await limiter.send(message)
    assert isinstance(verdict, Granted)
    await limiter.settle(verdict, "0")
    (row,) = await limiter.rows()
    call = json.loads(row.call)
    assert (call["request_id"], call["model"], call["tags"]) == (odd, odd, [["customer", odd]])


async def test_tags_of_a_key_and_of_a_call_together_have_a_limit_too(limiter: Limiter) -> None:
    tags = ", ".join(f"k{number}: v" for number in range(10))
    await limiter.apply(POLICY.replace("bot: {}", f"bot: {{tags: {{{tags}}}}}"))
    await limiter.grant(cost="1", tags={f"t{number}": "v" for number in range(6)})
    with pytest.raises(InvalidArgument, match="at most 16"):
        await limiter.reserve(cost="1", tags={f"t{number}": "v" for number in range(7)})


# ---------------------------------------------------------------------- time to live and cost


async def test_a_hold_lives_for_ten_minutes_unless_somebody_says_otherwise(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    now = limiter.clock.now_ms
    assert (await limiter.grant(cost="1")).expires_at_ms == now + 600_000
    assert (await limiter.grant(cost="1", ttl="90 seconds")).expires_at_ms == now + 90_000
    assert (await limiter.grant(cost="1", ttl="24 hours")).expires_at_ms == now + 86_400_000
    await limiter.apply(POLICY.replace("bot: {}", "bot: {settings: {ttl: 2m}}"))
    assert (await limiter.grant(cost="1")).expires_at_ms == now + 120_000
    for ttl in ("86400001 ms", "0 ms"):
        message = valid()
        message.ttl.FromMilliseconds(int(ttl.split()[0]))
        with pytest.raises(InvalidArgument, match="24 hours"):
            await limiter.send(message)


async def test_extend_means_not_before_now_and_ttl_up_to_max_lifetime(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("bot: {}", "bot: {settings: {max_lifetime: 1h}}"))
    begin = limiter.clock.now_ms
    hold = await limiter.grant(cost="1", ttl="30 minutes")
    limiter.tick("5 minutes")
    shorter = await limiter.extend(hold, "10 minutes")
    assert (shorter.expires_ms, shorter.repeated) == (begin + 30 * 60_000, True)
    longer = await limiter.extend(hold, "40 minutes")
    assert (longer.expires_ms, longer.repeated) == (begin + 45 * 60_000, False)
    last = await limiter.extend(hold, "24 hours")
    assert last.expires_ms == begin + 60 * 60_000
    limiter.tick("54 minutes")
    assert await limiter.service.sweep() == 0
    limiter.tick("1 minute")
    assert await limiter.service.sweep() == 1
    with pytest.raises(FailedPrecondition, match="EXPIRED"):
        await limiter.extend(hold, "1 minute")


async def test_max_lifetime_shortens_what_a_call_asks_for(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("bot: {}", "bot: {settings: {max_lifetime: 3m}}"))
    now = limiter.clock.now_ms
    assert (await limiter.grant(cost="1")).expires_at_ms == now + 180_000
    assert (await limiter.grant(cost="1", ttl="1 hour")).expires_at_ms == now + 180_000


async def test_a_single_call_above_max_cost_per_call_is_a_mistake_not_a_refusal(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("bot: {}", "bot: {settings: {max_cost_per_call: 0.5}}"))
    await limiter.grant(cost="0.50")
    await limiter.grant(tokens=(0, 250_000))
    for call in (limiter.reserve(cost="0.500000001"), limiter.reserve(tokens=(1, 250_000))):
        with pytest.raises(InvalidArgument, match=r"max_cost_per_call") as error:
            await call
        assert "0.50 USD" in str(error.value)
    assert (await limiter.charge(id="c", actual="5")).cost_nanousd == usd("5")


async def test_a_provider_request_that_cannot_be_read_is_refused_with_what_to_do(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    for request in (
        ProviderRequest("api.example.com", "/v1/chat/completions", b"{}"),
        ProviderRequest("api.openai.com", "/v1/unheard", b"{}"),
        ProviderRequest("api.openai.com", "/v1/chat/completions", b'{"model": "gpt-4o", "model": "gpt-4"}'),
        ProviderRequest("api.openai.com", "/v1/chat/completions", b"not json"),
    ):
        with pytest.raises(InvalidArgument, match="provider_request"):
            await limiter.reserve(request=request, model="")


async def test_a_policy_with_as_many_limits_and_thresholds_as_it_may_have_works(limiter: Limiter) -> None:
    thresholds = ", ".join(f"0.{number:02d}" for number in range(10, 26))
    lists = [
        "["
        + ", ".join(
            f"{{id: l{number}, spend: {number + 1}, per: day, warn_at: [{thresholds}]}}" for number in range(32)
        )
        + "]"
    ] * 3
    await limiter.apply(f"""
        version: 1
        organizations:
          acme: {{limits: {lists[0]}, teams: {{search: {{limits: {lists[1]}, keys: {{bot: {{limits: {lists[2]}}}}}}}}}}}
    """)
    granted = await limiter.grant(cost="0.20", all_limits=True)
    assert len(granted.limits) == 96
    assert len(granted.warnings) == 3 * 2

"""Strict, safe and learned holds: what is held, at which limit, and when a call is refused for having no bound."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limiter.domain.calls import ProviderRequest, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import RowFlag
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Denied, Granted, Verdict
from limiter.pricing.bounds import Bound, Growth, Size
from limiter.pricing.reading import CallReading
from limiter.service.calls import Principal, ReserveCall
from tests.rules.desk import BOT, Limiter, Money, usd
from tests.service.readings import Sized

INPUT, OUTPUT = 2_500, 10_000  # nano-USD per token of gpt-4o in prices.yaml
WINDOW, LONGEST = 128_000, 16_384

POLICY = """
    version: 1
    organizations:
      acme:
        settings: SETTINGS
        limits: [{id: cap, spend: 100, per: total}, {id: tpm, tokens: 100000000, per: minute}]
        teams: {search: {keys: {bot: {}}}}
"""
STRICT, SAFE = "{estimate: strict}", "{estimate: safe, default_max_output_tokens: 50}"


def growth(rounds: int | None = 1, **units: int) -> Growth:
    allowance = Bound(3_000, {"web_searches": 1})
    return Growth("tools.0 (web_search)", "set max_tool_calls", rounds, units, allowance)


def reading(**changes: Any) -> CallReading:  # noqa: ANN401 - the fields of a reading
    size = Size(Bound(1_000), Bound(400), changes.pop("growth", None))
    fields: dict[str, Any] = {
        "provider": "openai", "model": "gpt-4o", "max_output_tokens": 100, "output_field": "max_completion_tokens",
    }  # fmt: skip
    return CallReading(stream=False, content=Sized(size), **fields | changes)


async def ask(limiter: Limiter, size: CallReading, *, caps_output: bool = False, consume: bool = False) -> Verdict:
    call = ReserveCall(
        Principal(key=Scope.parse_key(BOT)), "", "", "", size, (), None, False, False, consume, bytes(16), None,  # noqa: FBT003 - no dry run, not all limits
        caps_output=caps_output,
    )  # fmt: skip
    return await limiter.service.reserve(call)


async def hold(limiter: Limiter, size: CallReading, *, caps_output: bool = False) -> Granted:
    verdict = await ask(limiter, size, caps_output=caps_output)
    assert isinstance(verdict, Granted), verdict
    return verdict


def policy(settings: str) -> str:
    return POLICY.replace("SETTINGS", settings)


@pytest.mark.parametrize(
    ("settings", "inputs"), [(STRICT, 1_000), (SAFE, 400), ("{}", 400), ("{estimate: learned}", 400)]
)
async def test_each_way_of_sizing_holds_its_own_bound(limiter: Limiter, settings: str, inputs: int) -> None:
    await limiter.apply(policy(settings))
    granted = await hold(limiter, reading(choices=2))
    assert granted.held_nanousd == inputs * INPUT + 200 * OUTPUT
    assert (granted.max_output_tokens, granted.output_field) == (100, "")
    assert (await limiter.record(granted)).tokens == inputs + 200


async def test_a_strict_hold_of_a_call_that_grows_is_for_a_window_in_every_round_and_for_the_fees(
    limiter: Limiter,
) -> None:
    await limiter.apply(policy(STRICT))
    assert (await hold(limiter, reading(growth=growth(2)))).held_nanousd == 3 * WINDOW * INPUT + 100 * OUTPUT
    granted = await hold(limiter, reading(growth=growth(2, web_searches=2), model="searcher", provider=""))
    assert granted.held_nanousd == 3 * 8_000 * 1_000 + 100 * 2_000 + 2 * usd("0.01")


async def test_a_strict_hold_of_a_call_that_nothing_bounds_is_refused_and_the_remedy_told(limiter: Limiter) -> None:
    await limiter.apply(policy(STRICT))
    with pytest.raises(InvalidArgument, match=r"web_search.*set max_tool_calls.*strict"):
        await ask(limiter, reading(growth=growth(None)))
    unknown = reading(growth=growth(0), model="m")
    with pytest.raises(InvalidArgument, match="context window of m is not known"):
        await limiter.service.reserve(
            ReserveCall(
                Principal(key=Scope.parse_key(BOT)), "", "m", "maker", unknown, (), None, False, False, False,  # noqa: FBT003 - neither dry run, all limits nor consume
                bytes(16), None,
            )
        )  # fmt: skip
    await limiter.dump()


async def test_a_safe_hold_of_a_call_that_grows_has_an_allowance(limiter: Limiter) -> None:
    await limiter.apply(policy(SAFE))
    granted = await hold(limiter, reading(growth=growth(None)))
    assert granted.held_nanousd == 3_400 * INPUT + 100 * OUTPUT  # a search has no price here


async def test_fees_without_a_price_have_no_upper_bound(limiter: Limiter) -> None:
    await limiter.apply(policy(STRICT))
    with pytest.raises(InvalidArgument, match="web_searches"):
        await ask(limiter, reading(growth=growth(1, web_searches=2)))


async def test_output_that_nobody_names_is_held_for_as_the_model_can_write_unless_somebody_caps_it(
    limiter: Limiter,
) -> None:
    await limiter.apply(policy("{estimate: strict, default_max_output_tokens: 50}"))
    unnamed = reading(max_output_tokens=None)
    granted = await hold(limiter, unnamed)
    assert (granted.max_output_tokens, granted.output_field) == (LONGEST, "max_completion_tokens")
    assert granted.held_nanousd == 1_000 * INPUT + LONGEST * OUTPUT
    capped = await hold(limiter, unnamed, caps_output=True)
    assert (capped.max_output_tokens, capped.held_nanousd) == (50, 1_000 * INPUT + 50 * OUTPUT)
    nowhere = await hold(limiter, reading(max_output_tokens=None, output_field=""), caps_output=True)
    assert nowhere.max_output_tokens == LONGEST


async def test_a_strict_hold_asks_for_no_maximum_where_output_costs_nothing(limiter: Limiter) -> None:
    await limiter.apply(policy(STRICT))
    granted = await limiter.grant(tokens=(0, None), units={"input_characters": 100}, model="speaker")
    assert granted.held_nanousd == 100 * 30_000


async def test_a_strict_hold_for_a_model_whose_longest_output_is_not_known_wants_a_maximum_named(
    limiter: Limiter,
) -> None:
    await limiter.apply(policy(STRICT))
    with pytest.raises(InvalidArgument, match=r"name max_output_tokens.*strict"):
        await limiter.reserve(tokens=(10, None))
    assert (await limiter.grant(tokens=(10, 5))).held_nanousd == 20_000


async def test_what_a_model_is_told_to_think_comes_on_top_of_the_default_output(limiter: Limiter) -> None:
    await limiter.apply(policy(SAFE))
    granted = await hold(limiter, reading(max_output_tokens=None, thinking=1_000))
    assert (granted.held_nanousd, granted.max_output_tokens) == (400 * INPUT + 1_050 * OUTPUT, 1_050)
    named = await hold(limiter, reading(max_output_tokens=100, thinking=1_000))
    assert named.held_nanousd == 400 * INPUT + 100 * OUTPUT
    most = await hold(limiter, reading(max_output_tokens=None, thinking=1_000_000))
    assert most.max_output_tokens == LONGEST


async def test_the_default_output_is_that_of_the_most_specific_pattern(limiter: Limiter) -> None:
    await limiter.apply(
        policy('{default_max_output_tokens: {"*": 10, "d*": 20, "dear-*": 30, "dear": 40, "dea?": 35}}')
    )
    for model, output in (("m", 10), ("dear", 40), ("dear-2", 30)):
        assert (await limiter.grant(tokens=(0, None), model=model)).max_output_tokens == output
    await limiter.apply(policy("{default_max_output_tokens: {dear: 40}}"))
    assert (await limiter.grant(tokens=(0, None))).max_output_tokens == 4096


MIXED = """
    version: 1
    organizations:
      acme:
        limits: [{id: cap, spend: 1, per: day, estimate: strict}]
        teams:
          search:
            limits: [{id: cap, spend: 1, per: day}]
            keys: {bot: {limits: [{id: cap, spend: 1, per: day, estimate: learned}]}}
"""


class _Tenth:
    """What was learned: such calls cost a tenth."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def factor(self, *asked: object) -> object:
        self.asked.append(asked)
        return self


@pytest.fixture
def tenth(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> _Tenth:
    found = _Tenth()
    learned: Any = found
    limiter.service._desk.learned = learned
    monkeypatch.setattr("limiter.service.reserving.learned_cost", lambda inputs, outputs, **_: (inputs + outputs) // 10)
    return found


async def test_each_limit_holds_what_its_own_way_of_sizing_says(limiter: Limiter, tenth: _Tenth) -> None:
    await limiter.apply(MIXED)
    strict, safe = 1_000 * INPUT + 100 * OUTPUT, 400 * INPUT + 100 * OUTPUT
    granted = await hold(limiter, reading())
    held = {place: status.held for place, status in (await limiter.limits(model="gpt-4o")).items()}
    assert held == {"acme cap": strict, "acme/search cap": safe, "acme/search/bot cap": safe // 10}
    assert granted.held_nanousd == strict
    record = await limiter.record(granted)
    assert record.held == strict
    assert [taken.held for taken in record.taken] == [strict, safe, safe // 10]
    assert json.loads(record.call)["safe"] == [400 * INPUT, 100 * OUTPUT]
    assert tenth.asked[0][:3] == ("acme", "search", "gpt-4o")
    await limiter.dump()


@pytest.mark.parametrize("end", ["settle", "release", "expire", "elsewhere"])
@pytest.mark.usefixtures("tenth")
async def test_however_a_hold_ends_every_limit_gets_back_what_it_held(limiter: Limiter, end: str) -> None:
    await limiter.apply(MIXED)
    granted = await hold(limiter, reading())
    if end == "release":
        await limiter.release(granted)
        cost = "0.00"
    elif end == "expire":
        limiter.tick("11 minutes")
        await limiter.service.sweep()
        cost = "0.0035"  # in full: the largest of its amounts
    else:
        if end == "elsewhere":
            limiter.service._desk.granted.clear()
        settled = await limiter.settle(granted, Usage(100, 20))
        assert (settled.overage_nanousd, settled.released_nanousd) == (0, granted.held_nanousd - 450_000)
        cost = "0.00045"
    for place in ("acme cap", "acme/search cap", "acme/search/bot cap"):
        assert await limiter.money(place, model="gpt-4o") == Money(cost, "0.00")
    await limiter.dump()


@pytest.mark.usefixtures("tenth")
async def test_a_learned_hold_is_never_more_than_the_safe_one_nor_nothing(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(policy("{estimate: learned}"))
    for told, held in ((10**12, 400 * INPUT + 100 * OUTPUT), (0, 1)):
        monkeypatch.setattr("limiter.service.reserving.learned_cost", lambda *_, told=told, **__: told)
        assert (await hold(limiter, reading())).held_nanousd == held


@pytest.mark.usefixtures("tenth")
async def test_a_refusal_tells_what_each_limit_was_asked_for_and_what_output_would_fit_all(limiter: Limiter) -> None:
    await limiter.apply(
        MIXED.replace("spend: 1, per: day, estimate: strict", "spend: 0.003, per: day, estimate: strict")
    )
    denied = await ask(limiter, reading())
    assert isinstance(denied, Denied)
    assert [(status.scope.path, status.requested) for status in denied.violations] == [("acme", 3_500_000)]
    assert denied.fits_max_output_tokens == 50
    assert (await hold(limiter, reading(max_output_tokens=50))).held_nanousd == 3_000_000


@pytest.mark.usefixtures("tenth")
async def test_a_consumed_call_costs_the_same_at_every_limit(limiter: Limiter) -> None:
    await limiter.apply(MIXED)
    granted = await ask(limiter, reading(), consume=True)
    assert isinstance(granted, Granted)
    for place in ("acme cap", "acme/search cap", "acme/search/bot cap"):
        assert await limiter.money(place, model="gpt-4o") == Money("0.0035", "0.00")
    await limiter.dump()


@pytest.mark.parametrize("settings", [STRICT, SAFE])
@pytest.mark.parametrize("choices", [1, 3])
async def test_what_fits_is_granted_and_one_token_more_is_not(limiter: Limiter, settings: str, choices: int) -> None:
    await limiter.apply(policy(settings).replace("spend: 100", "spend: 0.01"))
    denied = await ask(limiter, reading(max_output_tokens=99_999, choices=choices))
    assert isinstance(denied, Denied)
    fits = denied.fits_max_output_tokens
    assert fits is not None
    more = await ask(limiter, reading(max_output_tokens=fits + 1, choices=choices))
    assert isinstance(more, Denied)
    assert more.reason is DenialReason.SPEND_CEILING
    assert (await hold(limiter, reading(max_output_tokens=fits, choices=choices))).max_output_tokens == fits


async def test_free_models_are_never_refused_for_money_nor_for_having_no_bound(limiter: Limiter) -> None:
    settings = '{estimate: strict, free: ["gpt-*"], floors: [{models: ["*"], cost: 1}]}'
    await limiter.apply(policy(settings).replace("spend: 100", "spend: 1"))
    await limiter.charge(id="c", actual="2")
    granted = await hold(limiter, reading(max_output_tokens=None, growth=growth(None)))
    assert granted.held_nanousd == 0
    settled = await limiter.settle(granted, Usage(100, 20))
    assert (settled.cost_nanousd, settled.flags) == (0, RowFlag(0))


async def test_the_operation_is_in_the_books(limiter: Limiter) -> None:
    await limiter.apply(policy(SAFE))
    granted = await hold(limiter, reading(operation="images", max_output_tokens=0))
    call = json.loads((await limiter.record(granted)).call)
    assert (call["operation"], call["asked"]) == ("images", {"input_tokens": 400})


async def test_a_call_that_had_no_bound_is_granted_as_soon_as_the_policy_is_safe_and_refused_when_it_is_strict(
    limiter: Limiter,
) -> None:
    for settings, bounded in ((STRICT, False), (SAFE, True), (STRICT, False)):
        await limiter.apply(policy(settings))
        if bounded:
            await hold(limiter, reading(growth=growth(None)))
        else:
            with pytest.raises(InvalidArgument, match="strict"):
                await ask(limiter, reading(growth=growth(None)))


@pytest.mark.parametrize("estimate", ["strict", "safe"])
async def test_what_fits_is_granted_when_it_is_named_in_a_request_that_named_nothing(
    limiter: Limiter, estimate: str
) -> None:
    settings = f"{{estimate: {estimate}, default_max_output_tokens: 9999}}"
    await limiter.apply(policy(settings).replace("spend: 100", "spend: 0.05"))
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}]}
    url = ("api.openai.com", "/v1/chat/completions")
    denied = await limiter.refusal(request=ProviderRequest(*url, json.dumps(body).encode()), model="")
    assert denied.fits_max_output_tokens is not None
    body["max_completion_tokens"] = denied.fits_max_output_tokens
    await limiter.grant(request=ProviderRequest(*url, json.dumps(body).encode()), model="")

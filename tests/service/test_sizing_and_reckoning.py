"""From a provider's own request to the hold, and from its own answer to the charge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limiter.domain.calls import Outcome, ProviderRequest, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.verdicts import DenialReason, Granted
from limiter.service.calls import SettleCall
from tests.rules.desk import Limiter, name_of, usd

POLICY = """
    version: 1
    organizations:
      acme:
        settings: {default_max_output_tokens: 50}
        aliases: {my-deployment: gpt-4o}
        limits: [{id: all, spend: SPEND, per: total}, {id: tpm, tokens: 1000000, per: minute}]
        teams: {search: {keys: {bot: {}}}}
"""
MESSAGES = [{"role": "user", "content": "Say hello."}]
INPUT, OUTPUT = 2_500, 10_000  # nano-USD per token of gpt-4o in prices.yaml


def chat(**body: object) -> ProviderRequest:
    text = json.dumps({"model": "gpt-4o", "messages": MESSAGES} | body)
    return ProviderRequest("api.openai.com", "/v1/chat/completions", text.encode())


def answer(usage: dict[str, Any] | None, *, status: int = 200) -> ProviderResponse:
    body = {"id": "chatcmpl-7", "model": "gpt-4o", "choices": []} | ({"usage": usage} if usage else {})
    return ProviderResponse(status, "application/json", json.dumps(body).encode())


async def hold(limiter: Limiter, spend: str = "100", **body: object) -> Granted:
    await limiter.apply(POLICY.replace("SPEND", spend))
    return await limiter.grant(request=chat(**body), model="")


async def test_a_provider_request_is_held_for_all_that_it_can_cost(limiter: Limiter) -> None:
    granted = await hold(limiter, max_tokens=100)
    record = await limiter.record(granted)
    inputs = record.tokens - 100
    assert len("Say hello.") // 4 <= inputs <= 3 * len(chat(max_tokens=100).body)
    assert granted.held_nanousd == inputs * INPUT + 100 * OUTPUT
    assert granted.max_output_tokens == 100


async def test_several_choices_are_held_for_together_and_told_each(limiter: Limiter) -> None:
    one, three = await hold(limiter, max_tokens=100), await hold(limiter, max_tokens=100, n=3)
    assert three.max_output_tokens == 100
    assert abs(three.held_nanousd - one.held_nanousd - 200 * OUTPUT) <= 8 * INPUT


async def test_a_request_without_a_limit_of_its_own_has_the_policys(limiter: Limiter) -> None:
    assert (await hold(limiter)).max_output_tokens == 50


async def test_a_deployment_is_priced_as_the_model_that_it_stands_for(limiter: Limiter) -> None:
    record = await limiter.record(await hold(limiter, model="my-deployment", max_tokens=10))
    assert record.held == (record.tokens - 10) * INPUT + 10 * OUTPUT
    assert json.loads(record.call)["alias_of"] == "gpt-4o"


@pytest.mark.parametrize("choices", [1, 3])
async def test_what_fits_of_a_provider_request_is_granted_and_one_token_more_is_not(
    limiter: Limiter, choices: int
) -> None:
    await limiter.apply(POLICY.replace("SPEND", "0.01"))
    denied = await limiter.refusal(request=chat(max_tokens=99_999, n=choices), model="")
    assert denied.reason is DenialReason.SPEND_CEILING
    fits = denied.fits_max_output_tokens
    assert fits is not None
    # As many digits as before: the size of the body bounds its input.
    await limiter.refusal(request=chat(max_tokens=fits + 1, n=choices, user="x" * (5 - len(str(fits + 1)))), model="")
    unpadded = await limiter.grant(request=chat(max_tokens=fits, n=choices), model="")
    assert unpadded.max_output_tokens == fits


async def test_tags_in_the_request_go_into_the_books(limiter: Limiter) -> None:
    granted = await hold(limiter, metadata={"tags": ["customer:initech", "plain"]})
    assert json.loads((await limiter.record(granted)).call)["tags"] == [["customer", "initech"]]


async def test_the_customer_of_a_refused_request_is_read_from_it_too(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("SPEND", "0"))
    await limiter.refusal(request=chat(metadata={"tags": ["customer:initech"]}), model="")
    await limiter.service.flush_refusals()
    (row,) = await limiter.rows()
    assert [entry["customer"] for entry in json.loads(row.call)["refusals"]] == ["initech"]


async def test_the_providers_own_answer_is_charged_by_its_usage(limiter: Limiter) -> None:
    granted = await hold(limiter, max_tokens=100)
    settled = await limiter.settle(granted, answer({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}))
    assert (settled.basis, settled.cost_nanousd) == (Basis.USAGE, 11 * INPUT + 7 * OUTPUT)
    assert (settled.usage, settled.model) == (Usage(11, 7), "gpt-4o")
    ending = json.loads((await limiter.rows())[0].ending)
    assert (ending["outcome"], ending["provider_request_id"]) == ("COMPLETED", "chatcmpl-7")
    assert ending["price"]
    assert await limiter.left("acme tpm", model="gpt-4o") == 1_000_000 - 18


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_answer_that_is_an_error_cost_nothing(limiter: Limiter, status: int) -> None:
    granted = await hold(limiter)
    settled = await limiter.settle(granted, answer(None, status=status))
    assert (settled.state, settled.cost_nanousd, settled.basis) == (State.SETTLED, 0, Basis.USAGE)
    assert RowFlag.FAILED in settled.flags
    assert await limiter.left("acme tpm", model="gpt-4o") == 1_000_000


async def test_an_answer_without_usage_charges_the_hold_as_an_estimate_and_says_so(limiter: Limiter) -> None:
    granted = await hold(limiter)
    settled = await limiter.settle(granted, answer(None))
    assert (settled.basis, settled.cost_nanousd) == (Basis.ESTIMATED, granted.held_nanousd)
    assert "hold is charged in full" in settled.warnings[0]
    corrected = await limiter.settle(granted, Usage(11, 7))
    assert (corrected.repeated_call, corrected.cost_nanousd) == (False, 11 * INPUT + 7 * OUTPUT)


async def test_a_stream_that_broke_off_is_aborted_and_charged_as_an_estimate(limiter: Limiter) -> None:
    granted = await hold(limiter, stream=True)
    chunk = b'data: {"id": "c", "model": "gpt-4o", "choices": [{"delta": {"content": "He"}}]}\n\n'
    settled = await limiter.settle(granted, ProviderResponse(200, "text/event-stream", chunk))
    assert (settled.basis, settled.cost_nanousd) == (Basis.ESTIMATED, granted.held_nanousd)
    assert RowFlag.ABORTED in settled.flags


async def test_a_broken_off_stream_on_another_sidecar_is_charged_alike(limiter: Limiter) -> None:
    granted = await hold(limiter, stream=True)
    limiter.service._desk.granted.forget((await limiter.record(granted)).name)
    chunk = b'data: {"id": "c", "model": "gpt-4o", "choices": [{"delta": {"content": "He"}}]}\n\n'
    settled = await limiter.settle(granted, ProviderResponse(200, "text/event-stream", chunk))
    assert settled.cost_nanousd == granted.held_nanousd


async def test_what_the_caller_says_of_the_outcome_stands_unless_the_answer_knows_better(limiter: Limiter) -> None:
    granted = await hold(limiter)
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    settled = await limiter.settle(granted, answer(usage), outcome=Outcome.ABORTED)
    assert RowFlag.ABORTED in settled.flags


async def test_a_charge_can_be_told_by_the_providers_answer(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("SPEND", "100"))
    booked = await limiter.charge(id="c", model="gpt-4o", actual=answer({"prompt_tokens": 10, "completion_tokens": 5}))
    assert (booked.cost_nanousd, booked.overage_nanousd) == (10 * INPUT + 5 * OUTPUT, 0)
    with pytest.raises(InvalidArgument, match="charge with usage"):
        await limiter.charge(id="d", model="gpt-4o", actual=answer(None))


async def test_a_cost_too_large_for_one_call_is_refused(limiter: Limiter) -> None:
    granted = await hold(limiter)
    with pytest.raises(InvalidArgument, match="cost_nanousd"):
        await limiter.service.settle(SettleCall(name_of(granted), 2**53, Outcome.COMPLETED, False, "", ""))  # noqa: FBT003 - not estimated
    assert (await limiter.settle(granted, "9007199.254740991")).cost_nanousd == usd("9007199.254740991")


async def test_the_terms_that_were_asked_for_hold_for_the_model_as_served(limiter: Limiter) -> None:
    await limiter.apply("version: 1\norganizations: {acme: {teams: {search: {keys: {bot: {}}}}}}")
    costs = []
    for speed in ("fast", "standard"):
        body = json.dumps({"model": "claude-opus-4-8", "messages": [], "max_tokens": 100, "speed": speed})
        request = ProviderRequest("api.anthropic.com", "/v1/messages", body.encode())
        hold = await limiter.grant(request=request, model="")
        costs.append((await limiter.settle(hold, Usage(100, 100), model="claude-opus-4-8-20260101")).cost_nanousd)
    assert costs[0] == 2 * costs[1]

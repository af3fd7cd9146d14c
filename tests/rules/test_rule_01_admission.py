"""Rule 1: a Reserve is granted only if every enforced limit on its path has room for the whole hold."""

from __future__ import annotations

import pytest

from limiter.domain.calls import Usage
from limiter.domain.verdicts import DenialReason, Granted
from tests.rules.desk import Limiter, places, usd
from tests.rules.stories import tell

EVERYTHING = """
    version: 1
    organizations:
      acme:
        limits:
          - {id: month, spend: 100, per: month}
          - {id: rpm, requests: 10, per: minute}
          - {id: tpm, tokens: 1000, per: minute}
          - {id: slots, concurrency: 5}
        teams:
          search:
            limits:
              - {id: day, spend: 10, per: day}
              - {id: rpm, requests: 8, per: minute}
              - {id: tpm, tokens: 800, per: minute}
              - {id: slots, concurrency: 4}
            keys:
              bot:
                limits:
                  - {id: hour, spend: 1, per: hour}
                  - {id: rpm, requests: 6, per: minute}
                  - {id: tpm, tokens: 600, per: minute}
                  - {id: slots, concurrency: 3}
              cat: {}
"""

ONE_DAY = """
    version: 1
    organizations:
      acme:
        teams:
          search:
            limits: [{id: day, spend: 1, per: day}]
            keys: {bot: {}, dog: {}}
"""


async def test_a_hold_takes_from_every_limit_on_its_path_at_once(limiter: Limiter) -> None:
    await limiter.apply(EVERYTHING)
    await limiter.grant(tokens=(100, 200))
    limits = await limiter.limits()
    held = {where: status.held for where, status in limits.items() if status.limit.kind.name == "SPEND"}
    assert held == dict.fromkeys(("acme month", "acme/search day", "acme/search/bot hour"), usd("0.0005"))
    left = {where: status.remaining for where, status in limits.items() if status.limit.kind.name != "SPEND"}
    assert left == {
        "acme rpm": 9, "acme tpm": 700, "acme slots": 4,
        "acme/search rpm": 7, "acme/search tpm": 500, "acme/search slots": 3,
        "acme/search/bot rpm": 5, "acme/search/bot tpm": 300, "acme/search/bot slots": 2,
    }  # fmt: skip


async def test_money_may_be_spent_to_the_last_nano_dollar_and_not_beyond(limiter: Limiter) -> None:
    await limiter.apply(ONE_DAY)
    await tell(
        limiter,
        """
        reserve a 0.400000001 -> granted
        settle  a 0.400000001 -> SETTLED 0.400000001 USAGE
        reserve b 0.3         -> granted
        reserve c 0.3         -> SPEND_HELD acme/search day
        reserve c 0.299999999 -> granted
        reserve d 0.000000001 -> SPEND_HELD acme/search day
        money acme/search day -> 0.400000001 settled, 0.599999999 held
        """,
    )


async def test_a_refusal_says_whether_the_money_is_spent_or_only_held(limiter: Limiter) -> None:
    await limiter.apply(ONE_DAY)
    await tell(
        limiter,
        """
        reserve a 0.70 -> granted
        reserve b 0.40 -> SPEND_HELD acme/search day
        settle  a 0.70 -> SETTLED 0.70 USAGE
        reserve b 0.40 -> SPEND_CEILING acme/search day
        reserve b 0.30 -> granted
        reserve c 1.01 -> SPEND_CEILING acme/search day
        """,
    )


async def test_keys_of_a_team_share_what_the_team_has(limiter: Limiter) -> None:
    await limiter.apply(ONE_DAY)
    await tell(
        limiter,
        """
        reserve a 0.70                    -> granted
        reserve b 0.70 by acme/search/dog -> SPEND_HELD acme/search day
        """,
    )


@pytest.mark.parametrize(
    ("options", "reason", "violated"),
    [
        ({"cost": "1.01"}, "SPEND_CEILING", ["acme/search/bot hour"]),
        ({"cost": "10.01"}, "SPEND_CEILING", ["acme/search day", "acme/search/bot hour"]),
        ({"cost": "101"}, "SPEND_CEILING", ["acme month", "acme/search day", "acme/search/bot hour"]),
        ({"tokens": (601, 0)}, "NEVER_FITS", ["acme/search/bot tpm"]),
        ({"tokens": (601, 600)}, "NEVER_FITS", ["acme tpm", "acme/search tpm", "acme/search/bot tpm"]),
        (
            {"tokens": (0, 600_000), "model": "dear"},
            "NEVER_FITS",
            ["acme tpm", "acme/search day", "acme/search tpm", "acme/search/bot hour", "acme/search/bot tpm"],
        ),
    ],
)
async def test_a_refusal_names_every_limit_that_refused(
    limiter: Limiter, options: dict[str, object], reason: str, violated: list[str]
) -> None:
    await limiter.apply(EVERYTHING)
    denied = await limiter.refusal(**options)
    assert (denied.reason.name, places(denied.violations)) == (reason, violated)
    for status in denied.violations:
        assert f"limit {status.limit.id} (" in denied.message
        assert f" of {status.scope.path} has " in denied.message


async def test_a_refusal_for_all_kinds_and_scopes_names_them_all_and_gives_the_first_reason(limiter: Limiter) -> None:
    await limiter.apply(EVERYTHING)
    for _ in range(3):
        await limiter.grant(tokens=(200, 0))
    denied = await limiter.refusal(tokens=(500, 600_000), model="dear")
    assert denied.reason is DenialReason.NEVER_FITS
    denied = await limiter.refusal(tokens=(500, 0))
    assert denied.reason is DenialReason.TOKEN_RATE
    assert places(denied.violations) == [
        "acme tpm", "acme/search tpm", "acme/search/bot tpm", "acme/search/bot slots",
    ]  # fmt: skip
    assert [status.requested for status in denied.violations] == [500, 500, 500, 1]


async def test_the_reason_is_the_first_by_precedence_of_all_that_apply(limiter: Limiter) -> None:
    await limiter.apply("""
        version: 1
        organizations:
          acme:
            limits:
              - {id: slots, concurrency: 1}
              - {id: tpm, tokens: 10, per: minute}
              - {id: rpm, requests: 1, per: minute}
            teams: {search: {limits: [{id: day, spend: 1, per: day}], keys: {bot: {}}}}
    """)
    await limiter.grant(tokens=(9, 0), model="m")
    seen = {}
    calls: dict[str, dict[str, object]] = {
        "rates": {"tokens": (2, 0)},
        "held and more": {"tokens": (2, 0), "model": "dear"},
        "spent and more": {"cost": "1.1"},
        "never": {"tokens": (11, 0)},
        "the model": {"tokens": (11, 0), "model": "unheard-of"},
    }
    for name, options in calls.items():
        seen[name] = (await limiter.refusal(**options)).reason.name
    assert seen == {
        "rates": "REQUEST_RATE",
        "held and more": "REQUEST_RATE",
        "spent and more": "SPEND_CEILING",
        "never": "NEVER_FITS",
        "the model": "MODEL_UNPRICED",
    }


@pytest.mark.parametrize(
    "options",
    [
        {"cost": "1.01"},
        {"tokens": (601, 0)},
        {"tokens": (0, 601), "model": "dear"},
        {"cost": "101", "all_limits": True},
    ],
)
async def test_a_refusal_changes_nothing_in_the_store(limiter: Limiter, options: dict[str, object]) -> None:
    await limiter.apply(EVERYTHING)
    await limiter.grant(tokens=(100, 0))
    before = await limiter.dump()
    limiter.tick("10 seconds")
    await limiter.refusal(id="r", **options)
    assert (await limiter.dump()).raw == before.raw


async def test_one_limit_without_room_keeps_all_others_untouched(limiter: Limiter) -> None:
    await limiter.apply(EVERYTHING)
    for _ in range(3):
        await limiter.grant(cost="0.10")
    before = await limiter.limits()
    denied = await limiter.refusal(cost="0.10")
    assert (denied.reason, places(denied.violations)) == (DenialReason.CONCURRENCY, ["acme/search/bot slots"])
    assert await limiter.limits() == before
    await limiter.grant("acme/search/cat", cost="0.10")


async def test_a_refused_call_is_granted_as_soon_as_there_is_room(limiter: Limiter) -> None:
    await limiter.apply(ONE_DAY)
    hold = await limiter.grant(cost="0.70")
    assert (await limiter.refusal(cost="0.40")).reason is DenialReason.SPEND_HELD
    await limiter.release(hold)
    await limiter.grant(cost="0.40")


async def test_expired_holds_make_room_before_anybody_is_refused(limiter: Limiter) -> None:
    await limiter.apply(ONE_DAY.replace("acme:\n", "acme:\n        settings: {on_expiry: release}\n"))
    await limiter.grant(cost="0.70", ttl="1 minute")
    limiter.tick("1 minute")
    await limiter.grant(cost="0.70")
    assert (await limiter.money("acme/search day")).held == "0.70"


async def test_an_answer_tells_the_tightest_limit_of_each_kind_and_all_on_request(limiter: Limiter) -> None:
    await limiter.apply(EVERYTHING)
    granted = await limiter.grant(tokens=(100, 0))
    assert places(granted.limits) == [
        "acme/search/bot hour", "acme/search/bot rpm", "acme/search/bot tpm", "acme/search/bot slots",
    ]  # fmt: skip
    everything = await limiter.grant(tokens=(100, 0), all_limits=True)
    assert len(everything.limits) == 12
    refused = await limiter.refusal(cost="1.01", all_limits=True)
    assert len(refused.limits) == 12


async def test_a_limit_counts_only_the_models_that_it_names(limiter: Limiter) -> None:
    await limiter.apply("""
        version: 1
        organizations:
          acme: {teams: {search: {keys: {bot: {limits: [{id: big, spend: 1, per: day, models: ["dear*"]}]}}}}}
    """)
    await limiter.grant(cost="5", model="m")
    assert (await limiter.refusal(cost="5", model="dear-2")).reason is DenialReason.SPEND_CEILING
    await limiter.grant(cost="1", model="dear")
    assert (await limiter.money("acme/search/bot big", model="dear")).held == "1.00"


@pytest.mark.parametrize("seen", ["fits", "one more does not"])
@pytest.mark.parametrize("limit", ["{id: x, spend: 0.001, per: day}", "{id: x, tokens: 777, per: minute}"])
@pytest.mark.parametrize("model", ["m", "dear", "half"])
async def test_fits_max_output_tokens_is_the_largest_that_is_granted(
    limiter: Limiter, limit: str, model: str, seen: str
) -> None:
    await limiter.apply(f"""
        version: 1
        organizations:
          acme: {{teams: {{search: {{keys: {{bot: {{limits: [{limit}, {{id: y, spend: 0.003, per: total}}]}}}}}}}}}}
    """)
    fits = (await limiter.refusal(tokens=(7, 10_000_000), model=model)).fits_max_output_tokens
    if "spend: 0.001" in limit and model == "half":
        assert fits == 1_999_993
    assert fits is not None
    if seen == "fits":
        assert (await limiter.grant(tokens=(7, fits), model=model)).max_output_tokens == fits
    else:
        await limiter.refusal(tokens=(7, fits + 1), model=model)


async def test_no_output_is_said_to_fit_where_the_input_alone_is_too_large_or_output_is_not_the_matter(
    limiter: Limiter,
) -> None:
    await limiter.apply(EVERYTHING)
    assert (await limiter.refusal(tokens=(601, 10))).fits_max_output_tokens is None
    assert (await limiter.refusal(cost="1.01")).fits_max_output_tokens is None
    for _ in range(3):
        await limiter.grant(tokens=(10, 0))
    assert (await limiter.refusal(tokens=(10, 700))).fits_max_output_tokens is None


async def test_settled_usage_makes_room_for_what_was_held_too_much(limiter: Limiter) -> None:
    await limiter.apply(ONE_DAY)
    hold = await limiter.grant(tokens=(0, 400_000))
    assert not isinstance(await limiter.reserve(tokens=(0, 400_000)), Granted)
    await limiter.settle(hold, Usage(output_tokens=50_000))
    await limiter.grant(tokens=(0, 400_000))

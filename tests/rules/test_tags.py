"""Tags are for the books: what the policy fixes wins, and what it does not allow is refused."""

from __future__ import annotations

import json

import pytest

from limiter.domain.errors import InvalidArgument
from tests.rules.desk import Limiter

POLICY = """
    version: 1
    organizations:
      acme:
        teams:
          search:
            key_defaults: {allowed_tags: [customer, feature]}
            keys:
              bot: {limits: []}
              strict: {limits: [], tags: {customer: globex}, allowed_tags: []}
              open: {limits: [], allowed_tags: [anything]}
"""


async def test_a_tag_outside_the_keys_list_is_refused_and_named_by_reserve_and_charge(limiter: Limiter) -> None:
    await limiter.apply(POLICY)

    with pytest.raises(InvalidArgument, match=r"tags: 'team' is not valid; .* may carry the tags customer, feature "):
        await limiter.reserve(cost="1.00", tags={"customer": "acme", "team": "blue"})
    with pytest.raises(InvalidArgument, match="tags: 'team' is not valid"):
        await limiter.charge(id="c", actual="1.00", tags={"team": "blue"})

    assert await limiter.rows() == []


async def test_a_keys_own_list_goes_before_that_of_its_team(limiter: Limiter) -> None:
    await limiter.apply(POLICY)

    await limiter.grant("acme/search/bot", cost="1.00", tags={"customer": "acme"})
    await limiter.grant("acme/search/open", cost="1.00", tags={"anything": "goes"})
    with pytest.raises(InvalidArgument, match="tags: 'customer'"):
        await limiter.reserve("acme/search/open", cost="1.00", tags={"customer": "acme"})


async def test_a_tag_that_the_policy_fixes_may_be_said_and_is_overruled(limiter: Limiter) -> None:
    await limiter.apply(POLICY)

    hold = await limiter.grant("acme/search/strict", cost="1.00", tags={"customer": "acme"})

    assert json.loads((await limiter.record(hold)).call)["tags"] == [["customer", "globex"]]


async def test_a_changed_list_holds_for_the_next_call(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="1.00", tags={"customer": "acme"})

    await limiter.apply(POLICY.replace("[customer, feature]", "[]"))

    with pytest.raises(InvalidArgument, match=r"may carry the tags \(none\)"):
        await limiter.reserve(cost="1.00", tags={"customer": "acme"})

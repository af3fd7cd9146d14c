"""Tags of the caller, by header and by body."""

from __future__ import annotations

import json

import pytest

from tests.envoy.checks import CHAT, POLICY, Answer, Front


async def tags_of(front: Front, answer: Answer) -> list[tuple[str, str]]:
    """The tags of a hold in the books."""
    call = json.loads((await front.limiter.record(answer.reservation)).call)
    return [(name, value) for name, value in call.get("tags", [])]


async def test_tags_come_by_header_and_by_body_and_the_header_never_reaches_the_provider(front: Front) -> None:
    await front.start()
    body = {**CHAT, "metadata": {"tags": ["team:blue", "not a tag"], "other": 1}}

    answer = await front.check(
        body, secret=await front.key(), headers={"x-limiter-tags": "customer: acme , feature:a:b"}
    )

    assert await tags_of(front, answer) == [("customer", "acme"), ("feature", "a:b"), ("team", "blue")]
    assert "x-limiter-tags" in answer.removed
    assert answer.metadata["body_tags"] is True


async def test_the_headers_tag_wins_over_the_bodys_of_the_same_name(front: Front) -> None:
    await front.start()
    body = {**CHAT, "metadata": {"tags": ["customer:from-body"]}}

    answer = await front.check(body, secret=await front.key(), headers={"x-limiter-tags": "customer:from-header"})

    assert await tags_of(front, answer) == [("customer", "from-header")]


async def test_a_tag_that_the_policy_fixes_wins_over_what_the_caller_says(front: Front) -> None:
    await front.start()
    secret = await front.key(POLICY.replace("limits: []", "{limits: [], tags: {customer: globex}, allowed_tags: []}"))
    body = {**CHAT, "metadata": {"tags": ["customer:body"]}}

    answer = await front.check(secret=secret, headers={"x-limiter-tags": "customer:acme"})
    other = await front.check(body, secret=secret)

    assert await tags_of(front, answer) == await tags_of(front, other) == [("customer", "globex")]


async def test_a_tag_that_the_key_may_not_give_is_400_and_named(front: Front) -> None:
    await front.start()
    secret = await front.key(POLICY.replace("limits: []", "{limits: [], allowed_tags: [feature]}"))

    good = await front.check(secret=secret, headers={"x-limiter-tags": "feature:a"})
    by_header = await front.check(secret=secret, headers={"x-limiter-tags": "feature:a,customer:acme"})
    by_body = await front.check({**CHAT, "metadata": {"tags": ["customer:acme"]}}, secret=secret)

    assert await tags_of(front, good) == [("feature", "a")]
    for answer in (by_header, by_body):
        assert (answer.kind, answer.status, answer.headers["x-should-retry"]) == ("denied", 400, "false")
        assert "'customer' is not valid; this key's calls may carry the tags feature" in answer.body["error"]["message"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("customer", "write name:value"),
        (":acme", "write name:value"),
        ("cust omer:acme", "write name:value"),
        ("customer:", "a value is 1 to 256"),
        ("customer:" + "x" * 257, "a value is 1 to 256"),
        ("x" * 65 + ":acme", "a name is 1 to 64"),
        ("customer:a\0b", "a value is 1 to 256"),
        ("customer:a,customer:b", "give each tag once"),
        (",".join(f"t{n}:x" for n in range(17)), "use at most 16 tags"),
        ("customer:a,", "write name:value"),
    ],
)
async def test_a_malformed_tag_is_400_and_says_what_is_wrong(front: Front, text: str, why: str) -> None:
    await front.start()
    answer = await front.check(secret=await front.key(), headers={"x-limiter-tags": text})

    assert (answer.kind, answer.status) == ("denied", 400)
    assert why in answer.body["error"]["message"]
    assert "x-limiter-tags" in answer.body["error"]["param"]


async def test_header_and_body_together_carry_no_more_than_sixteen_tags(front: Front) -> None:
    await front.start()
    body = {**CHAT, "metadata": {"tags": [f"b{n}:x" for n in range(9)]}}

    answer = await front.check(
        body, secret=await front.key(), headers={"x-limiter-tags": ",".join(f"h{n}:x" for n in range(8))}
    )

    assert (answer.status, "use at most 16 tags" in answer.body["error"]["message"]) == (400, True)


async def test_a_name_that_is_no_tags_name_is_refused_in_the_body_too(front: Front) -> None:
    await front.start()
    answer = await front.check({**CHAT, "metadata": {"tags": ["a b:c"]}}, secret=await front.key())

    assert (answer.status, answer.body["error"]["param"]) == (400, "metadata.tags")

"""What a sidecar remembers is bounded, and a stranger is a stranger for a second at most."""

from __future__ import annotations

import asyncio

import pytest

from limiter.domain.errors import Unavailable
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.policy.document import parse_limits
from limiter.service import directory as subject
from limiter.service.directory import KeyRecord, Secret
from limiter.service.memory import Memory, Recall
from tests.rules.desk import BOT, PEPPER, Limiter
from tests.service.conftest import Watch

POLICY = """
    version: 1
    organizations:
      acme: {limits: [{id: day, spend: 100, per: day}], teams: {search: {keys: {bot: {}}}}}
"""


def test_a_memory_forgets_what_it_has_known_for_the_longest_time() -> None:
    memory: Memory[int, str] = Memory(3)
    for number in range(4):
        memory.put(number, str(number))
    assert [memory.get(number) for number in range(4)] == [None, "1", "2", "3"]
    memory.put(2, "two")
    memory.forget(1)
    memory.forget(1)
    assert (len(memory), memory.get(2)) == (2, "two")


def test_a_memory_never_grows_beyond_its_size() -> None:
    memory: Memory[int, int] = Memory(10)
    for number in range(1_000):
        memory.put(number, number)
        assert len(memory) <= 10


class Source:
    """Something to read slowly."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.go = asyncio.Event()
        self.value: str | None = "first"

    async def read(self, key: str) -> str | None:
        self.reads.append(key)
        value = self.value
        await self.go.wait()
        if value == "trouble":
            raise Unavailable("away")
        return value


async def test_what_many_ask_for_at_once_is_read_once() -> None:
    source = Source()
    recall: Recall[str, str] = Recall(10, source.read)
    asking = [asyncio.create_task(recall.get("a")) for _ in range(20)]
    await asyncio.sleep(0)
    source.go.set()
    assert await asyncio.gather(*asking) == ["first"] * 20
    assert await recall.get("a") == "first"
    assert source.reads == ["a"]


async def test_who_asked_first_may_go_while_the_others_still_wait() -> None:
    source = Source()
    recall: Recall[str, str] = Recall(10, source.read)
    asking = [asyncio.create_task(recall.get("a")) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    source.go.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["first", "first"]


async def test_what_is_forgotten_while_it_is_read_is_read_again() -> None:
    source = Source()
    recall: Recall[str, str] = Recall(10, source.read)
    early = asyncio.create_task(recall.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    recall.forget("a")
    source.value = "second"
    late = asyncio.create_task(recall.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.go.set()
    assert (await early, await late) == ("first", "second")
    assert await recall.get("a") == "second"


@pytest.mark.parametrize("value", [None, "trouble"])
async def test_nothing_and_trouble_are_not_remembered(value: str | None) -> None:
    source = Source()
    source.go.set()
    source.value = value
    recall: Recall[str, str] = Recall(10, source.read)
    if value is None:
        assert await recall.get("a") is None
    else:
        with pytest.raises(Unavailable):
            await recall.get("a")
    source.value = "found"
    assert await recall.get("a") == "found"


async def test_a_stranger_is_asked_for_once_a_second(
    limiter: Limiter, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "time", watch)
    await limiter.apply(POLICY)
    for _ in range(3):
        await limiter.refusal("lk-not-yet-a-secret", cost="1")
    await limiter.mint(BOT, secret="lk-not-yet-a-secret")
    watch.now_s += 0.99
    await limiter.refusal("lk-not-yet-a-secret", cost="1")
    watch.now_s += 0.01
    await limiter.grant("lk-not-yet-a-secret", cost="1")


async def test_strangers_are_remembered_in_bounded_space(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_STRANGERS_REMEMBERED", 5)
    directory = subject.Directory(limiter.store)
    for number in range(50):
        assert await directory.owner(PEPPER.digests(f"lk-{number}")) is None
    assert len(directory._strangers) == 5


async def test_an_owner_is_read_once_and_never_again(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    secret = await limiter.mint(BOT)
    await limiter.grant(secret, cost="1")
    await limiter.client.delete(*await limiter.client.keys("lim1:digest:*"))
    await limiter.grant(secret, cost="1")


def test_a_keys_record_is_read_as_it_was_written() -> None:
    record = KeyRecord(
        enabled=False,
        expires_ms=5,
        limits=parse_limits(
            "[{id: a, spend: 0.000000001, per: day, warn_at: [0.5]}, {id: b, tokens: 7, per: minute, burst: 9}]"
        ),
        secrets=(Secret("1:ab", "wxyz", 3), Secret("2:cd", "", 4, 9)),
        created_ms=2,
        declared=True,
    )
    assert KeyRecord.from_json(record.to_json()) == record
    assert KeyRecord.from_json(KeyRecord(limits=()).to_json()).limits == ()
    assert KeyRecord.from_json(KeyRecord().to_json()).limits is None


async def test_a_key_that_nobody_minted_has_no_record(limiter: Limiter) -> None:
    known = await subject.Directory(limiter.store).key(Scope("acme", "search", "nobody"))
    assert (known.revision, known.record) == (0, None)


async def test_a_secret_that_its_key_let_go_is_asked_for_once_a_second_and_may_find_another_owner(
    limiter: Limiter, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "time", watch)
    await limiter.apply(POLICY)
    secret = await limiter.mint(BOT, secret="lk-handed-down-123456")
    await limiter.grant(secret, cost="1")
    (digest,) = await limiter.client.keys("lim1:digest:*")
    await limiter.service.keyring.rotate(Scope.parse_key(BOT), overlap_ms=0)
    assert (await limiter.refusal(secret, cost="1")).reason is DenialReason.KEY_UNKNOWN
    await limiter.client.delete(digest)  # as its TTL does
    await limiter.mint("acme/search/heir", secret=secret)
    assert (await limiter.refusal(secret, cost="1")).reason is DenialReason.KEY_UNKNOWN
    watch.now_s += 1
    await limiter.grant(secret, cost="1")

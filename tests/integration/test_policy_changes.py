"""What is changed on one sidecar holds for the next Reserve on every other."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import balanced_books
from tests.integration.conftest import THOROUGH
from tests.integration.connections import USD, Connection, eventually, ms, of_key, of_secret
from tests.integration.sidecars import Sidecar

POLICY = """
version: 1
organizations:
  {organization}:
    limits: [{{id: all, spend: {usd}, per: total}}]
    teams:
      search:
        enabled: {team}
        key_defaults: {{limits: [{{id: all, spend: 10, per: total}}]}}
        keys:
          bot: {{enabled: {key}}}
"""


def policy(organization: str, *, usd: int = 10, key: bool = True, team: bool = True) -> str:
    return POLICY.format(organization=organization, usd=usd, key=str(key).lower(), team=str(team).lower())


@pytest.fixture
async def bot(three: list[Connection], organization: str) -> str:
    """A key that every sidecar has already decided about, so that each remembers what was."""
    await three[0].apply(policy(organization))
    key = f"{organization}/search/bot"
    for connection in three:
        await connection.grant(of_key(key, USD, dry_run=True))
    return key


async def test_a_raised_ceiling_holds_at_once_everywhere(three: list[Connection], organization: str, bot: str) -> None:
    held = await three[1].grant(of_key(bot, 10 * USD))
    await three[1].settle(held.reservation, 10 * USD)
    for step in range(1, 10):
        changed, asked = three[step % 3], three[(step + 1) % 3]
        other = f"{organization}/search/minted-{step}"
        await changed.mint(other)
        assert (await asked.deny(of_key(other, USD))).reason == pb.Denial.SPEND_CEILING
        await changed.apply(policy(organization, usd=10 + step))
        granted = await asked.grant(of_key(other, USD))
        await changed.settle(granted.reservation, USD)
        assert (await changed.deny(of_key(other, 1))).reason == pb.Denial.SPEND_CEILING
    assert (await balanced_books(three[2], organization)).settled(organization) == 19 * USD


async def test_a_lowered_ceiling_holds_at_once_everywhere_and_open_calls_are_still_charged(
    three: list[Connection], organization: str, bot: str
) -> None:
    open_call = await three[2].grant(of_key(bot, 6 * USD))
    await three[0].apply(policy(organization, usd=2))
    for connection in three:
        denial = await connection.deny(of_key(bot, 1))
        assert denial.reason == pb.Denial.SPEND_HELD
        assert [status.limit_value for status in denial.violations] == [2 * USD]
        assert [status.remaining for status in denial.violations] == [0]
    settled = await three[1].settle(open_call.reservation, 5 * USD)
    assert (settled.cost_nanousd, settled.overage_nanousd) == (5 * USD, 0)
    for connection in three:
        assert (await connection.deny(of_key(bot, 1))).reason == pb.Denial.SPEND_CEILING
    assert (await balanced_books(three[0], organization)).settled(organization) == 5 * USD


async def test_what_the_policy_disables_is_refused_at_once_everywhere(
    three: list[Connection], organization: str, bot: str
) -> None:
    for round_, off in enumerate(({"key": False}, {"team": False}, {"key": False, "team": False})):
        await three[round_ % 3].apply(policy(organization, **off))
        for connection in three:
            denial = await connection.deny(of_key(bot, USD))
            assert (denial.reason, denial.http_status) == (pb.Denial.KEY_DISABLED, 401)
        await three[round_ % 3].apply(policy(organization))
        for connection in three:
            await connection.grant(of_key(bot, USD, dry_run=True))


async def test_a_key_that_admin_disables_is_refused_at_once_everywhere(
    three: list[Connection], organization: str, bot: str
) -> None:
    del bot
    secret = await three[0].mint(f"{organization}/search/minted")
    for connection in three:
        await connection.grant(of_secret(secret, USD, dry_run=True))
    for step in range(6):
        enabled = bool(step % 2)
        update = pb.UpdateKeyRequest(key=f"{organization}/search/minted", enabled=enabled)
        await three[step % 3].admin.UpdateKey(update)
        for connection in three:
            answer = await connection.reserve(of_secret(secret, USD, dry_run=True))
            assert (answer.decision == pb.ReserveResponse.GRANTED) == enabled
            assert enabled or answer.denial.reason == pb.Denial.KEY_DISABLED


async def test_a_keys_own_limits_hold_at_once_everywhere(three: list[Connection], organization: str, bot: str) -> None:
    del bot
    name = f"{organization}/search/minted"
    secret = await three[0].mint(name)
    for connection in three:
        await connection.grant(of_secret(secret, 3 * USD, dry_run=True))
    own = "[{id: small, spend: 2, per: day}]"
    await three[0].admin.UpdateKey(pb.UpdateKeyRequest(key=name, limits_yaml=own))
    for connection in three:
        denial = await connection.deny(of_secret(secret, 3 * USD))
        assert [status.limit for status in denial.violations] == ["small"]
    await three[1].admin.UpdateKey(pb.UpdateKeyRequest(key=name, limits_yaml=""))
    for connection in three:
        await connection.grant(of_secret(secret, 3 * USD, dry_run=True))


async def test_an_unknown_key_is_refused_and_a_minted_one_works_at_once_elsewhere(
    three: list[Connection], organization: str, bot: str
) -> None:
    for connection in three:
        denial = await connection.deny(of_secret("lk-nobody-has-this", USD))
        assert (denial.reason, denial.http_status, denial.retryable) == (pb.Denial.KEY_UNKNOWN, 401, False)
        denial = await connection.deny(of_key(f"{organization}/search/nobody", USD))
        assert denial.reason == pb.Denial.KEY_UNKNOWN
        assert (await connection.deny(of_key("no-such-organization/search/bot", USD))).reason == pb.Denial.KEY_UNKNOWN
    secret = await three[0].mint(bot)
    for connection in three:
        granted = await connection.grant(of_secret(secret, USD))
        assert granted.reservation.startswith(f"organizations/{organization}/")
    # A name that was refused a moment ago is known as soon as somebody minted it.
    await three[1].mint(f"{organization}/search/nobody")
    for connection in three:
        await connection.grant(of_key(f"{organization}/search/nobody", USD, dry_run=True))


async def test_a_secret_that_was_tried_too_early_works_within_two_seconds_of_its_import(
    three: list[Connection], bot: str
) -> None:
    secret = f"sk-{bot}-of-another-gateway"
    for connection in three:
        assert (await connection.deny(of_secret(secret, USD))).reason == pb.Denial.KEY_UNKNOWN
    await three[0].admin.ImportKey(pb.ImportKeyRequest(key=bot, secret=secret))
    for connection in three:

        async def known(connection: Connection = connection) -> bool:
            answer = await connection.reserve(of_secret(secret, USD, dry_run=True))
            return answer.decision == pb.ReserveResponse.GRANTED

        await eventually(known, what="the imported secret", within_s=2)


async def test_a_rotation_without_overlap_ends_the_old_secret_at_once_everywhere(
    three: list[Connection], bot: str
) -> None:
    old = await three[0].mint(bot)
    for connection in three:
        await connection.grant(of_secret(old, USD, dry_run=True))
    new = (await three[1].admin.RotateKey(pb.RotateKeyRequest(key=bot, overlap=ms(0)))).secret
    for connection in three:
        denial = await connection.deny(of_secret(old, USD))
        assert denial.reason in {pb.Denial.KEY_UNKNOWN, pb.Denial.KEY_EXPIRED}
        assert denial.http_status == 401
        await connection.grant(of_secret(new, USD, dry_run=True))


async def test_a_rotation_with_overlap_ends_the_old_secret_when_the_overlap_ends(
    three: list[Connection], bot: str
) -> None:
    old = await three[0].mint(bot)
    for connection in three:
        await connection.grant(of_secret(old, USD, dry_run=True))
    rotated = await three[1].admin.RotateKey(pb.RotateKeyRequest(key=bot, overlap=ms(700)))
    ends = next(secret.not_after for secret in rotated.key.secrets if secret.HasField("not_after"))
    last_granted = 0.0
    for connection in three:
        await connection.grant(of_secret(rotated.secret, USD, dry_run=True))

        async def ended(connection: Connection = connection) -> bool:
            nonlocal last_granted
            asked = time.time()
            answer = await connection.reserve(of_secret(old, USD, dry_run=True))
            if answer.decision == pb.ReserveResponse.GRANTED:
                last_granted = max(last_granted, asked)
                return False
            assert answer.denial.http_status == 401
            assert time.time() * 1000 >= ends.ToMilliseconds()
            return True

        await eventually(ended, what="the end of the overlap")
        await connection.grant(of_secret(rotated.secret, USD, dry_run=True))
    assert 0 < last_granted * 1000 < ends.ToMilliseconds()


async def test_a_repeated_call_may_show_the_new_secret(three: list[Connection], bot: str) -> None:
    old = await three[0].mint(bot)
    granted = await three[1].grant(of_secret(old, USD, "call-1"))
    new = (await three[1].admin.RotateKey(pb.RotateKeyRequest(key=bot, overlap=ms(60_000)))).secret
    again = await three[2].grant(of_secret(new, USD, "call-1"))
    assert (again.reservation, again.repeated_call) == (granted.reservation, True)


async def test_a_key_that_expires_is_refused_from_that_moment_everywhere(
    three: list[Connection], organization: str, bot: str
) -> None:
    del bot
    name = f"{organization}/search/minted"
    secret = await three[0].mint(name)
    for connection in three:
        await connection.grant(of_secret(secret, USD, dry_run=True))
    soon = Timestamp()
    soon.FromMilliseconds(int(time.time() * 1000) + 500)
    await three[0].admin.UpdateKey(pb.UpdateKeyRequest(key=name, expires_at=soon))
    for connection in three:

        async def expired(connection: Connection = connection) -> bool:
            answer = await connection.reserve(of_secret(secret, USD, dry_run=True))
            if answer.decision == pb.ReserveResponse.GRANTED:
                return False
            assert answer.denial.reason == pb.Denial.KEY_EXPIRED
            assert time.time() * 1000 >= soon.ToMilliseconds()
            return True

        await eventually(expired, what="the key's expiry")
    await three[1].admin.UpdateKey(pb.UpdateKeyRequest(key=name, clear_expiry=True))
    for connection in three:
        await connection.grant(of_secret(secret, USD, dry_run=True))


async def test_minting_keys_makes_no_sidecar_read_a_policy_again(
    three: list[Connection], trio: list[Sidecar], organization: str, bot: str
) -> None:
    before = [sidecar.metric("limiter_stale_plans_total") for sidecar in trio]
    count = 100_000 if THOROUGH else 2_000
    minted: dict[int, str] = {}
    numbers = iter(range(count))

    async def minter(connection: Connection) -> None:
        for number in numbers:
            minted[number] = await connection.mint(f"{organization}/search/customer-{number}")

    async def caller(connection: Connection) -> int:
        calls = 0
        while len(minted) < count:
            granted = await connection.grant(of_key(bot, USD // 1000))
            await connection.settle(granted.reservation, 1)
            calls += 1
            await asyncio.sleep(0.002)  # keys are what there are many of
        return calls

    callers = [asyncio.create_task(caller(connection)) for connection in three]
    await asyncio.gather(*(minter(connection) for connection in three for _ in range(8)))
    calls = await asyncio.gather(*callers)

    assert min(calls) > 10, "there was meant to be traffic"
    assert len(set(minted.values())) == count
    assert [sidecar.metric("limiter_stale_plans_total") for sidecar in trio] == before
    for connection in three:
        await connection.grant(of_secret(minted[count - 1], 1, dry_run=True))
    books = await balanced_books(three[0], organization)
    assert books.settled(organization) == sum(calls)
    assert len(books.limits) == count + 2


async def test_a_policy_with_a_mistake_changes_nothing_and_says_where(
    three: list[Connection], organization: str, bot: str
) -> None:
    for text, place in (
        (policy(organization).replace("spend: 10, per: total", "spend: -1, per: total"), "limits[0].spend"),
        (policy(organization).replace("keys:", "keyz:"), "teams.search.keyz"),
        ("version: 2\norganizations: {}", "version"),
        ("]", "line 1"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await three[0].apply(text)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert place in str(caught.value.details())
    for connection in three:
        assert (await connection.grant(of_key(bot, USD, dry_run=True))).held_nanousd == USD


async def test_two_operators_who_apply_at_once_both_get_their_version(
    three: list[Connection], organization: str, bot: str
) -> None:
    answers = await asyncio.gather(*(three[i % 3].apply(policy(organization, usd=20 + i)) for i in range(6)))
    versions = [answer.versions[organization] for answer in answers]
    assert len(set(versions)) == 6
    newest = max(range(6), key=lambda i: versions[i])
    for connection in three:
        answer = await connection.reserve(of_key(bot, 10 * USD, dry_run=True, all_limits=True))
        assert {s.limit_value for s in answer.limits if s.scope == f"organizations/{organization}"} == {
            (20 + newest) * USD
        }

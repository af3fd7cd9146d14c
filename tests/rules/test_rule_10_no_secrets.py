"""Rule 10: no secret is kept."""

from __future__ import annotations

import pytest

from limiter.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.service.calls import Principal
from limiter.service.secrets import Pepper
from limiter.store.port import StoredKey
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import BOT, Limiter, name_of

KEY = Scope.parse_key(BOT)
POLICY = """
    version: 1
    organizations:
      acme: {limits: [{id: day, spend: 100, per: day}], teams: {search: {keys: {bot: {}, dog: {}}}}}
"""
OLD = {"1": b"the first pepper of a store"}
BOTH = OLD | {"2": b"a pepper added years later"}


async def everything(limiter: Limiter) -> str:
    """All that the store holds and all that is scraped, as text."""
    return repr((await limiter.dump()).raw) + limiter.metrics.render()[0].decode()


async def test_a_secret_is_nowhere_in_the_store_in_a_metric_or_in_a_repr(
    limiter: Limiter, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    await limiter.apply(POLICY)
    minted = await limiter.mint(BOT)
    imported = await limiter.mint("acme/search/dog", secret="sk-from-somewhere-else-123456")
    for secret in (minted, imported):
        hold = await limiter.grant(secret, cost="1", id="r", tags={"customer": "x"})
        await limiter.refusal(secret, cost="1000")
        await limiter.settle(hold, "0.50")
        with pytest.raises(AlreadyExists) as error:
            await limiter.mint("acme/search/third", secret=secret)
        told = str(error.value) + repr(Principal(api_key=secret)) + await everything(limiter)
        told += "".join(capsys.readouterr()) + caplog.text
        assert secret not in told
        assert secret[:-4] not in told
        assert secret.removeprefix("lk-")[:12] not in told


async def test_what_is_kept_of_a_secret_is_an_hmac_under_a_versioned_pepper_and_its_last_four_characters(
    limiter: Limiter,
) -> None:
    await limiter.apply(POLICY)
    view, secret = await limiter.service.keyring.create(KEY, limits=None, expires_ms=0)
    (kept,) = view.record.secrets
    assert secret.startswith("lk-")
    assert len(secret) >= 40
    version, _, digest = kept.digest.partition(":")
    assert (version, len(digest), kept.hint) == ("1", 64, secret[-4:])


async def test_a_short_secret_from_elsewhere_is_not_told_by_its_hint(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.mint(BOT, secret="Zq7x")
    assert "Zq7x" not in await everything(limiter)


async def test_a_secret_is_shown_once(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.mint(BOT)
    with pytest.raises(AlreadyExists, match="rotate"):
        await limiter.mint(BOT)
    _, shown = await limiter.service.keyring.create(
        Scope.parse_key("acme/search/dog"), limits=None, expires_ms=0, secret="sk-theirs-1234567890"
    )
    assert shown == ""


@pytest.mark.parametrize("secret", ["", " x", "x ", "a\nb", "a\0b", "x" * 513, "\u202e"])
async def test_what_cannot_be_a_secret_is_refused_without_repeating_it(limiter: Limiter, secret: str) -> None:
    await limiter.apply(POLICY)
    if secret:
        with pytest.raises(InvalidArgument) as error:
            await limiter.mint(BOT, secret=secret)
        assert secret not in str(error.value)
    with pytest.raises(InvalidArgument, match="hidden"):
        await limiter.reserve(secret, cost="1")


async def test_a_secret_belongs_to_one_key_for_ever(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.mint(BOT, secret="sk-theirs-1234567890")
    with pytest.raises(AlreadyExists, match="another key"):
        await limiter.mint("acme/search/dog", secret="sk-theirs-1234567890")


async def test_a_new_pepper_keeps_the_old_secrets_good(open_limiter: OpenLimiter) -> None:
    before, after = open_limiter(pepper=Pepper(OLD)), open_limiter(pepper=Pepper(BOTH))
    await before.apply(POLICY)
    old = await before.mint(BOT)
    await after.grant(old, cost="1")
    new = await after.mint("acme/search/dog")
    await after.grant(new, cost="1")
    assert (await before.refusal(new, cost="1")).reason is DenialReason.KEY_UNKNOWN


async def test_a_new_pepper_does_not_change_the_name_of_a_request(open_limiter: OpenLimiter) -> None:
    before, after = open_limiter(pepper=Pepper(OLD)), open_limiter(pepper=Pepper(BOTH))
    await before.apply(POLICY)
    hold = await before.grant(cost="1", id="r")
    again = await after.grant(cost="1", id="r")
    assert (again.reservation, again.repeated_call) == (hold.reservation, True)


async def test_another_pepper_of_the_same_version_is_noticed(limiter: Limiter) -> None:
    assert await limiter.store.check_pepper(Pepper(OLD).fingerprints()) == []
    assert await limiter.store.check_pepper(Pepper(BOTH).fingerprints()) == []
    wrong = Pepper({"1": b"quite another pepper", "2": BOTH["2"]})
    assert await limiter.store.check_pepper(wrong.fingerprints()) == ["1"]
    kept = await everything(limiter)
    assert not any(text in kept for text in ("first pepper", "added years later"))


async def test_a_reservations_id_is_128_bits_that_say_nothing_and_cannot_be_guessed(
    open_limiter: OpenLimiter,
) -> None:
    limiter, other = open_limiter(), open_limiter(pepper=Pepper({"1": b"the pepper of other people"}))
    await limiter.apply(POLICY)
    first = name_of(await limiter.grant(cost="1", id="r")).id
    assert len(first) == 32
    assert first != name_of(await limiter.grant("acme/search/dog", cost="1", id="r")).id
    assert first != name_of(await limiter.grant(cost="1", id="s")).id
    assert first != name_of(await other.grant(cost="1", id="r")).id


async def test_who_knows_a_reservation_may_settle_it(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(POLICY)
    secret = await limiter.mint(BOT)
    hold = await limiter.grant(secret, cost="1")
    assert (await second.settle(hold.reservation, "1")).cost_nanousd == hold.held_nanousd


async def test_a_rotation_that_lost_a_race_leaves_the_secrets_that_are_valid_alone(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    secret = await limiter.mint(BOT)
    (digest,) = await limiter.client.keys("lim1:digest:*")
    replace_key = limiter.store.replace_key

    async def lose(new: StoredKey, **_: object) -> bool:
        del new
        return False

    limiter.store.replace_key = lose  # type: ignore[method-assign]  # somebody else is always faster
    with pytest.raises(FailedPrecondition, match="meanwhile"):
        await limiter.service.keyring.rotate(KEY, overlap_ms=0)
    limiter.store.replace_key = replace_key  # type: ignore[method-assign]
    assert await limiter.client.pttl(digest) == -1
    await limiter.grant(secret, cost="1")


async def test_the_digest_of_a_secret_that_ended_goes_by_itself(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.mint(BOT)
    (digest,) = await limiter.client.keys("lim1:digest:*")
    await limiter.service.keyring.rotate(KEY, overlap_ms=3_600_000)
    assert 86_400_000 < await limiter.client.pttl(digest) <= 86_400_000 + 3_600_000

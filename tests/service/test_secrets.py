"""API keys are known by an HMAC under a versioned pepper; reservation ids are HMACs too."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.domain.scopes import Scope
from limiter.service.secrets import Pepper, check_secret, mint_secret

FIRST, SECOND = b"sixteen bytes, 1", b"sixteen bytes, 2"
KEY = Scope("acme", "search", "bot")


def test_a_digest_is_an_hmac_sha256_that_names_its_pepper() -> None:
    expected = hmac.new(FIRST, b"lk-secret", hashlib.sha256).hexdigest()
    assert Pepper({"1": FIRST}).digest("lk-secret") == f"1:{expected}"


def test_new_secrets_use_the_last_version_and_look_ups_try_all_newest_first() -> None:
    both = Pepper({"1": FIRST, "2": SECOND})
    assert both.current == "2"
    assert both.digest("s") == Pepper({"2": SECOND}).digest("s")
    assert list(both.digests("s")) == [Pepper({"2": SECOND}).digest("s"), Pepper({"1": FIRST}).digest("s")]


def test_reservation_ids_stay_the_same_while_a_version_is_added() -> None:
    before, after = Pepper({"1": FIRST}), Pepper({"1": FIRST, "2": SECOND})
    assert before.reservation_id(KEY, "r") == after.reservation_id(KEY, "r")


@pytest.mark.parametrize("pepper", [FIRST, b"p" * 64, b"longer than a block of SHA-256 is, " * 2])
def test_a_reservation_id_is_half_an_hmac_sha256(pepper: bytes) -> None:
    expected = hmac.new(pepper, b"reservation\0acme/search/bot\0r", hashlib.sha256).digest()[:16]
    assert Pepper({"1": pepper}).reservation_id(KEY, "r") == expected.hex()


def test_reservation_ids_differ_by_key_request_and_pepper() -> None:
    pepper = Pepper({"1": FIRST})
    ids = {
        pepper.reservation_id(KEY, "r"),
        pepper.reservation_id(KEY, "s"),
        pepper.reservation_id(Scope("acme", "search", "dog"), "r"),
        pepper.reservation_id(Scope("acme", "searchbot", "x"), "r"),
        Pepper({"1": SECOND}).reservation_id(KEY, "r"),
    }
    assert len(ids) == 5
    assert all(len(bytes.fromhex(each)) == 16 for each in ids)


def test_a_digest_and_a_reservation_id_never_share_a_message() -> None:
    pepper = Pepper({"1": FIRST})
    message = f"reservation\0{KEY.path}\0r"
    with pytest.raises(InvalidArgument):
        check_secret(message, field="api_key")
    assert pepper.reservation_id(KEY, "r") != pepper.digest("r").partition(":")[2][:32]


def test_fingerprints_tell_peppers_apart_and_nothing_else() -> None:
    fingerprints = Pepper({"1": FIRST, "2": SECOND}).fingerprints()
    assert fingerprints.keys() == {"1", "2"}
    assert fingerprints["1"] == Pepper({"1": FIRST}).fingerprints()["1"]
    assert fingerprints["1"] != fingerprints["2"]
    assert FIRST.hex() not in str(fingerprints)


def test_a_pepper_does_not_tell_itself() -> None:
    assert repr(Pepper({"1": FIRST})) == "Pepper(versions=['1'])"


@pytest.mark.parametrize("versions", [{}, {"1": b""}, {"1": b"fifteen bytes, "}, {"1": FIRST, "2": b"short"}])
def test_a_pepper_that_is_missing_or_too_short_is_refused_unseen(versions: dict[str, bytes]) -> None:
    with pytest.raises(InvalidArgument) as error:
        Pepper(versions)
    assert "bytes, " not in str(error.value)


def test_minted_secrets_are_ours_by_their_prefix_and_never_the_same() -> None:
    minted = {mint_secret() for _ in range(100)}
    assert len(minted) == 100
    assert all(secret.startswith("lk-") and len(secret) == 46 for secret in minted)
    assert all(check_secret(secret, field="x") == secret for secret in minted)

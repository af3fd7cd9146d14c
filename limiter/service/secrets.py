"""API keys are known by an HMAC under a versioned pepper; reservation ids are HMACs too."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from limiter.domain.errors import InvalidArgument
from limiter.domain.scopes import Scope

SECRET_PREFIX = "lk-"  # noqa: S105 - the prefix by which leak scanners know our keys
SECRET_MAX = 512
_PEPPER_BYTES_MIN = 16
_BLOCK_BYTES = 64
_RESERVATION_ID_DIGITS = 32

if TYPE_CHECKING:
    from hashlib import _Hash


class Pepper:
    """The secret that turns API keys into digests, in versions.

    `versions` maps a version to at least 16 secret bytes; new digests use the last version, look-ups try
    all of them, reservation ids use the first, so that they do not change while a version is added.
    """

    def __init__(self, versions: Mapping[str, bytes]) -> None:
        if not versions:
            raise InvalidArgument("pepper", "", "give at least one version")
        for version, pepper in versions.items():
            if len(pepper) < _PEPPER_BYTES_MIN:
                raise InvalidArgument("pepper", f"version {version}", f"use at least {_PEPPER_BYTES_MIN} bytes")
        self._versions = dict(versions)
        self.current = list(versions)[-1]
        self._inner, self._outer = _pads(next(iter(self._versions.values())))
        self._alias = hashlib.blake2b(key=secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE), digest_size=16)

    def __repr__(self) -> str:
        return f"Pepper(versions={list(self._versions)})"

    def digest(self, secret: str) -> str:
        """The digest under which a new secret is kept."""
        return self._digest(self.current, secret)

    def digests(self, secret: str) -> tuple[str, ...]:
        """Every digest that `secret` may be known by, newest pepper first."""
        return tuple([self._digest(version, secret) for version in reversed(self._versions)])

    def alias(self, secret: str) -> bytes:
        """What a secret may be remembered by in this process, instead of itself; quicker to make than its digests."""
        alias = self._alias.copy()
        alias.update(secret.encode())
        return alias.digest()

    def _digest(self, version: str, secret: str) -> str:
        return f"{version}:{hmac.digest(self._versions[version], secret.encode(), 'sha256').hex()}"

    def reservation_id(self, key: Scope, request_id: str) -> str:
        """128 bits in hexadecimal that nobody can guess and the same request always gets."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(f"reservation\0{'/'.join(key)}\0{request_id}".encode())
        outer.update(inner.digest())
        return outer.hexdigest()[:_RESERVATION_ID_DIGITS]

    def fingerprints(self) -> dict[str, str]:
        """What tells two peppers of the same version apart, and nothing else."""
        return {
            version: hashlib.sha256(hmac.digest(pepper, b"fingerprint", "sha256")).hexdigest()[:16]
            for version, pepper in self._versions.items()
        }


def _pads(key: bytes) -> tuple[_Hash, _Hash]:
    """HMAC-SHA256 (RFC 2104) with its key hashed in: the inner and the outer hash, to be copied for each message.

    What the library offers starts from the key each time, which takes longer than the message.
    """
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in block)), hashlib.sha256(bytes(byte ^ 0x5C for byte in block))


def mint_secret() -> str:
    """A new API key: `lk-` and 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def check_secret(secret: str, *, field: str) -> str:
    """Return an API key that somebody shows us, if it can be one at all."""
    if not secret or len(secret) > SECRET_MAX or not secret.isprintable() or secret != secret.strip():
        raise InvalidArgument(field, "(hidden)", f"use 1 to {SECRET_MAX} printable characters")
    return secret

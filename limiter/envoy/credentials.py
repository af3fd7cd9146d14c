"""The providers' own keys, so that clients hold only ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from limiter.domain.errors import InvalidArgument
from limiter.envoy.options import UpstreamCredential

_SECRET_MAX = 8192


class Credential(NamedTuple):
    """A header that the provider wants, with its value; without a name, another filter signs the request."""

    header: str
    value: str

    def __repr__(self) -> str:
        return f"Credential(header={self.header!r}, value=(hidden))"


class Credentials:
    """Which key goes to which host. Reads all of them once; raises InvalidArgument for one that is not there."""

    def __init__(self, options: Sequence[UpstreamCredential]) -> None:
        self._by_host = [(option.host, _read(option, index)) for index, option in enumerate(options)]
        self.for_host = lru_cache(1024)(self._for_host)

    def _for_host(self, host: str) -> Credential | None:
        """The key for a host, if one is configured; an explicit port is not looked at."""
        name = host.lower().partition(":")[0].removesuffix(".")
        return next((credential for pattern, credential in self._by_host if fnmatchcase(name, pattern)), None)


def _read(option: UpstreamCredential, index: int) -> Credential:
    if option.signed:
        return Credential("", "")
    if option.env is not None:
        field, source, secret = "env", option.env, os.environ.get(option.env, "").strip()
    else:
        field, source = "file", str(option.file)
        try:
            secret = "" if option.file is None else option.file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            secret = ""
    if not secret or len(secret) > _SECRET_MAX or not secret.isprintable() or not secret.isascii():
        place = f"upstream_credentials[{index}].{field}"
        kind = "environment variable" if option.env is not None else "file"
        remedy = f"this {kind} must hold the provider's key (printable ASCII, on one line); or leave the entry out"
        raise InvalidArgument(place, source, remedy)
    prefix = option.prefix
    if prefix is None:
        prefix = "Bearer " if option.header == "authorization" else ""
    return Credential(option.header, prefix + secret)

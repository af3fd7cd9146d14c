"""Where the limiter is, and what the program shows there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from limiter.client.errors import InvalidRequest

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"

#: A sidecar that restarts is found again within two seconds (gRPC's own default is two minutes). The
#: client does its own retries, and a sidecar is never behind an HTTP proxy.
CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM. `ca` absent: the system's roots. `cert` and `key`: what the program shows (mTLS).

    `server_name` is the name in the limiter's certificate, where it differs from the address.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files; raises OSError, or InvalidRequest if only one of cert and key is given."""
        if (self.cert is None) != (self.key is None):
            raise InvalidRequest("tls: cert and key go together; give both or neither")
        ca, key, cert = (None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True, slots=True)
class Connection:
    """An address with the credentials for it."""

    address: str
    token: str | None = field(repr=False)
    tls: TLS | None

    @classmethod
    def resolve(cls, address: str | None, token: str | None, tls: TLS | None) -> Connection:
        """Fill in what is not given from LIMITER_ADDRESS and LIMITER_TOKEN."""
        found = address or os.environ.get("LIMITER_ADDRESS") or DEFAULT_ADDRESS
        return cls(found, token or os.environ.get("LIMITER_TOKEN") or None, tls)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def options(self) -> tuple[tuple[str, str | int], ...]:
        """The channel's options."""
        if self.tls is None or self.tls.server_name is None:
            return CHANNEL_OPTIONS
        return (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", self.tls.server_name))

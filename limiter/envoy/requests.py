"""The request as Envoy tells of it, in plain words; nothing of it is believed yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from limiter.envoy.headers import count_in, header_text
from limiter.envoy.v3 import base_pb2, ext_authz_pb2

#: What a route may tell of itself in context_extensions: the provider's host, and what stands before its paths here.
HOST_EXTENSION: Final = "host"
PREFIX_EXTENSION: Final = "path_prefix"

#: Envoy sets it where it hands bodies over; a client's copy does not get past it there.
PARTIAL_HEADER: Final = "x-envoy-auth-partial-body"


class HttpRequest(NamedTuple):
    """A client's request. `path` is the provider's, without the query; `size` is -1 where nobody told it."""

    method: str
    host: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    size: int

    @property
    def is_cut(self) -> bool:
        """Whether there is more of the body than what is here."""
        # Envoy says "false" too where exactly as much as it may hand over has arrived, and more is on its way.
        told = max(self.size, count_in(self.headers.get("content-length", "")) or 0)
        return self.headers.get(PARTIAL_HEADER) == "true" or told > len(self.body)


def read_check(request: ext_authz_pb2.CheckRequest) -> HttpRequest:
    """Take a request apart."""
    http = request.attributes.request.http
    route = request.attributes.context_extensions
    path, _, query = http.path.partition("?")
    path = path.partition("#")[0]
    if prefix := route.get(PREFIX_EXTENSION, ""):
        path = path.removeprefix(prefix.rstrip("/"))
    return HttpRequest(
        method=http.method,
        host=route.get(HOST_EXTENSION, "") or http.host,
        path=path,
        query=query or http.query,
        headers=_raw_headers(http.header_map) if http.header_map.headers else http.headers,
        body=http.raw_body or http.body.encode(),
        size=http.size,
    )


def _raw_headers(headers: base_pb2.HeaderMap) -> dict[str, str]:
    """Headers by name; one that was sent several times has its values in a row, as Envoy writes them otherwise."""
    found: dict[str, str] = {}
    for header in headers.headers:
        name, value = header.key.lower(), header_text(header)
        found[name] = f"{found[name]},{value}" if name in found else value
    return found

"""Who asks: a secret that the client shows, or, on trusted listeners, a key that an earlier filter names."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from google.protobuf.struct_pb2 import Struct

from limiter.domain.errors import InvalidArgument
from limiter.domain.scopes import Scope
from limiter.envoy.options import PrincipalOptions
from limiter.envoy.requests import HttpRequest
from limiter.envoy.v3 import base_pb2
from limiter.service.calls import Principal

#: Where clients of the providers put their key.
SECRET_HEADERS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")

#: Gemini's clients may put it into the query.
SECRET_PARAMETER: Final = "key"  # noqa: S105 - the name of a parameter
_PARAMETER_HOSTS: Final = ("generativelanguage.googleapis.com", "aiplatform.googleapis.com")


class NoPrincipal(Exception):
    """Nobody can tell who asks; `str(error)` is a sentence for the client."""


def principal(
    request: HttpRequest, metadata: base_pb2.Metadata, options: PrincipalOptions, *, trusted: bool
) -> Principal:
    """Say who asks. Raises NoPrincipal if nothing tells it, or if several things tell different tales."""
    if trusted:
        named = _named(request, metadata, options)
        if named:
            try:
                return Principal(key=Scope.parse_key(named))
            except InvalidArgument:
                raise NoPrincipal("the verified identity of this request is no organization/team/key") from None
    secrets = _secrets(request)
    if not secrets:
        raise NoPrincipal(f"no API key; send your Limiter key, for example as {SECRET_HEADERS[0]}: Bearer …")
    if len(secrets) > 1:
        raise NoPrincipal("several different API keys; send one")
    return Principal(api_key=secrets.pop())


def asks_by_query(request: HttpRequest) -> bool:
    """Whether this host's clients may show their key in the query."""
    return request.host.lower().partition(":")[0] in _PARAMETER_HOSTS


def _secrets(request: HttpRequest) -> set[str]:
    headers = request.headers
    found = set()
    for name in SECRET_HEADERS:
        value = headers.get(name, "").strip()
        if name == "authorization" and value:
            scheme, _, value = value.partition(" ")
            # Another scheme is another kind of secret, which a key beside it may still outdo.
            value = value.strip() if scheme.lower() == "bearer" else ""
        if value:
            found.add(value)
    if request.query and asks_by_query(request):
        found.update(value for name, value in parse_qsl(request.query) if name == SECRET_PARAMETER)
    return found


def _named(request: HttpRequest, metadata: base_pb2.Metadata, options: PrincipalOptions) -> str:
    """Organization/team/key as an earlier filter says; "" if none does."""
    if (place := options.metadata) is not None and place.namespace in metadata.filter_metadata:
        found = metadata.filter_metadata[place.namespace]
        for name in place.path[:-1]:
            found = found.fields[name].struct_value if name in found.fields else Struct()
        if (last := place.path[-1]) in found.fields:
            return found.fields[last].string_value
    return request.headers.get(options.header, "") if options.header is not None else ""

"""Which provider stands behind a host, and which interface behind a path.

A host that is known is known exactly: one that only begins or ends like a provider's is somebody else's. Of any other
host nothing is known but the interface that its path ends with; its own name is the provider then, so that only prices
of one's own are ever asked for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from genai_prices.data import providers as quoted_providers
from genai_prices.data_snapshot import find_provider_by_id

from limiter.domain.errors import InvalidArgument
from limiter.pricing.known_hosts import BY_PATH, HOSTS, PATTERNS, Host
from limiter.pricing.paths import VECTOR_MODELS, Dialect, Shape, by_ending, is_name

__all__ = ["Dialect", "Endpoint", "endpoint", "is_free"]

_PATH_MAX: Final = 2048


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes, and what is asked for there.

    `model` is set where the path names it rather than the body; `stream` is None where the body says. `is_known`:
    the host is one of those of `provider`; of another, that is its own name.
    """

    provider: str
    dialect: Dialect
    model: str = ""
    operation: str = "chat"
    stream: bool | None = None
    is_known: bool = True


#: What any host may look like, with a port; IPv6 in brackets.
_HOST: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII
)

#: Bedrock's profiles and models by ARN, whose last part is the id that prices go by.
_ARN: Final = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:[0-9]*:(?:inference-profile|foundation-model)/(.+)")


def endpoint(host: str, path: str) -> Endpoint:
    """Return what stands behind `host` (a port 443 is allowed) and `path` (a query is not looked at).

    Of a host that is not known, the provider is the host itself, with its port if it has one: another port is another
    server. A name without dots that is a provider's too, or that price lists would take for one (openai-proxy), is told
    with a port in any case: no price list has such a provider. Raises InvalidArgument, with what is known, for what is
    no host, and for a path that is not read.
    """
    return _endpoint(host, path.partition("?")[0])


@lru_cache(4096)  # of what is read only, and that is short: an error is not remembered
def _endpoint(host: str, plain: str) -> Endpoint:
    name = _checked(host, plain)
    provider, shape, model = _find(name, plain)
    if shape is None or shape.remedy:
        remedy = shape.remedy if shape else f"send an estimate instead, or use one of {', '.join(_offered(name))}"
        raise InvalidArgument("provider_request.path", plain, remedy)
    if not is_name(model or "m"):
        raise InvalidArgument("provider_request.path", plain, "name the model in the path in printable characters")
    is_known = provider != _as_provider(name)
    return Endpoint(provider, shape.dialect, model, shape.operation, shape.stream, is_known)


def is_free(host: str, path: str) -> bool:
    """Whether a path is known to cost nothing: one that only counts tokens."""
    try:
        plain = path.partition("?")[0]
        _, shape, _ = _find(_checked(host, plain), plain)
    except InvalidArgument:
        return False
    return shape is not None and shape.is_free


def _checked(host: str, plain: str) -> str:
    """Return the host's name as it is listed."""
    name = host.lower().removesuffix(":443").removesuffix(".")
    if not _HOST.fullmatch(name):
        remedy = f"send an estimate instead, or use one of {', '.join(list(HOSTS)[:5])} …"
        raise InvalidArgument("provider_request.host", name[:64], remedy)
    if len(plain) > _PATH_MAX:
        raise InvalidArgument("provider_request.path", f"{len(plain)} characters", f"use at most {_PATH_MAX}")
    return name


def _find(name: str, path: str) -> tuple[str, Shape | None, str]:
    """Return the provider, what the path is for, and the model in it."""
    host = _host(name)
    provider = _as_provider(name) if host is None else host.provider
    if host is None and name in BY_PATH:
        prefix, host = BY_PATH[name]
        if served := prefix.match(path):
            provider, path = host.provider.format(served[1]), path[served.end() :]
        elif name == _HUGGINGFACE:
            provider = "huggingface"  # which chooses who serves, or the model's name does
    try:
        found = by_ending(path) if host is None else _offered_at(host, path)
    except UnicodeDecodeError:
        found = None
    if found is None:
        return provider, None, ""
    shape, model = found
    if arn := _ARN.fullmatch(model):
        model = arn[1]
    return provider, _by_model(shape, model), model


def _by_model(shape: Shape, model: str) -> Shape:
    """What a path is for that is one and the same for models of several kinds."""
    if shape.dialect is Dialect.BEDROCK_INVOKE and "anthropic.claude" in model:
        return shape._replace(dialect=Dialect.ANTHROPIC_MESSAGES)
    if shape.dialect is Dialect.VERTEX_PREDICT and any(kind in model for kind in VECTOR_MODELS):
        return shape._replace(operation="embeddings")
    return shape


#: Providers of the prices that come with this package which neither genai-prices nor the list of hosts has.
_OTHERS: Final = frozenset({"assemblyai", "black_forest_labs", "deepgram", "recraft", "runwayml", "stability"})
_PROVIDERS: Final = _OTHERS | {host.provider for host in (*HOSTS.values(), *(host for _, _, host in PATTERNS))}


def _as_provider(name: str) -> str:
    """Name the provider that a host is which is not known: never as a provider with listed prices is named."""
    if "." in name or ":" in name:
        return name
    taken = name in _PROVIDERS or find_provider_by_id(quoted_providers, name) is not None
    return f"{name}:443" if taken else name


_HUGGINGFACE: Final = "router.huggingface.co"


def _host(name: str) -> Host | None:
    known = HOSTS.get(name)
    if known is None:
        known = next((host for _, pattern, host in PATTERNS if pattern.fullmatch(name)), None)
    return known


def _offered_at(host: Host, path: str) -> tuple[Shape, str] | None:
    for prefix, interface in host.interfaces:
        if path.startswith(prefix) and (found := interface.find(path.removeprefix(prefix))):
            return found
    return None


def _offered(name: str) -> list[str]:
    """The paths that would be read at a host, for people."""
    host = _host(name) or (BY_PATH[name][1] if name in BY_PATH else None)
    return host.paths if host else ["…/chat/completions", "…/responses", "…/messages", "…/embeddings"]

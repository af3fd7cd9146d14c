"""Which provider stands behind a host, and which interface behind a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from limiter.domain.errors import InvalidArgument

#: Azure names a deployment, and so the model, in the path.
_AZURE_HOST: Final = re.compile(
    r"[a-z0-9][a-z0-9-]*\.(openai\.azure\.com|cognitiveservices\.azure\.com|services\.ai\.azure\.com)", re.ASCII
)
_AZURE_DEPLOYMENT: Final = re.compile(
    r"/openai/deployments/([A-Za-z0-9._-]{1,128})/(chat/completions|embeddings)", re.ASCII
)


class Dialect(Enum):
    """An interface: how requests and answers are written."""

    OPENAI_CHAT = "openai chat completions"
    OPENAI_RESPONSES = "openai responses"
    ANTHROPIC_MESSAGES = "anthropic messages"
    OPENAI_EMBEDDINGS = "openai embeddings"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes. `model` is set where the path names it rather than the body."""

    provider: str
    dialect: Dialect
    model: str = ""


_CHAT, _RESPONSES, _MESSAGES, _EMBEDDINGS = Dialect

#: Exact hosts and paths: a host that only begins or ends like a provider's is somebody else's.
#: The providers are those of genai-prices.
ENDPOINTS: Final[dict[str, tuple[str, dict[str, Dialect]]]] = {
    "api.openai.com": (
        "openai",
        {"/v1/chat/completions": _CHAT, "/v1/responses": _RESPONSES, "/v1/embeddings": _EMBEDDINGS},
    ),
    "api.anthropic.com": ("anthropic", {"/v1/messages": _MESSAGES}),
    "api.cerebras.ai": ("cerebras", {"/v1/chat/completions": _CHAT}),
    "api.deepseek.com": (
        "deepseek",
        {"/chat/completions": _CHAT, "/v1/chat/completions": _CHAT, "/anthropic/v1/messages": _MESSAGES},
    ),
    "api.fireworks.ai": ("fireworks", {"/inference/v1/chat/completions": _CHAT}),
    "api.groq.com": ("groq", {"/openai/v1/chat/completions": _CHAT}),
    "api.mistral.ai": ("mistral", {"/v1/chat/completions": _CHAT, "/v1/embeddings": _EMBEDDINGS}),
    "api.moonshot.ai": ("moonshotai", {"/v1/chat/completions": _CHAT}),
    "api.perplexity.ai": ("perplexity", {"/chat/completions": _CHAT}),
    "api.together.xyz": ("together", {"/v1/chat/completions": _CHAT}),
    "api.x.ai": ("x-ai", {"/v1/chat/completions": _CHAT, "/v1/responses": _RESPONSES}),
    "api.z.ai": ("zai", {"/api/paas/v4/chat/completions": _CHAT}),
    "generativelanguage.googleapis.com": ("google", {"/v1beta/openai/chat/completions": _CHAT}),
    "openrouter.ai": ("openrouter", {"/api/v1/chat/completions": _CHAT, "/api/v1/responses": _RESPONSES}),
}

_AZURE_PATHS: Final = {
    "/openai/v1/chat/completions": _CHAT,
    "/openai/v1/responses": _RESPONSES,
    "/openai/v1/embeddings": _EMBEDDINGS,
}


def endpoint(host: str, path: str) -> Endpoint:
    """Return what stands behind `host` (a port 443 is allowed) and `path` (a query is not looked at).

    Raises InvalidArgument for a host or path that is not known, with those that are.
    """
    return _find(host.lower().removesuffix(":443").removesuffix("."), path.partition("?")[0])


@lru_cache(1024)  # of what is known only, and that is short: an error is not remembered
def _find(name: str, plain: str) -> Endpoint:
    if _AZURE_HOST.fullmatch(name):
        if deployment := _AZURE_DEPLOYMENT.fullmatch(plain):
            return Endpoint("azure", _EMBEDDINGS if deployment[2] == "embeddings" else _CHAT, deployment[1])
        provider, paths = "azure", _AZURE_PATHS
    elif name in ENDPOINTS:
        provider, paths = ENDPOINTS[name]
    else:
        known = ", ".join((*sorted(ENDPOINTS), "*.openai.azure.com"))
        raise InvalidArgument("provider_request.host", name, f"send an estimate instead, or use one of {known}")
    if plain not in paths:
        remedy = f"send an estimate instead, or use one of {', '.join(sorted(paths))}"
        raise InvalidArgument("provider_request.path", plain, remedy)
    return Endpoint(provider, paths[plain])

"""The hosts of providers, and the interfaces that they offer below which prefixes.

As the providers' own manuals have them. A path that a host does not offer costs nothing: it is refused there.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from limiter.pricing.paths import (
    ANTHROPIC,
    AZURE,
    BEDROCK,
    CHAT,
    COHERE,
    DATABRICKS,
    ELEVENLABS,
    GEMINI,
    MISTRAL,
    OPENAI,
    RERANKERS,
    VERTEX,
    VOYAGE,
    Interface,
)


class Host(NamedTuple):
    """A provider's host, and the interfaces that it offers below some prefixes."""

    provider: str
    interfaces: tuple[tuple[str, Interface], ...]

    @property
    def paths(self) -> list[str]:
        """The paths that are read, for people."""
        return [prefix + path for prefix, interface in self.interfaces for path in interface.offered]


def _host(provider: str, *prefixes: str, anthropic: str | None = None, rerank: bool = False) -> Host:
    """A host that offers OpenAI's interface below `prefixes`, and Anthropic's below another."""
    interfaces = [(prefix, OPENAI) for prefix in prefixes]
    if rerank:
        interfaces += [(prefix, RERANKERS) for prefix in prefixes]
    if anthropic is not None:
        interfaces.append((anthropic, ANTHROPIC))
    return Host(provider, tuple(interfaces))


_ZAI: Final = (("/api/paas/v4", OPENAI), ("/api/coding/paas/v4", OPENAI), ("/api/anthropic/v1", ANTHROPIC))
_MOONSHOT: Final = _host("moonshotai", "/v1", anthropic="/anthropic/v1")
_MINIMAX: Final = _host("minimax", "/v1", anthropic="/anthropic/v1")
_COHERE: Final = Host("cohere", (("", COHERE), ("/compatibility/v1", OPENAI)))
_OPENROUTER: Final = _host("openrouter", "/api/v1", anthropic="/api/v1", rerank=True)
_NEBIUS: Final = _host("nebius", "/v1")
_ALIBABA: Final = _host("alibaba", "/compatible-mode/v1", anthropic="/apps/anthropic/v1")
_TOGETHER: Final = _host("together", "/v1", rerank=True)
_ELEVENLABS: Final = Host("elevenlabs", (("/v1", ELEVENLABS),))
_XAI: Final = _host("x-ai", "/v1", anthropic="/v1")
_HEROKU: Final = Host("heroku", (("/v1", OPENAI), ("/v1", ANTHROPIC)))

#: Hosts by their exact names. The providers are those of genai-prices, where it has them.
HOSTS: Final[dict[str, Host]] = {
    "api.openai.com": _host("openai", "/v1"),
    "eu.api.openai.com": _host("openai", "/v1"),
    "us.api.openai.com": _host("openai", "/v1"),
    "api.anthropic.com": Host("anthropic", (("/v1", ANTHROPIC), ("/v1", CHAT))),
    "generativelanguage.googleapis.com": Host(
        "google", (("/v1beta", GEMINI), ("/v1", GEMINI), ("/v1alpha", GEMINI), ("/v1beta/openai", OPENAI))
    ),
    "api.mistral.ai": Host("mistral", (("/v1", OPENAI), ("/v1", MISTRAL))),
    "codestral.mistral.ai": Host("mistral", (("/v1", OPENAI), ("/v1", MISTRAL))),
    "api.cohere.com": _COHERE,
    "api.cohere.ai": _COHERE,
    "api.deepseek.com": _host("deepseek", "", "/v1", "/beta", anthropic="/anthropic/v1"),
    "api.groq.com": _host("groq", "/openai/v1"),
    "api.x.ai": _XAI,
    "us-east-1.api.x.ai": _XAI,
    "eu-west-1.api.x.ai": _XAI,
    "openrouter.ai": _OPENROUTER,
    "api.openrouter.ai": _OPENROUTER,
    "api.together.xyz": _TOGETHER,
    "api.together.ai": _TOGETHER,
    "api.fireworks.ai": _host("fireworks", "/inference/v1", anthropic="/inference/v1", rerank=True),
    "api.perplexity.ai": _host("perplexity", "", "/v1"),
    "api.cerebras.ai": _host("cerebras", "/v1"),
    "api.moonshot.ai": _MOONSHOT,
    "api.moonshot.cn": _MOONSHOT,
    "api.z.ai": Host("zai", _ZAI),
    "open.bigmodel.cn": Host("zhipuai", _ZAI),
    "api.minimax.io": _MINIMAX,
    "api.minimax.com": _MINIMAX,
    "api.minimaxi.com": _MINIMAX,
    "api.minimaxi.io": _MINIMAX,
    "api.elevenlabs.io": _ELEVENLABS,
    "api.us.elevenlabs.io": _ELEVENLABS,
    "api.eu.residency.elevenlabs.io": _ELEVENLABS,
    "api.in.residency.elevenlabs.io": _ELEVENLABS,
    "api.sg.residency.elevenlabs.io": _ELEVENLABS,
    "api.arcee.ai": _host("arcee", "/api/v1", "/v1"),
    "api.avian.io": _host("avian", "/v1"),
    "inference.baseten.co": _host("baseten", "/v1", anthropic="/v1"),
    "api.doubleword.ai": _host("doubleword", "/v1"),
    "api.githubcopilot.com": _host("github-copilot", "", "/v1", anthropic="/v1"),
    "api.meta.ai": _host("meta", "/v1"),
    "api.novita.ai": _host("novita", "/v3/openai", "/openai/v1", "/openai", anthropic="/anthropic/v1", rerank=True),
    "oai.endpoints.kepler.ai.cloud.ovh.net": _host("ovhcloud", "/v1"),
    "api.quicksilverpro.io": _host("quicksilverpro", "/v1"),
    "api.typesafe.ai": _host("typesafe", "/v1"),
    "api.voyageai.com": Host("voyageai", (("/v1", VOYAGE),)),
    # Without prices in genai-prices: priced by a file of one's own.
    "ai-gateway.vercel.sh": _host("vercel", "/v1", anthropic="/v1"),
    "api.ai21.com": _host("ai21", "/studio/v1"),
    "api.deepinfra.com": _host("deepinfra", "/v1/openai", anthropic="/anthropic/v1"),
    "api.featherless.ai": _host("featherless", "/v1"),
    "api.friendli.ai": _host("friendli", "/serverless/v1", "/dedicated/v1"),
    "api.hyperbolic.xyz": _host("hyperbolic", "/v1"),
    "api.inference.crusoecloud.com": _host("crusoe", "/v1"),
    "api.inference.wandb.ai": _host("wandb", "/v1"),
    "api.jina.ai": _host("jina", "/v1", rerank=True),
    "api.lambda.ai": _host("lambda", "/v1"),
    "api.llama.com": _host("llama", "/compat/v1"),
    "api.sambanova.ai": _host("sambanova", "/v1"),
    "api.scaleway.ai": _host("scaleway", "/v1"),
    "api.siliconflow.com": _host("siliconflow", "/v1", rerank=True),
    "api.siliconflow.cn": _host("siliconflow", "/v1", rerank=True),
    "api.studio.nebius.ai": _NEBIUS,
    "api.studio.nebius.com": _NEBIUS,
    "api.tokenfactory.nebius.com": _NEBIUS,
    "dashscope.aliyuncs.com": _ALIBABA,
    "dashscope-intl.aliyuncs.com": _ALIBABA,
    "dashscope-us.aliyuncs.com": _ALIBABA,
    "eu.inference.heroku.com": _HEROKU,
    "us.inference.heroku.com": _HEROKU,
    "inference.do-ai.run": _host("digitalocean", "/v1"),
    "integrate.api.nvidia.com": _host("nvidia", "/v1"),
    "models.github.ai": _host("github", "/inference"),
    "models.inference.ai.azure.com": _host("github", "", "/v1"),
    "ollama.com": _host("ollama", "/v1", anthropic="/v1"),
}

_REGION: Final = r"[a-z]{2,4}(?:-[a-z]+){1,3}-[0-9]{1,2}"
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

_BEDROCK_HOST: Final = Host(
    "aws", (("", BEDROCK), ("/openai/v1", OPENAI), ("/v1", OPENAI), ("/anthropic/v1", ANTHROPIC))
)
_VERTEX_HOST: Final = Host("google", (("/v1", VERTEX), ("/v1beta1", VERTEX), ("/v1beta", VERTEX)))
_AZURE_HOST: Final = Host(
    "azure", (("", AZURE), ("/openai/v1", OPENAI), ("/anthropic/v1", ANTHROPIC), ("/models", OPENAI))
)
_MODAL_HOST: Final = _host("modal", "/v1")

#: Hosts whose path begins with the name of the one who serves: the prefix, the provider's id for it, what it offers.
BY_PATH: Final[dict[str, tuple[re.Pattern[str], Host]]] = {
    "router.huggingface.co": (
        re.compile(r"/(?!v[0-9]+/)([a-z0-9-]{1,40})(?=/)", re.ASCII),
        _host("huggingface_{}", "/v1", "/inference/v1", "/openai/v1", "/v3/openai", "/compatibility/v1"),
    ),
    "api.cloudflare.com": (
        re.compile(r"/client/v4/accounts/([0-9a-zA-Z]{1,64})/ai(?=/)", re.ASCII),
        _host("cloudflare", "/v1", anthropic="/v1"),
    ),
}

#: Hosts with a name or a region in them, whole names only: how people write it, the pattern, and what it is.
PATTERNS: Final[tuple[tuple[str, re.Pattern[str], Host], ...]] = tuple(
    (written, re.compile(pattern, re.ASCII), host)
    for written, pattern, host in (
        ("NAME.openai.azure.com", rf"{_LABEL}\.openai\.azure\.com", _AZURE_HOST),
        ("NAME.cognitiveservices.azure.com", rf"{_LABEL}\.cognitiveservices\.azure\.com", _AZURE_HOST),
        ("NAME.services.ai.azure.com", rf"{_LABEL}\.services\.ai\.azure\.com", _AZURE_HOST),
        (
            "bedrock-runtime.REGION.amazonaws.com",
            rf"bedrock-runtime(?:-fips)?\.{_REGION}\.(?:amazonaws\.com|api\.aws)",
            _BEDROCK_HOST,
        ),
        (
            "VPCE.bedrock-runtime.REGION.vpce.amazonaws.com",
            rf"{_LABEL}\.bedrock-runtime\.{_REGION}\.vpce\.amazonaws\.com",
            _BEDROCK_HOST,
        ),
        ("bedrock-mantle.REGION.api.aws", rf"bedrock-mantle\.{_REGION}\.api\.aws", _BEDROCK_HOST),
        ("aiplatform.googleapis.com", r"aiplatform\.googleapis\.com", _VERTEX_HOST),
        ("REGION-aiplatform.googleapis.com", r"[a-z]+-[a-z]+[0-9]{1,2}-aiplatform\.googleapis\.com", _VERTEX_HOST),
        ("aiplatform.REGION.rep.googleapis.com", r"aiplatform\.[a-z0-9-]{2,20}\.rep\.googleapis\.com", _VERTEX_HOST),
        (
            "ACCOUNT.snowflakecomputing.com",
            rf"[a-z0-9_-]{{1,63}}(?:\.{_LABEL}){{0,3}}\.snowflakecomputing\.com",
            Host("snowflake", (("/api/v2/cortex/v1", OPENAI), ("/api/v2/cortex/v1", ANTHROPIC))),
        ),
        (
            "NAME.cloud.databricks.com",
            rf"{_LABEL}(?:\.{_LABEL})?\.(?:cloud\.databricks\.com|azuredatabricks\.net|gcp\.databricks\.com)",
            Host(
                "databricks",
                (
                    ("", DATABRICKS),
                    ("/serving-endpoints", OPENAI),
                    ("/serving-endpoints/anthropic/v1", ANTHROPIC),
                    ("/ai-gateway/mlflow/v1", OPENAI),
                    ("/ai-gateway/openai/v1", OPENAI),
                    ("/ai-gateway/anthropic/v1", ANTHROPIC),
                ),
            ),
        ),
        ("NAME.modal.run", rf"{_LABEL}(?:\.{_LABEL})?\.modal\.(?:run|direct)", _MODAL_HOST),
    )
)

"""What LiteLLM's names of models say: provider, model, and the size and quality of a picture."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

#: LiteLLM's providers whose names differ from ours (those of genai-prices, where it has them).
_PROVIDERS: Final = {
    "aws_polly": "aws",
    "azure_ai": "azure",
    "azure_text": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "bedrock_mantle": "aws",
    "bigmodel": "zhipuai",
    "codestral": "mistral",
    "cohere_chat": "cohere",
    "dashscope": "alibaba",
    "featherless_ai": "featherless",
    "fireworks_ai": "fireworks",
    "fireworks_ai-embedding-models": "fireworks",
    "friendliai": "friendli",
    "gemini": "google",
    "github_copilot": "github-copilot",
    "gradient_ai": "digitalocean",
    "jina_ai": "jina",
    "lambda_ai": "lambda",
    "meta_llama": "meta",
    "moonshot": "moonshotai",
    "nvidia_nim": "nvidia",
    "text-completion-codestral": "mistral",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vercel_ai_gateway": "vercel",
    "vertex_ai": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}

_SIZE: Final = re.compile(r"(\d{2,5})-x-(\d{2,5})")
#: Models that are not models: names that LiteLLM gives to the larger sizes of another.
_LARGER: Final = {"sora-2-pro-high-res": ("sora-2-pro", ("1792x1024", "1024x1792"))}
_QUALITY: Final = frozenset({"low", "medium", "high", "standard", "hd"})
_INEXPRESSIBLE: Final = re.compile(r"max-x-max|(\d+|max)-steps|\d+-month-commitment")
_AWS_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d|\*")


class Subject(NamedTuple):
    """What an entry of LiteLLM's is about. `obstacle` says why our file cannot say it; "": it can."""

    provider: str
    model: str
    when: dict[str, str]
    obstacle: str = ""

    @property
    def pixels(self) -> int | None:
        """The size of the picture; None: it is not told."""
        if "size" not in self.when:
            return None
        width, _, height = self.when["size"].partition("x")
        return int(width) * int(height)


def provider_of(litellm_provider: str) -> str:
    """Return our name of LiteLLM's provider; all of Vertex AI's kinds are Google's."""
    plain = "vertex_ai" if litellm_provider.startswith("vertex_ai") else litellm_provider
    return _PROVIDERS.get(plain, plain)


def subject(name: str, litellm_provider: str) -> Subject:
    """Read `azure/hd/1024-x-1792/dall-e-3` and the like."""
    provider = provider_of(litellm_provider)
    when: dict[str, str] = {}
    obstacle = ""
    placed = False
    segments = name.split("/")
    while len(segments) > 1:
        first = segments[0]
        if size := _SIZE.fullmatch(first):
            when["size"] = f"{size[1]}x{size[2]}"
        elif first in _QUALITY:
            when["quality"] = first
        elif _INEXPRESSIBLE.fullmatch(first):
            obstacle = f"priced by {first}"
        elif provider == "aws" and _AWS_REGION.fullmatch(first):
            obstacle = "the price of one region"
        elif not placed and provider_of(first) == provider:
            placed = True
        else:
            break
        segments = segments[1:]
    return Subject(provider, "/".join(segments), when, obstacle)


def subjects(name: str, litellm_provider: str) -> list[Subject]:
    """Read a name that may stand for several sizes of a model."""
    one = subject(name, litellm_provider)
    model, sizes = _LARGER.get(one.model, (one.model, ()))
    return [one._replace(model=model, when={**one.when, "size": size}) for size in sizes] or [one]


def as_pattern(model: str) -> str:
    """Write a name so that it matches itself alone."""
    return re.sub(r"([*?\[])", r"[\1]", model)

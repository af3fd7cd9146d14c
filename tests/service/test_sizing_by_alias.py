"""What a request can cost is found for the model that the name in it stands for, whatever that name looks like."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from limiter.domain.calls import ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.pricing.bounds import Size
from limiter.pricing.growth import SEARCH_TOKENS
from limiter.pricing.paths import Dialect
from limiter.pricing.sizes import measure
from tests.rules.desk import Limiter

POLICY = """
    version: 1
    organizations:
      acme:
        settings: {estimate: strict}
        aliases:
          quick: sonar-deep-research
          finder: gpt-4o-search-preview
          plain: gpt-4.1
          gpt-4o: gpt-4o-mini
          painter: gpt-image-1
          "arn:aws:bedrock:us-east-1:1:application-inference-profile/a": meta.llama3-8b-instruct-v1:0
        teams: {search: {keys: {bot: {}}}}
"""
HELLO = [{"role": "user", "content": "Hello"}]
#: The head of a PNG of 1,024 × 1,024 pixels.
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", 1024, 1024, 8, 6, 0, 0, 0) + bytes(64)
OPENAI = ("api.openai.com", "/v1/chat/completions")


def request(body: dict[str, Any], to: tuple[str, str] = OPENAI) -> ProviderRequest:
    return ProviderRequest(*to, json.dumps(body).encode())


async def tokens(limiter: Limiter, model: str, content: Any) -> int:  # noqa: ANN401 - whatever a message holds
    """How many tokens a chat to `model` is held for; all bodies are as long as each other."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "user": ""}
    body["user"] = "x" * (32 - len(model))
    return (await limiter.record(await limiter.grant(request=request(body), model=""))).tokens


async def test_an_alias_of_a_model_that_searches_is_refused_with_its_reason(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    body = {"model": "quick", "messages": HELLO, "max_tokens": 10}
    with pytest.raises(InvalidArgument, match=r"model \(sonar-deep-research\).*name a model that does not search"):
        await limiter.grant(request=request(body, ("api.perplexity.ai", "/chat/completions")), model="")


async def test_an_alias_of_a_model_that_searches_has_the_allowance_for_that(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("strict", "safe"))
    searching = await tokens(limiter, "gpt-4o-search-preview", "Hello")
    assert abs(await tokens(limiter, "finder", "Hello") - searching) < 10  # the text of the bodies is not the same
    assert searching > await tokens(limiter, "plain", "Hello") + SEARCH_TOKENS - 10


async def test_an_image_to_an_alias_is_bounded_as_one_to_its_model(limiter: Limiter) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}}
    await limiter.apply(POLICY)
    mini = await tokens(limiter, "gpt-4o-mini", [image])
    assert await tokens(limiter, "gpt-4o", [image]) == mini
    assert await tokens(limiter, "plain", [image]) < mini - 10_000


async def test_a_model_that_the_caller_names_counts_and_not_that_of_the_body(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("strict", "safe"))
    body = {"model": "plain", "messages": HELLO, "max_tokens": 1}
    granted = await limiter.grant(request=request(body), model="finder")
    assert (await limiter.record(granted)).tokens > SEARCH_TOKENS


async def test_a_deployment_of_a_model_billed_by_images_of_tokens_is_held_for_those(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    to = ("acme.openai.azure.com", "/openai/deployments/painter/images/generations")
    granted = await limiter.grant(request=request({"prompt": "A fox", "n": 2, "quality": "low"}, to), model="")
    assert granted.max_output_tokens == 408


async def test_where_a_maximum_output_would_be_is_told_by_the_model(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("strict", "safe"))
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile%2Fa"
    to = ("bedrock-runtime.us-east-1.amazonaws.com", f"/model/{arn}/invoke")
    granted = await limiter.grant(request=request({"prompt": "Hello"}, to), model="")
    assert granted.output_field == "max_gen_len"


async def test_the_body_is_measured_once_and_for_the_model_alone(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def watched(body: bytes, fields: Mapping[str, Any], *, model: str, dialect: Dialect) -> Size:
        measured.append(model)
        return measure(body, fields, model=model, dialect=dialect)

    monkeypatch.setattr("limiter.pricing.reading.measure", watched)
    await limiter.apply(POLICY)
    for model in ("plain", "gpt-4o-mini"):
        await limiter.grant(request=request({"model": model, "messages": HELLO, "max_tokens": 1}), model="")
    assert measured == ["gpt-4.1", "gpt-4o-mini"]

"""Every provider's own interface goes through, and is refused in the provider's own words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.envoy.checks import GOOGLE, POLICY, Front

BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"
VERTEX = "europe-west4-aiplatform.googleapis.com"
COHERE = "api.cohere.com"
GEMINI_PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
NOVA_PATH = "/model/us.amazon.nova-micro-v1%3A0/converse"
CONTENTS: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
CONVERSE: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}
COHERE_CHAT: dict[str, Any] = {"model": "command-r7b-12-2024", "messages": [{"role": "user", "content": "Hello"}]}
POOR = POLICY.replace("limits: []", "limits: [{id: daily, spend: 0.000001, per: day}]")


@pytest.mark.each_engine
@pytest.mark.parametrize(
    ("host", "path", "body", "told"),
    [
        (GOOGLE, GEMINI_PATH, CONTENTS, {"provider": "google", "field": "generationConfig.maxOutputTokens"}),
        (
            GOOGLE,
            GEMINI_PATH.replace("generate", "streamGenerate") + "?alt=sse",
            CONTENTS,
            {"provider": "google", "field": "generationConfig.maxOutputTokens", "stream": True},
        ),
        (
            VERTEX,
            "/v1/projects/p/locations/europe-west4/publishers/google/models/gemini-2.5-flash:generateContent",
            CONTENTS,
            {"provider": "google", "field": "generationConfig.maxOutputTokens"},
        ),
        (BEDROCK, NOVA_PATH, CONVERSE, {"provider": "aws", "field": "inferenceConfig.maxTokens"}),
        (
            BEDROCK,
            f"{NOVA_PATH}-stream",
            CONVERSE,
            {"provider": "aws", "field": "inferenceConfig.maxTokens", "stream": True},
        ),
        (COHERE, "/v2/chat", COHERE_CHAT, {"provider": "cohere", "field": "max_tokens"}),
    ],
)
async def test_a_call_goes_on_with_its_stream_and_the_field_for_its_bound(
    front: Front, host: str, path: str, body: dict[str, Any], told: dict[str, Any]
) -> None:
    await front.start()

    answer = await front.check(body, host=host, path=path, secret=await front.key())

    assert answer.kind == "ok", answer.body
    assert answer.metadata["provider"] == told["provider"]
    assert answer.metadata["max_output_field"] == told["field"]
    assert answer.metadata.get("stream") == told.get("stream")


@pytest.mark.each_engine
async def test_a_refusal_is_written_as_the_provider_would(front: Front) -> None:
    await front.start()
    secret = await front.key(POOR)

    gemini = await front.check(CONTENTS, host=GOOGLE, path=GEMINI_PATH, headers={"x-goog-api-key": secret})
    bedrock = await front.check(CONVERSE, host=BEDROCK, path=NOVA_PATH, secret=secret)
    cohere = await front.check(COHERE_CHAT, host=COHERE, path="/v2/chat", secret=secret)

    assert (gemini.status, bedrock.status, cohere.status) == (402, 402, 402)
    message = gemini.body["error"]["message"]
    assert gemini.body["error"] == {"code": 402, "message": message, "status": "RESOURCE_EXHAUSTED"}
    assert "daily" in message
    assert set(bedrock.body) == {"message", "limiter"}
    assert bedrock.headers["x-amzn-errortype"] == "ServiceQuotaExceededException"
    assert set(cohere.body) == {"message", "limiter"}
    assert "x-amzn-errortype" not in gemini.headers | cohere.headers


@pytest.mark.parametrize(
    ("host", "path"),
    [
        (GOOGLE, "/v1beta/models/gemini-2.5-flash:countTokens"),
        (BEDROCK, NOVA_PATH.replace("converse", "count-tokens")),
        ("api.anthropic.com", "/v1/messages/count_tokens"),
    ],
)
async def test_counting_tokens_is_counted_by_rates_only(front: Front, host: str, path: str) -> None:
    await front.start()

    answer = await front.check(b"anything", host=host, path=path, secret=await front.key(POOR))

    assert answer.kind == "ok"
    assert "reservation" not in answer.metadata


async def test_a_host_that_nobody_knows_has_no_price_until_somebody_writes_one(front: Front) -> None:
    await front.start("{partial_body: {hold_usd: 0.01}}")
    secret = await front.key()

    for host in ("gateway.example", "vllm.internal:8000", "api.openai.com.evil.example"):
        answer = await front.check(host=host, secret=secret)
        assert (answer.status, answer.body["limiter"]["reason"]) == (403, "MODEL_UNPRICED"), host
        cut = await front.check(b"{", host=host, secret=secret, size=99)
        assert (cut.status, cut.body["limiter"]["reason"]) == (413, "BODY_INCOMPLETE")


async def test_where_another_filter_signs_no_key_goes_to_the_provider(front: Front) -> None:
    await front.start(f"{{forward_client_keys: false, upstream_credentials: [{{host: {BEDROCK}, signed: true}}]}}")
    secret = await front.key()

    answer = await front.check(CONVERSE, host=BEDROCK, path=NOVA_PATH, secret=secret)

    assert (answer.kind, answer.upstream) == ("ok", {})
    assert "authorization" in answer.removed


async def test_a_recording_is_held_by_its_length_and_its_form_must_be_of_its_type(front: Front) -> None:
    await front.start()
    secret = await front.key()
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
        + b"x" * 6_000
        + b"\r\n--b--\r\n"
    )

    def sent(boundary: str) -> dict[str, Any]:
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        return {"path": "/v1/audio/transcriptions", "headers": headers, "secret": secret}

    assert (await front.check(body, **sent("b"))).kind == "ok"
    other = await front.check(body, **sent("c"))
    assert (other.status, other.body["limiter"]["reason"]) == (400, "INVALID_ARGUMENT")

"""Calls as the manuals of the providers have them, for what was not recorded."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any, Final

from tests.gateway.playback import Answer, Call

JSON: Final = "application/json"
SSE: Final = "text/event-stream"
AWS: Final = "application/vnd.amazon.eventstream"

GOOGLE: Final = "generativelanguage.googleapis.com"
BEDROCK: Final = "bedrock-runtime.us-east-1.amazonaws.com"
CLAUDE: Final = "anthropic.claude-3-5-haiku-20241022-v1%3A0"

MESSAGES: Final = [{"role": "user", "content": "What is the capital of Mexico?"}]
CONTENTS: Final = {"contents": [{"role": "user", "parts": [{"text": "What is the capital of Mexico?"}]}]}


def aws(kind: str, told: dict[str, Any]) -> bytes:
    """A message of an AWS event stream."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":event-type", kind.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    payload = json.dumps(told, separators=(",", ":")).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def packed(*events: dict[str, Any]) -> bytes:
    """Events of a model's own, as invoke-with-response-stream sends them."""
    return b"".join(
        aws("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abc"}) for event in events
    )


def sse(*events: object, named: bool = False) -> bytes:
    """Server-sent events."""
    return b"".join(
        (f"event: {event['type']}\n" if named and isinstance(event, dict) else "").encode()
        + b"data: "
        + (event if isinstance(event, bytes) else json.dumps(event).encode())
        + b"\n\n"
        for event in events
    )


def form(**parts: str | bytes) -> bytes:
    """A form with its boundary."""
    lines = []
    for name, value in parts.items():
        file = '; filename="speech.mp3"\r\nContent-Type: audio/mpeg' if isinstance(value, bytes) else ""
        plain = value if isinstance(value, bytes) else value.encode()
        lines.append(
            f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + plain + b"\r\n"
        )
    return b"".join(lines) + b"--edge--\r\n"


def chat(model: str, **more: object) -> bytes:
    """A request of OpenAI's interface."""
    return json.dumps({"model": model, "messages": MESSAGES, **more}).encode()


def completion(model: str, **usage: object) -> bytes:
    """An answer of OpenAI's interface."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Mexico City."}, "finish_reason": "stop"}
    return json.dumps({"id": "chat-1", "model": model, "choices": [choice], "usage": usage}).encode()


def chunks(model: str, **usage: object) -> bytes:
    """A stream of OpenAI's interface."""
    part: dict[str, Any] = {"id": "chat-1", "model": model, "choices": [{"index": 0, "delta": {"content": "Mexico"}}]}
    last = {"id": "chat-1", "model": model, "choices": [], "usage": usage}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return sse(part, part, part | {"choices": [end]}, last, b"[DONE]")


def gemini(text: str, *, output: int, **more: object) -> dict[str, Any]:
    """A chunk of Gemini's answer."""
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": output, "thoughtsTokenCount": 11}
    usage["totalTokenCount"] = 20 + output
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", "responseId": "g1"}


GEMINI: Final = [
    gemini("Mexico ", output=2),
    gemini('"City" [1], {', output=5),
    gemini("", output=7, finishReason="STOP"),
]

CLAUDES: Final[list[dict[str, Any]]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "model": "claude-3-5-haiku-20241022",
            "usage": {"input_tokens": 14, "cache_read_input_tokens": 3, "output_tokens": 1},
        },
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'Mexico "City"'}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 60}},
    {
        "type": "message_stop",
        "amazon-bedrock-invocationMetrics": {"inputTokenCount": 14, "outputTokenCount": 60},
    },
]

CONVERSE: Final = b"".join(
    (
        aws("messageStart", {"role": "assistant", "p": "abcd"}),
        aws("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Mexico"}, "p": "ab"}),
        aws("messageStop", {"stopReason": "end_turn", "p": "abc"}),
        aws(
            "metadata",
            {"metrics": {"latencyMs": 411}, "usage": {"inputTokens": 14, "outputTokens": 8, "totalTokens": 22}},
        ),
    )
)

COHERE: Final[list[dict[str, Any]]] = [
    {"type": "message-start", "id": "c-1", "delta": {"message": {"role": "assistant", "content": []}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Mexico"}}}},
    {
        "type": "message-end",
        "delta": {
            "finish_reason": "COMPLETE",
            "usage": {
                "billed_units": {"input_tokens": 8, "output_tokens": 3},
                "tokens": {"input_tokens": 200, "output_tokens": 5},
            },
        },
    },
]

#: An image that is larger than anything that is kept on the way.
IMAGE: Final = base64.b64encode(bytes(range(256)) * 5_000).decode()
IMAGES: Final = {
    "created": 1,
    "size": "1024x1024",
    "quality": "low",
    "data": [{"b64_json": IMAGE}],
    "usage": {
        "input_tokens": 12,
        "output_tokens": 272,
        "total_tokens": 284,
        "input_tokens_details": {"text_tokens": 12, "image_tokens": 0},
    },
}
VECTORS: Final = {
    "object": "list",
    "model": "text-embedding-3-large",
    "data": [{"object": "embedding", "index": 0, "embedding": [at / 7_001 for at in range(3_072)]}],
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
}
SPOKEN: Final = bytes(range(256)) * 64


def _calls() -> list[Call]:
    stream = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    vertex = "/v1/projects/p/locations/us-central1/publishers"
    listed = b"[" + b"\r\n,\n".join(json.dumps(one, indent=2).encode() for one in GEMINI) + b"\n]\n"
    asked = json.dumps(CONTENTS).encode()
    claude = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 99, "messages": MESSAGES}).encode()
    prompt = json.dumps({"model": "gpt-image-1", "prompt": "A cat", "size": "1024x1024", "quality": "low"}).encode()
    usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
    cached = usage | {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 12}
    converse = json.dumps({"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}).encode()
    openai = "api.openai.com"
    speech = json.dumps({"model": "tts-1", "input": "Good morning", "voice": "alloy"}).encode()
    transcript = "multipart/form-data; boundary=edge"
    return [
        Call("gemini sse", GOOGLE, f"{stream}?alt=sse", asked, Answer(200, SSE, sse(*GEMINI), in_parts=True)),
        Call("gemini list", GOOGLE, stream, asked, Answer(200, f"{JSON}; charset=UTF-8", listed, in_parts=True)),
        Call(
            "vertex list",
            "us-central1-aiplatform.googleapis.com",
            f"{vertex}/google/models/gemini-2.5-flash:streamGenerateContent",
            asked,
            Answer(200, JSON, listed, in_parts=True),
        ),
        Call(
            "claude at vertex",
            "aiplatform.googleapis.com",
            f"{vertex}/anthropic/models/claude-3-5-haiku@20241022:streamRawPredict",
            claude.replace(b"{", b'{"stream": true, ', 1).replace(b"bedrock-2023-05-31", b"vertex-2023-10-16"),
            Answer(200, SSE, sse(*CLAUDES[:3], {"type": "message_stop"}, named=True), in_parts=True),
        ),
        Call(
            "converse-stream",
            BEDROCK,
            "/model/us.amazon.nova-micro-v1%3A0/converse-stream",
            converse,
            Answer(200, AWS, CONVERSE, in_parts=True),
        ),
        Call(
            "invoke stream",
            BEDROCK,
            f"/model/{CLAUDE}/invoke-with-response-stream",
            claude,
            Answer(200, AWS, packed(*CLAUDES), in_parts=True),
        ),
        Call(
            "invoke stream of llama",
            BEDROCK,
            "/model/meta.llama3-70b-instruct-v1%3A0/invoke-with-response-stream",
            json.dumps({"prompt": "Hello", "max_gen_len": 50}).encode(),
            Answer(
                200,
                AWS,
                packed(
                    {"generation": "Hi", "prompt_token_count": 12, "generation_token_count": 1, "stop_reason": None},
                    {
                        "generation": " there" * 300,
                        "generation_token_count": 30,
                        "stop_reason": "stop",
                        "amazon-bedrock-invocationMetrics": {"inputTokenCount": 12, "outputTokenCount": 30},
                    },
                ),
                in_parts=True,
            ),
        ),
        Call(
            "cohere stream",
            "api.cohere.com",
            "/v2/chat",
            chat("command-r-plus-08-2024", stream=True),
            Answer(200, SSE, sse(*COHERE, named=True), in_parts=True),
        ),
        Call(
            "mistral",
            "api.mistral.ai",
            "/v1/chat/completions",
            chat("mistral-small-latest"),
            Answer(200, JSON, completion("mistral-small-latest", **usage)),
        ),
        Call(
            "mistral stream",
            "api.mistral.ai",
            "/v1/chat/completions",
            chat("mistral-small-latest", stream=True),
            Answer(200, SSE, chunks("mistral-small-latest", **usage), in_parts=True),
        ),
        Call(
            "deepseek",
            "api.deepseek.com",
            "/chat/completions",
            chat("deepseek-chat"),
            Answer(200, JSON, completion("deepseek-chat", **cached)),
        ),
        Call(
            "xai", "api.x.ai", "/v1/chat/completions", chat("grok-3"), Answer(200, JSON, completion("grok-3", **usage))
        ),
        Call(
            "xai stream",
            "api.x.ai",
            "/v1/chat/completions",
            chat("grok-3", stream=True),
            Answer(200, SSE, chunks("grok-3", **usage), in_parts=True),
        ),
        Call(
            "groq stream",
            "api.groq.com",
            "/openai/v1/chat/completions",
            chat("llama-3.3-70b-versatile", stream=True),
            Answer(200, SSE, chunks("llama-3.3-70b-versatile", **usage), in_parts=True),
        ),
        Call(
            "openrouter",
            "openrouter.ai",
            "/api/v1/chat/completions",
            chat("openai/gpt-4o-mini"),
            Answer(200, JSON, completion("openai/gpt-4o-mini", **usage)),
        ),
        Call(
            "vectors",
            openai,
            "/v1/embeddings",
            json.dumps({"model": "text-embedding-3-large", "input": "Hello"}).encode(),
            Answer(200, JSON, json.dumps(VECTORS, indent=1).encode()),
        ),
        Call("image", openai, "/v1/images/generations", prompt, Answer(200, JSON, json.dumps(IMAGES).encode())),
        Call(
            "image stream",
            openai,
            "/v1/images/generations",
            prompt.replace(b"{", b'{"stream": true, ', 1),
            Answer(
                200,
                SSE,
                sse({"type": "image_generation.completed", **IMAGES, "b64_json": IMAGE, "data": None}, named=True),
                in_parts=True,
            ),
        ),
        Call("speech", openai, "/v1/audio/speech", speech, Answer(200, "audio/mpeg", SPOKEN)),
        Call("speech in parts", openai, "/v1/audio/speech", speech, Answer(200, "audio/mpeg", SPOKEN, in_parts=True)),
        Call(
            "transcript",
            openai,
            "/v1/audio/transcriptions",
            form(model="gpt-4o-transcribe", file=SPOKEN),
            Answer(
                200,
                JSON,
                json.dumps(
                    {
                        "text": "Good morning",
                        "usage": {
                            "type": "tokens",
                            "input_tokens": 14,
                            "output_tokens": 4,
                            "total_tokens": 18,
                            "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                        },
                    }
                ).encode(),
            ),
            transcript,
        ),
        Call(
            "transcript of whisper",
            openai,
            "/v1/audio/transcriptions",
            form(model="whisper-1", response_format="text", file=SPOKEN),
            Answer(200, "text/plain; charset=utf-8", b"Good morning\n"),
            transcript,
        ),
    ]


MADE: Final = tuple(_calls())

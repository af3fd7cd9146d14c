"""The stand-in provider's answers: recorded ones of OpenAI and Anthropic, with other texts and counts filled in."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from deploy.demo.billing import MODELS, Call, Tokens

Body = dict[str, Any]

#: What a call is answered with if it does not say how much it wants.
OUTPUT_TOKENS: Final = 24

#: The field of the request that limits the output, by path; the first that is given counts.
_MAXIMUM: Final = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}


class Frame(NamedTuple):
    """One event of a stream, and how many tokens were generated for it."""

    data: bytes
    tokens: int = 0


@cache
def recorded() -> Mapping[str, Any]:
    """The recorded answers."""
    answers: Mapping[str, Any] = json.loads(Path(__file__).with_name("answers.json").read_text("utf-8"))
    return answers


def is_anthropic(path: str) -> bool:
    """Whether the path is one of Anthropic's API."""
    return path == "/v1/messages"


def measure(path: str, body: Body, *, output: int | None, cached: int) -> Tokens:
    """What a request will use: a token for every four bytes of its texts, and a few for each message."""
    texts = list(_texts([body.get(name) for name in ("messages", "input", "system", "instructions")]))
    tokens = Tokens(input=sum(3 + len(text.encode()) // 4 for text in texts) or 1)
    if path == "/v1/embeddings":
        return tokens
    tokens.cached = min(cached, tokens.input - 1)
    wanted = OUTPUT_TOKENS if output is None else output
    limits = [int(body[name]) for name in _MAXIMUM[path] if body.get(name) is not None]
    tokens.output = min([wanted, *limits[:1]])
    if MODELS[body["model"]].reasons:
        tokens.reasoning = tokens.output // 2
    return tokens


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name in ("content", "text"):
            yield from _texts(value.get(name))


def pieces(call: Call) -> list[str]:
    """The text of the answer, token by token."""
    return list(islice(cycle(recorded()["pieces"]), call.tokens.output - call.tokens.reasoning))


def _was_cut(call: Call) -> bool:
    return any(call.body.get(name) == call.tokens.output for name in _MAXIMUM[call.path])


def failure(path: str, status: int, message: str) -> Body:
    """An error in the dialect of the path."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
    if is_anthropic(path):
        return {"type": "error", "error": {"type": kind, "message": message}}
    error: Body = deepcopy(recorded()["error"])
    error["error"] |= {"message": message, "type": kind, "code": None, "param": None}
    return error


def models() -> Body:
    """The list of models."""
    data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "stand-in"} for name in MODELS]
    return {"object": "list", "data": data}


def answer(call: Call) -> Body:
    """The answer as one JSON object."""
    return {
        "/v1/chat/completions": _chat,
        "/v1/responses": _response,
        "/v1/embeddings": _embedding,
        "/v1/messages": _message,
    }[call.path](call)


def stream(call: Call) -> Iterator[Frame]:
    """Yield the answer event by event."""
    streams = {"/v1/chat/completions": _chat_stream, "/v1/responses": _response_stream, "/v1/messages": _message_stream}
    yield from streams[call.path](call)


def _served(call: Call) -> str:
    return MODELS[call.model].served_as


def _openai_usage(tokens: Tokens, *, entrance: str, exit_: str) -> Body:
    return {
        f"{entrance}_tokens": tokens.input,
        f"{exit_}_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        f"{entrance}_tokens_details": {"cached_tokens": tokens.cached},
        f"{exit_}_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def _anthropic_usage(tokens: Tokens) -> Body:
    """Anthropic counts what it read from its cache apart from the input."""
    counts = {"input_tokens": tokens.input - tokens.cached, "cache_read_input_tokens": tokens.cached}
    return {**counts, "cache_creation_input_tokens": 0, "output_tokens": tokens.output}


def _chat(call: Call) -> Body:
    body: Body = deepcopy(recorded()["chat"])
    body["model"] = _served(call)
    body["choices"][0]["message"]["content"] = "".join(pieces(call))
    body["choices"][0]["finish_reason"] = "length" if _was_cut(call) else "stop"
    body["usage"] = _openai_usage(call.tokens, entrance="prompt", exit_="completion")
    return body


def _embedding(call: Call) -> Body:
    body: Body = deepcopy(recorded()["embeddings"])
    given = call.body.get("input")
    vector = body["data"][0]["embedding"]
    if call.body.get("encoding_format") != "base64":
        raw = base64.b64decode(vector)
        vector = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    count = len(given) if isinstance(given, list) else 1
    body["data"] = [{"object": "embedding", "index": number, "embedding": vector} for number in range(count)]
    body |= {"model": _served(call), "usage": {"prompt_tokens": call.tokens.input, "total_tokens": call.tokens.input}}
    return body


def _response(call: Call) -> Body:
    body: Body = deepcopy(recorded()["responses"])
    body |= {"model": _served(call), "max_output_tokens": call.body.get("max_output_tokens")}
    body["output"][0]["content"][0]["text"] = "".join(pieces(call))
    body["usage"] = _openai_usage(call.tokens, entrance="input", exit_="output")
    return body


def _message(call: Call) -> Body:
    body: Body = deepcopy(recorded()["messages"])
    body["model"] = _served(call)
    body["content"][0]["text"] = "".join(pieces(call))
    body["stop_reason"] = "max_tokens" if _was_cut(call) else "end_turn"
    body["usage"] |= _anthropic_usage(call.tokens)
    return body


def _frame(body: Body, tokens: int = 0, *, named: bool = True) -> Frame:
    name = f"event: {body['type']}\n" if named else ""
    return Frame(f"{name}data: {json.dumps(body)}\n\n".encode(), tokens)


def _chat_stream(call: Call) -> Iterator[Frame]:
    """OpenAI tells the usage in a last chunk without choices, and only who asked for it."""
    templates = recorded()["chat_stream"]
    wanted = bool((call.body.get("stream_options") or {}).get("include_usage"))

    def chunk(name: str, tokens: int = 0, **delta: str) -> Frame:
        body: Body = {**deepcopy(templates[name]), "model": _served(call)}
        if delta:
            body["choices"][0]["delta"] = delta
        if name == "last" and _was_cut(call):
            body["choices"][0]["finish_reason"] = "length"
        if name == "usage":
            body["usage"] |= _openai_usage(call.tokens, entrance="prompt", exit_="completion")
        elif not wanted:
            del body["usage"]
        return _frame(body, tokens, named=False)

    yield chunk("first", call.tokens.reasoning)
    for piece in pieces(call):
        yield chunk("delta", 1, content=piece)
    yield chunk("last")
    if wanted:
        yield chunk("usage")
    yield Frame(b"data: [DONE]\n\n")


def _response_stream(call: Call) -> Iterator[Frame]:
    """OpenAI tells the usage in the whole response at the end, whoever asks."""
    whole = _response(call)
    text = "".join(pieces(call))
    number = 0
    for template in recorded()["responses_stream"]:
        event: Body = deepcopy(template)
        kind = event["type"]
        repeats = [{"delta": piece} for piece in pieces(call)] if kind == "response.output_text.delta" else [{}]
        if kind == "response.completed":
            event["response"] = whole
        elif "response" in event:
            event["response"]["model"] = whole["model"]
        elif kind == "response.output_text.done":
            event["text"] = text
        elif kind == "response.content_part.done":
            event["part"]["text"] = text
        elif kind == "response.output_item.done":
            event["item"] = whole["output"][0]
        for change in repeats:
            tokens = 1 if change else call.tokens.reasoning if kind == "response.created" else 0
            yield _frame({**event, **change, "sequence_number": number}, tokens)
            number += 1


def _message_stream(call: Call) -> Iterator[Frame]:
    """Anthropic tells the input at the start, with a placeholder for the output, and the output at the end."""
    usage = _anthropic_usage(call.tokens)
    for template in recorded()["messages_stream"]:
        event: Body = deepcopy(template)
        kind = event["type"]
        if kind == "message_start":
            event["message"]["model"] = _served(call)
            event["message"]["usage"] |= {**usage, "output_tokens": min(1, call.tokens.output)}
            yield _frame(event, call.tokens.reasoning)
        elif kind == "content_block_delta":
            for piece in pieces(call):
                yield _frame({**event, "delta": {"type": "text_delta", "text": piece}}, 1)
        else:
            if kind == "message_delta":
                event["usage"] = usage
                event["delta"]["stop_reason"] = "max_tokens" if _was_cut(call) else "end_turn"
            yield _frame(event)

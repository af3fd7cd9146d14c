"""Streams are charged by what they told, to the nano-dollar, even if their client leaves as soon as it has seen it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from deploy.demo.envoy import Envoy, Places, configuration
from limiter.v1 import limiter_pb2 as pb
from tests.gateway.conftest import Caller, Desk
from tests.gateway.gateways import ORDERS, RESERVATION, TAGS, Gateway, Provider, ended, ended_books, http_filter
from tests.integration.sidecars import Sidecar
from tests.servers import free_port

MESSAGES: Final[list[Any]] = [{"role": "user", "content": "What is the capital of Mexico?"}]

#: The layouts in which the access log settles streams, and in which the filter reads them.
LAYOUTS: Final = ["default.yaml", "access-log.yaml", "unix-socket.yaml"]
FILTERED: Final = [*LAYOUTS, "mtls.yaml"]

CALLS: Final = 10


@pytest.mark.parametrize("gap_s", ["0", "0.001", "0.05"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_client_that_leaves_after_the_last_event_is_charged_exactly(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str, gap_s: str
) -> None:
    caller = caller.by(at_sidecar(layout))
    client = caller.gateway.openai(caller.secret, max_retries=0)

    def call(label: str) -> str:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=MESSAGES,
            max_tokens=500,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={ORDERS: f"call={label},tokens=20,done_gap_s={gap_s}"},
        )
        assert list(answer.parse())[-1].usage is not None
        return str(answer.headers[RESERVATION])

    for _ in range(CALLS):
        label = os.urandom(6).hex()
        hold = await ended(caller.connection, await asyncio.to_thread(call, label))
        (billed,) = await asyncio.to_thread(caller.gateway.provider.calls, label)
        assert (hold.basis, hold.cost_nanousd) == (pb.Settlement.USAGE, billed["cost_nanousd"])


@pytest.mark.parametrize("layout", ["default.yaml", "access-log.yaml", "ext-proc.yaml"])
async def test_an_event_reaches_the_client_before_the_next_one_is_written(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str
) -> None:
    caller = caller.by(at_sidecar(layout))
    label = os.urandom(6).hex()

    def first_event() -> tuple[bytes, list[dict[str, Any]]]:
        connection = http.client.HTTPConnection("127.0.0.1", caller.gateway.envoy.places.clients, timeout=20)
        body = {"model": "gpt-4o", "max_tokens": 9, "stream": True, "messages": MESSAGES}
        headers = {"authorization": f"Bearer {caller.secret}", ORDERS: f"call={label},gap_s=0.5"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        line = connection.getresponse().readline()
        ended_by_then = caller.gateway.provider.calls(label)
        connection.close()
        return line, ended_by_then

    line, ended_by_then = await asyncio.to_thread(first_event)
    assert line.startswith(b"data: {")
    assert ended_by_then == []


@pytest.mark.parametrize("layout", ["default.yaml", "access-log.yaml"])
async def test_a_provider_that_hangs_up_without_an_answer_may_have_billed_the_call(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str
) -> None:
    client = caller.by(at_sidecar(layout)).gateway.openai(caller.secret, max_retries=0)

    def call() -> str:
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, max_tokens=50, extra_headers={ORDERS: "hang_up=1", TAGS: "a:b"}
            )
        assert failed.value.status_code == 503
        return str(failed.value.response.headers[RESERVATION])

    hold = await ended(caller.connection, await asyncio.to_thread(call))
    assert (hold.state, hold.basis) == (pb.SETTLED, pb.Settlement.ESTIMATED)
    assert hold.cost_nanousd == hold.held_nanousd > 0
    await ended_books(caller.connection, caller.organization)


@pytest.mark.parametrize("layout", ["default.yaml", "access-log.yaml", "ext-proc.yaml"])
async def test_a_client_cannot_have_its_calls_repeated(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str
) -> None:
    client = caller.by(at_sidecar(layout)).gateway.openai(caller.secret, max_retries=0)
    label = os.urandom(6).hex()
    asked = {"x-envoy-retry-on": "retriable-status-codes", "x-envoy-retriable-status-codes": "200"}

    def call() -> list[dict[str, Any]]:
        client.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            max_tokens=5,
            extra_headers={ORDERS: f"call={label}", **asked, "x-envoy-max-retries": "5"},
        )
        return caller.gateway.provider.calls(label)

    assert len(await asyncio.to_thread(call)) == 1


def test_the_filter_is_the_same_wherever_it_is() -> None:
    sources = {
        http_filter(configuration(name), "http.lua")["default_source_code"]["inline_string"] for name in FILTERED
    }
    assert len(sources) == 1


# ---------------------------------------------------------------------- streams as no stand-in writes them

CHUNK: Final[dict[str, Any]] = {
    "id": "chatcmpl-1",
    "model": "gpt-5-mini-2025-08-07",
    "choices": [{"index": 0, "delta": {"content": 'Häuser, "usage": {"prompt_tokens": 7}, [DONE]'}}],
    "usage": None,
}
USAGE: Final = {"prompt_tokens": 1_000, "completion_tokens": 50}
LAST: Final[dict[str, Any]] = CHUNK | {"choices": [], "usage": USAGE}
CHAT_COST: Final = 1_000 * 250 + 50 * 2_000
PRIORITY_COST: Final = 1_000 * 450 + 50 * 3_600

CACHED: Final = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 400}
START: Final[dict[str, Any]] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "model": "claude-haiku-4-5-20251001",
        "usage": {
            "input_tokens": 1_000,
            "cache_creation_input_tokens": 400,
            "cache_read_input_tokens": 200,
            "cache_creation": CACHED,
            "output_tokens": 1,
        },
    },
}
DELTA: Final[dict[str, Any]] = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hello"}}
END: Final[dict[str, Any]] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
SEARCHES: Final = {"output_tokens": 60, "server_tool_use": {"web_search_requests": 3}}
MESSAGE_COST: Final = 1_000 * 1_000 + 400 * 2_000 + 200 * 100 + 60 * 5_000

WHOLE: Final[dict[str, Any]] = {
    "id": "resp_1",
    "model": "gpt-5-mini-2025-08-07",
    "instructions": 'Say "\\u00e4\\"" ' * 20_000,
    "tools": [{"name": f"tool_{number}", "description": "of much use " * 40} for number in range(50)],
    "service_tier": "priority",
    "usage": {"input_tokens": 1_000, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 0}},
}


def events(*told: object, end: bytes = b"\n") -> list[bytes]:
    """Events of a stream, with the ends of lines that are asked for."""
    texts = [one if isinstance(one, bytes) else json.dumps(one, ensure_ascii=False).encode() for one in told]
    return [b"data: " + text + end + end for text in texts]


DONE: Final = b"[DONE]"
CHAT: Final = [CHUNK] * 3

STREAMS: Final[dict[str, tuple[str, list[bytes], int]]] = {
    "lines that end with CR and LF": ("chat", events(*CHAT, LAST, DONE, end=b"\r\n"), CHAT_COST),
    "one byte at a time": ("chat", [bytes([byte]) for byte in b"".join(events(CHUNK, LAST, DONE))], CHAT_COST),
    "all at once": ("chat", [b"".join(events(*CHAT, LAST, DONE))], CHAT_COST),
    "no [DONE]": ("chat", events(*CHAT, LAST), CHAT_COST),
    "no end of the last line": ("chat", [*events(*CHAT), events(LAST)[0].rstrip()], CHAT_COST),
    "bytes that are no UTF-8": ("chat", [b"data: \xff\xfe\n\n", *events(*CHAT, LAST | {"x": "y"}, DONE)], CHAT_COST),
    "no UTF-8 in what is kept": ("chat", [*events(CHUNK), events(LAST)[0].replace(b"tcmpl", b"\xc3(\xff")], CHAT_COST),
    "a long event in between": ("chat", events(CHUNK, CHUNK | {"long": "y" * 3_000_000}, LAST, DONE), CHAT_COST),
    "usage in every chunk": (
        "chat",
        events(*(CHUNK | {"usage": USAGE | {"completion_tokens": count}} for count in range(51)), DONE),
        CHAT_COST,
    ),
    "the tier of the answer": (
        "chat",
        events(*(one | {"service_tier": "priority"} for one in (*CHAT, LAST)), DONE),
        PRIORITY_COST,
    ),
    "a cache for an hour": (
        "messages",
        events(START, DELTA, END | {"usage": {"output_tokens": 60}}, {"type": "message_stop"}),
        MESSAGE_COST,
    ),
    "searches of the provider": (
        "messages",
        events(START, DELTA, END | {"usage": SEARCHES}, {"type": "message_stop"}),
        MESSAGE_COST + 3 * 10_000_000,
    ),
    "an end that repeats it all": (
        "responses",
        events(
            {"type": "response.created", "response": WHOLE | {"usage": None}},
            {"type": "response.completed", "response": WHOLE},
        ),
        PRIORITY_COST,
    ),
}

BODIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-5-mini", "stream_options": {"include_usage": True}}),
    "messages": ("/v1/messages", {"model": "claude-haiku-4-5"}),
    "responses": ("/v1/responses", {"model": "gpt-5-mini"}),
}


async def write_stream(name: str, writer: asyncio.StreamWriter) -> None:
    """Answer with a stream; each part of it is a chunk."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in STREAMS[name][1]:
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests that say in a header which stream they want."""
    try:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if ": " in line)
            await reader.readexactly(int(headers["content-length"]))
            await write_stream(next(name for name in STREAMS if name.lower() == headers[ORDERS]), writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


@pytest.fixture
async def odd_gateway(
    envoy_binary: Path, sidecar: Sidecar, provider: Provider, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """deploy/envoy/access-log.yaml in front of a provider that writes STREAMS."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        places = Places(free_port(), free_port(), sidecar.public, server.sockets[0].getsockname()[1])
        envoy = await asyncio.to_thread(Envoy.start, envoy_binary, configuration("access-log.yaml"), places, tmp_path)
        yield Gateway(envoy, sidecar, provider)
        await asyncio.to_thread(envoy.stop)


async def test_a_stream_is_read_however_it_is_written(odd_gateway: Gateway, desk: Desk) -> None:
    caller = await desk.caller(odd_gateway)

    def call(name: str) -> str:
        path, more = BODIES[STREAMS[name][0]]
        maximum = "max_output_tokens" if "responses" in path else "max_tokens"
        body = {"stream": True, maximum: 100, **more, "input" if "responses" in path else "messages": MESSAGES}
        connection = http.client.HTTPConnection("127.0.0.1", odd_gateway.envoy.places.clients, timeout=20)
        connection.request("POST", path, json.dumps(body), {"authorization": f"Bearer {caller.secret}", ORDERS: name})
        answer = connection.getresponse()
        assert answer.read() == b"".join(STREAMS[name][1]), name
        connection.close()
        return str(answer.headers[RESERVATION])

    charged = {}
    for name in STREAMS:
        hold = await ended(caller.connection, await asyncio.to_thread(call, name))
        charged[name] = (hold.basis, hold.cost_nanousd)
    assert charged == {name: (pb.Settlement.USAGE, cost) for name, (_, _, cost) in STREAMS.items()}

"""A stream read as it comes tells what the same stream tells as a whole, wherever it is cut."""

from __future__ import annotations

import base64
import gzip
import json
import random
import struct
import zlib
from typing import Final

import pytest

from limiter.domain.calls import Outcome, Usage
from limiter.pricing.answers import ResponseReading, read_stream, usage_so_far
from limiter.pricing.encodings import decoded
from limiter.pricing.streams import StreamReader
from tests.pricing.recordings import ALL, SAMPLE, Recorded, recorded_calls

SSE: Final = "text/event-stream"
AWS: Final = "application/vnd.amazon.eventstream"


@pytest.fixture(scope="module", params=[SAMPLE, ALL], ids=["sample", "all"])
def recorded(request: pytest.FixtureRequest) -> list[Recorded]:
    if not request.param.exists():
        pytest.skip(f"{request.param.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    return [call for call in recorded_calls(request.param) if 200 <= call.status < 300]


def fed(content_type: str, *pieces: bytes, encoding: str = "") -> StreamReader:
    reader = StreamReader(content_type, encoding=encoding)
    for piece in pieces:
        reader.feed(piece)
    reader.finish()
    return reader


def cut(body: bytes, dice: random.Random) -> list[bytes]:
    places = sorted(dice.randrange(len(body) + 1) for _ in range(dice.randrange(1, 40)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def read_in_pieces(call: Recorded, *pieces: bytes) -> ResponseReading:
    return read_stream(fed(call.content_type, *pieces), provider=call.provider)


def test_every_recorded_stream_tells_the_same_wherever_it_is_cut(recorded: list[Recorded]) -> None:
    dice = random.Random(1)
    told = 0
    for call in (call for call in recorded if call.is_stream):
        whole = call.read()
        told += whole.usage is not None
        assert read_in_pieces(call, *(call.body[at : at + 1] for at in range(len(call.body)))) == whole, call.where
        for _ in range(5):
            assert read_in_pieces(call, *cut(call.body, dice)) == whole, call.where
        if b'"usage":{' in call.body or b'"usageMetadata"' in call.body:
            assert whole.usage is not None, call.where
            assert whole.usage.output_tokens > 0, call.where
    assert told >= 2


def test_every_recorded_stream_is_read_compressed_as_well(recorded: list[Recorded]) -> None:
    dice = random.Random(2)
    for call in (call for call in recorded if call.is_stream):
        for encoding, body in (("gzip", gzip.compress(call.body)), ("deflate", zlib.compress(call.body))):
            reader = fed(call.content_type, *cut(body, dice), encoding=encoding)
            assert read_stream(reader, provider=call.provider) == call.read()


def test_a_recorded_stream_that_breaks_off_never_tells_more_than_the_whole(recorded: list[Recorded]) -> None:
    dice = random.Random(3)
    for call in (call for call in recorded if call.is_stream):
        whole = call.read().usage
        for _ in range(10):
            reader = fed(call.content_type, call.body[: dice.randrange(len(call.body))])
            told = read_stream(reader, provider=call.provider)
            so_far = usage_so_far(reader, provider=call.provider)
            assert (told.outcome is Outcome.COMPLETED) == reader.ended
            if told.usage is not None:
                assert told.usage == whole
            if so_far is not None and whole is not None:
                assert so_far.total_tokens <= whole.total_tokens


def test_the_text_that_passed_is_measured_in_recorded_streams(recorded: list[Recorded]) -> None:
    measured = 0
    for call in (call for call in recorded if call.is_stream):
        reader = fed(call.content_type, call.body)
        assert 0 <= reader.output_bytes < len(call.body), call.where
        usage = call.read().usage
        if usage is not None and reader.output_bytes > 100:
            measured += 1
            # Four bytes are about a token: reasoning that is not shown can only be more.
            assert reader.output_bytes / 4 < 3 * usage.output_tokens, call.where
    assert measured or len(recorded) < 100


# ---------------------------------------------------------------------------- events


def sse(*events: object) -> bytes:
    return b"".join(b"data: %s\n\n" % (e if isinstance(e, bytes) else json.dumps(e).encode()) for e in events)


CHUNK = {"id": "c", "model": "m", "choices": [{"delta": {"content": "Hello"}}], "usage": None}
LAST = {"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}


def test_usage_is_known_as_soon_as_its_chunk_has_passed() -> None:
    reader = StreamReader(SSE)
    reader.feed(sse(CHUNK, CHUNK))
    assert (reader.ended, usage_so_far(reader, provider="openai")) == (False, None)
    reader.feed(sse(LAST))
    assert (reader.ended, read_stream(reader, provider="openai").usage) == (True, Usage(7, 9))
    assert reader.output_bytes == 2 * len("Hello")


def test_the_last_usage_told_wins() -> None:
    later = LAST | {"usage": {"prompt_tokens": 7, "completion_tokens": 11}}
    assert read_stream(fed(SSE, sse(LAST, later, b"[DONE]")), provider="openai").usage == Usage(7, 11)


def test_what_anthropic_counted_so_far_is_known_after_the_first_event() -> None:
    reader = fed(SSE, sse({"type": "message_start", "message": {"usage": {"input_tokens": 92, "output_tokens": 1}}}))
    assert usage_so_far(reader, provider="anthropic") == Usage(92, 1)
    assert read_stream(reader, provider="anthropic").usage is None


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_three_ways_and_be_cut_in_the_middle_of_it(line_end: bytes) -> None:
    body = sse(CHUNK, LAST, b"[DONE]").replace(b"\n", line_end)
    reader = fed(SSE, *(body[at : at + 1] for at in range(len(body))))
    assert (reader.events, reader.skipped, reader.ended) == (3, 0, True)


def test_an_event_may_have_several_lines_of_data() -> None:
    body = b'event: x\ndata: {"choices": [],\ndata: "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    assert read_stream(fed(SSE, body), provider="openai").usage == Usage(1, 2)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_that_is_too_large_is_passed_over_and_counted(step: int) -> None:
    huge = sse(CHUNK | {"padding": "x" * 500})
    body = huge + sse(LAST) + huge + b"data: " + b"y" * 300
    reader = StreamReader(SSE, event_bytes_max=200)
    for at in range(0, len(body), step):
        reader.feed(body[at : at + step])
    reader.finish()
    assert (reader.events, reader.skipped) == (1, 3)
    assert read_stream(reader, provider="openai").usage == Usage(7, 9)


def test_an_event_that_is_no_json_is_passed_over_and_counted() -> None:
    reader = fed(SSE, sse(CHUNK, b'{"usage": {', LAST))
    assert (reader.events, reader.skipped, reader.ended) == (2, 1, True)


def test_gemini_ends_with_the_chunk_that_says_why() -> None:
    counts = {"promptTokenCount": 18, "candidatesTokenCount": 31, "thoughtsTokenCount": 35}
    part = {"content": {"parts": [{"text": "1 2 3"}]}}
    reader = fed(SSE, sse({"candidates": [part], "usageMetadata": counts, "modelVersion": "gemini"}))
    assert not reader.ended
    assert usage_so_far(reader, provider="google") == Usage(18, 66, reasoning_tokens=35)
    last = {"candidates": [part | {"finishReason": "STOP"}], "usageMetadata": counts | {"candidatesTokenCount": 40}}
    for event in sse(last).splitlines(keepends=True):
        reader.feed(event)
    assert read_stream(reader, provider="google").usage == Usage(18, 75, reasoning_tokens=35)
    assert reader.output_bytes == 2 * len("1 2 3")


def test_cohere_tells_its_usage_in_the_last_event() -> None:
    usage = {"billed_units": {"input_tokens": 3, "output_tokens": 4}, "tokens": {"input_tokens": 500}}
    reader = fed(SSE, sse({"type": "message-start"}, {"type": "message-end", "delta": {"usage": usage}}))
    assert read_stream(reader, provider="cohere").usage == Usage(3, 4)


# ---------------------------------------------------------------------------- AWS


def message(kind: str, payload: object) -> bytes:
    def header(name: str, value: str) -> bytes:
        return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()

    headers = header(":event-type", kind) + header(":message-type", "event")
    data = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(data), len(headers))
    rest = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + data
    return rest + struct.pack(">I", zlib.crc32(rest))


def packed(event: object) -> bytes:
    return message("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abc"})


CONVERSE = message("contentBlockDelta", {"delta": {"text": "Paris"}}) + message(
    "metadata", {"usage": {"inputTokens": 5, "outputTokens": 6, "totalTokens": 11}}
)


def test_bedrocks_converse_stream_ends_with_its_metadata() -> None:
    reader = fed(AWS, *(CONVERSE[at : at + 1] for at in range(len(CONVERSE))))
    assert (reader.ended, reader.output_bytes, reader.skipped) == (True, len("Paris"), 0)
    assert read_stream(reader, provider="aws").usage == Usage(5, 6)


def test_events_of_anthropic_packed_by_bedrock_are_read() -> None:
    start = {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 9, "output_tokens": 1}}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}
    delta = {"type": "message_delta", "usage": {"output_tokens": 44}}
    reader = fed(AWS, *map(packed, (start, text, delta, {"type": "message_stop"})))
    assert read_stream(reader, provider="aws").usage == Usage(9, 44)
    assert reader.output_bytes == len("Hi")


def test_bedrocks_own_count_is_taken_where_the_model_tells_none() -> None:
    counted = {"inputTokenCount": 3, "outputTokenCount": 4, "invocationLatency": 100}
    events = ({"generation": "Hi"}, {"generation": "", "amazon-bedrock-invocationMetrics": counted})
    reader = fed(AWS, *map(packed, events))
    assert usage_so_far(reader, provider="aws") == Usage(3, 4)
    assert reader.ended


@pytest.mark.parametrize("step", [1, 10, 10_000])
def test_a_message_of_aws_that_is_too_large_is_passed_over_and_counted(step: int) -> None:
    body = message("contentBlockDelta", {"delta": {"text": "x" * 1000}}) + CONVERSE
    reader = StreamReader(AWS, event_bytes_max=300)
    for at in range(0, len(body), step):
        reader.feed(body[at : at + step])
    assert (reader.skipped, reader.ended) == (1, True)


def test_a_damaged_message_of_aws_is_passed_over_and_behind_a_damaged_length_all() -> None:
    spoilt = bytearray(CONVERSE)
    spoilt[60] ^= 1
    reader = fed(AWS, bytes(spoilt))
    assert (reader.skipped, reader.ended) == (1, True)
    spoilt[3] ^= 1
    reader = fed(AWS, bytes(spoilt))
    assert (reader.skipped, reader.events, reader.ended) == (1, 0, False)


# ---------------------------------------------------------------------------- encodings


def test_a_bare_deflate_stream_is_read_too() -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bare = compressor.compress(sse(LAST)) + compressor.flush()
    assert fed(SSE, bare, encoding="deflate").ended


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "gzip"])
def test_what_cannot_be_decoded_is_unreadable_and_no_error(encoding: str) -> None:
    reader = fed(SSE, sse(LAST), encoding=encoding)
    assert (reader.unreadable, reader.events, reader.ended) == (True, 0, False)


def test_a_small_answer_that_unfolds_without_end_is_not_decoded() -> None:
    bomb = gzip.compress(b"x" * 1_000_000)
    assert decoded(bomb, "gzip", most=999_999) is None
    assert decoded(bomb, "gzip", most=1_000_000) == b"x" * 1_000_000

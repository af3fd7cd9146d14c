"""A request is changed only where it must be; every other byte is the client's."""

from __future__ import annotations

import json

import pytest

from limiter.domain.reservations import ReservationName
from limiter.envoy.grants import Grant
from limiter.envoy.rewriting import rewritten

PLAIN = Grant(ReservationName("acme", "0" * 32), "openai")
BOUND = PLAIN._replace(max_output_field="max_completion_tokens", max_output_tokens=77)
ASKED = PLAIN._replace(include_usage=True)


def change(body: str | bytes, grant: Grant, *, usage: bool = True, output: bool = True) -> str | None:
    raw = body if isinstance(body, bytes) else body.encode()
    new = rewritten(raw, grant, include_usage=usage, max_output_tokens=output)
    return None if new is None else new.decode()


def test_a_body_that_needs_nothing_is_left_alone() -> None:
    assert change('{"model": "m", "metadata": {"user": "x"}}', PLAIN) is None


def test_the_most_output_is_written_where_the_request_sets_none() -> None:
    assert change('{"model":"m"}', BOUND) == '{"model":"m", "max_completion_tokens": 77}'
    assert change("{}", BOUND) == '{"max_completion_tokens": 77}'
    assert change('{"max_completion_tokens": null}', BOUND) == '{"max_completion_tokens": 77}'
    assert change('{"max_completion_tokens": 5}', BOUND) is None
    assert change('{"model": "m"}', BOUND, output=False) is None


def test_a_stream_is_asked_for_its_usage() -> None:
    assert change('{"stream":true}', ASKED) == '{"stream":true, "stream_options": {"include_usage": true}}'
    changed = change('{"stream_options": {"include_usage": false, "x": 1}, "stream": true}', ASKED)
    assert changed is not None
    assert json.loads(changed)["stream_options"] == {"include_usage": True, "x": 1}
    assert change('{"stream": true}', ASKED, usage=False) is None


@pytest.mark.parametrize(
    ("metadata", "left"),
    [
        ({"tags": ["customer:acme"]}, None),
        ({"tags": ["customer:acme"], "user": "x"}, {"user": "x"}),
        ({"tags": []}, None),
        ({"tags": ["customer:acme", "urgent", 5]}, {"tags": ["urgent", 5]}),
    ],
)
def test_tags_are_taken_out(metadata: object, left: object) -> None:
    changed = change(json.dumps({"model": "m", "metadata": metadata}), PLAIN)
    assert changed is not None
    assert json.loads(changed) == {"model": "m"} | ({} if left is None else {"metadata": left})


@pytest.mark.parametrize("metadata", [{"tags": "customer:acme"}, {"tags": ["urgent"]}, "tags", None, {}])
def test_metadata_without_tags_of_ours_stays(metadata: object) -> None:
    assert change(json.dumps({"model": "m", "metadata": metadata}), PLAIN) is None


def test_what_is_not_changed_stays_as_it_was_written() -> None:
    odd = '"seed" : 1.10e+400, "big": 12345678901234567890123, "t": "\\u00e9\\/", "messages": [ { } ,{"a":1.0}]'
    assert change(f"{{ {odd} }}", BOUND) == f'{{{odd.replace(", ", ", ", 1)}, "max_completion_tokens": 77}}'


@pytest.mark.parametrize(
    "body", ["", "[]", "null", "{", '{"a": }', '{"a": 1} x', '{"a" 1}', "{a: 1}", b"\xff", "[" * 9999]
)
def test_what_is_no_object_is_left_alone(body: str | bytes) -> None:
    assert change(body, BOUND) is None


GEMINI = PLAIN._replace(max_output_field="generationConfig.maxOutputTokens", max_output_tokens=77)


def test_a_bound_that_stands_inside_of_others_is_written_there_and_every_other_byte_stays() -> None:
    body = '{"contents": [ ], "generationConfig": {"temperature":1.0e+0 , "topP": 5}, "x":1}'
    assert change(body, GEMINI) == (
        '{"contents": [ ], "generationConfig": {"temperature":1.0e+0, "topP": 5, "maxOutputTokens": 77}, "x":1}'
    )
    assert change('{"a":1}', GEMINI) == '{"a":1, "generationConfig": {"maxOutputTokens": 77}}'
    assert change('{"generationConfig": {}}', GEMINI) == '{"generationConfig": {"maxOutputTokens": 77}}'
    assert change('{"generationConfig": null, "a":1}', GEMINI) == '{"a":1, "generationConfig": {"maxOutputTokens": 77}}'
    null = '{"generationConfig": {"maxOutputTokens": null, "topK": 1}}'
    assert change(null, GEMINI) == '{"generationConfig": {"topK": 1, "maxOutputTokens": 77}}'


@pytest.mark.parametrize("inner", ['{"maxOutputTokens": 5}', "[]", '"text"'])
def test_a_bound_inside_of_others_that_is_there_or_has_no_place_is_left_alone(inner: str) -> None:
    assert change(f'{{"generationConfig": {inner}}}', GEMINI) is None


def test_a_bound_and_a_question_for_usage_are_written_together() -> None:
    both = GEMINI._replace(include_usage=True)
    changed = change('{"metadata": {"tags": ["a:b"]}, "generationConfig": {"topK": 1}}', both)
    assert changed is not None
    assert json.loads(changed) == {
        "generationConfig": {"topK": 1, "maxOutputTokens": 77},
        "stream_options": {"include_usage": True},
    }

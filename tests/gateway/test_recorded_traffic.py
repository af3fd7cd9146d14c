"""Calls of every provider through a real Envoy: each is held, answered as the provider did, and settled exactly."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any, Final

import pytest

from limiter.domain.calls import ProviderRequest, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.verdicts import DenialReason
from limiter.pricing.answers import ResponseReading, is_used_as_asked, read_response
from limiter.pricing.book import PriceBook
from limiter.pricing.model_price import ModelPrice
from limiter.pricing.reading import CallReading, read_request
from tests.gateway.conftest import Caller, Desk
from tests.gateway.gateways import COST, PROVIDER_KEY, RESERVATION, ended_books, nanousd
from tests.gateway.made_calls import MADE
from tests.gateway.playback import LAYOUTS, Call, Received, Result, Stage, sent
from tests.pricing.recordings import ALL, SAMPLE, recorded_calls
from tests.pricing.usages import NOW_MS

#: How many of the recorded calls are sent unless LIMITER_THOROUGH asks for all, and what they are drawn by.
DRAWN: Final = 70
SEED: Final = 20

BOT: Final = "{limits: [{id: all, spend: 1000, per: total}]}"

_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


@cache
def recorded() -> tuple[Call, ...]:
    """The sample; and of all calls one of each host, interface and kind of answer, and a few more, or every one."""
    sample = tuple(Call.of(call, "sample") for call in recorded_calls(SAMPLE))
    drawn = []
    if ALL.exists():
        everything = recorded_calls(ALL)
        kinds = defaultdict(list)
        for one in everything:
            kinds[one.call["host"], re.sub(r".*[/:]", "", one.call["path"]), one.content_type, one.status].append(one)
        random = Random(SEED)
        some = [random.choice(calls) for calls in kinds.values()]
        some += random.sample(everything, max(0, DRAWN - len(some)))
        drawn = everything if os.environ.get("LIMITER_THOROUGH") == "1" else list(dict.fromkeys(some))
    return sample + tuple(Call.of(call, "line") for call in drawn)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_every_call_is_held_and_settled_exactly(layout: str, stage: Stage, desk: Desk) -> None:
    calls = (*recorded(), *MADE)
    async with stage.open(layout, calls) as (gateway, player):
        caller = await desk.caller(gateway, BOT)
        results = await sent(gateway, caller.secret, calls, by_prefix=LAYOUTS[layout])
        books = await ended_books(caller.connection, caller.organization)
    rows = {row["reservation"]: row for row in books.rows}
    check = _Check(layout, caller, player.received)
    for call in calls:
        check.call(call, results[call.name], rows)
    assert check.wrong == []
    assert check.settled >= len(calls) // 2
    assert check.short <= len(calls) // 200  # of calls without growth: how safe holds are promised to be
    assert books.held(caller.key) == 0
    spent = sum(row["amount_nanousd"] for row in books.rows)
    assert books.settled(caller.organization) == books.settled(caller.key) == spent > 0


class _Check:
    """Compares what came of calls with what their requests and answers say, read here once more."""

    def __init__(self, layout: str, caller: Caller, received: Mapping[str, Received]) -> None:
        self.wrong: list[str] = []
        self.settled = self.short = 0
        self._layout = layout
        self._caller = caller
        self._received = received
        self._book = PriceBook.load()

    def call(self, call: Call, result: Result, rows: Mapping[str, dict[str, Any]]) -> None:
        """Note what is wrong with a call."""
        try:
            if RESERVATION not in result.headers:
                self._refused(call, result)
                return
            self._forwarded(call, result)
            row = rows[result.headers[RESERVATION]]
            if call.answer.status >= 300:
                assert (row["state"], row["amount_nanousd"]) == ("RELEASED", 0)
            else:
                self._charged(call, result, row)
        except (AssertionError, KeyError, InvalidArgument) as error:
            self.wrong.append(f"{call.name}: {call.host}{call.path}: {type(error).__name__} {error}")

    def _refused(self, call: Call, result: Result) -> None:
        """It did not reach the provider, and its client understands why."""
        assert call.name not in self._received
        error = json.loads(result.body)
        assert error["limiter"]["reason"] in (DenialReason.MODEL_UNPRICED.name, "INVALID_ARGUMENT"), error
        try:
            asked = request_of(call)
        except InvalidArgument:
            asked = None
        unpriced = asked is not None and self._price(asked, asked.model, asked.context) is None
        assert (error["limiter"]["reason"] == DenialReason.MODEL_UNPRICED.name) == unpriced
        assert unpriced or asked is None or asked.in_background, error
        assert ("error" in error) == (not re.search(r"/model/|cohere", call.host + call.path)), error
        if "generateContent" in call.path:
            assert error["error"]["status"] in ("PERMISSION_DENIED", "INVALID_ARGUMENT")

    def _forwarded(self, call: Call, result: Result) -> None:
        """Provider and client got what the other sent; the key is the provider's own."""
        got = self._received[call.name]
        assert (got.host, got.path) == (call.host, call.path)
        assert (result.status, result.body) == (call.answer.status, call.answer.body)
        header, scheme = call.key_header
        assert got.headers[header] == scheme + PROVIDER_KEY
        assert self._caller.secret not in str(got.headers)
        asked = request_of(call)
        if self._layout == "access-log.yaml" or call.content_type != "application/json":
            assert got.body == call.body
            return
        body, added = json.loads(got.body), json.loads(call.body)
        if asked.output_field and asked.max_output_tokens is None:
            assert taken_out(body, asked.output_field) > 0
            taken_out(added, asked.output_field)
        if asked.usage_unasked:
            assert body.pop("stream_options")["include_usage"]
            added.pop("stream_options", None)
        assert body == added

    def _charged(self, call: Call, result: Result, row: dict[str, Any]) -> None:
        asked, cost = request_of(call), row["amount_nanousd"]
        self.settled += 1
        response = ProviderResponse(200, call.answer.content_type, call.answer.body)
        told = read_response(provider=asked.provider, response=response)
        if told.usage is None:
            assert row["basis"] == "ESTIMATED"
            assert 0 < cost <= row["held_nanousd"], row
            assert told.as_asked == ("charged as asked for" in str(row["end"].get("warnings"))), row["end"]
        else:
            expected, unpriced = self._cost(asked, told, row["reserved_at_ms"])
            read = told.larger or told.usage
            usage = {name: getattr(read, name) for name in _COUNTS} | read.units
            assert row["end"]["usage"] == {name: count for name, count in usage.items() if count}
            if unpriced or not expected:  # no zero settlement, and nothing unpriced, passes for nothing
                assert (row["basis"], cost >= expected) == ("ESTIMATED", True), (expected, row)
            else:
                assert (row["basis"], cost) == ("USAGE", expected), row
            if asked.size.growth is None and not unpriced:
                self.short += cost > row["held_nanousd"]
        is_json = "json" in call.answer.content_type and not call.answer.in_parts
        assert (COST in result.headers) == (is_json and self._layout != "access-log.yaml")
        assert COST not in result.headers or nanousd(result.headers[COST]) == row["cost_nanousd"]

    def _cost(self, asked: CallReading, told: ResponseReading, at_ms: int) -> tuple[int, bool]:
        """What the answer costs by the price book, and whether that has no price for some of it."""
        named = told.model and (told.model != asked.model or told.context)
        price = (self._price(asked, told.model, told.context, at_ms) if named else None) or self._price(
            asked, asked.model, asked.context, at_ms
        )
        assert price is not None
        usage = told.larger or told.usage or Usage()
        cost = price.charge_nanousd(usage)
        for model, used in told.others:
            other = self._price(asked, model or told.model or asked.model, {}, at_ms)
            assert other is not None
            cost += other.charge_nanousd(used)
        return cost, bool(price.unpriced_units(usage.units))

    def _price(
        self, asked: CallReading, model: str, context: Mapping[str, str], at_ms: int = NOW_MS
    ) -> ModelPrice | None:
        return self._book.find(provider=asked.provider, model=model, at_ms=at_ms, context=context)


def request_of(call: Call) -> CallReading:
    """What a request says."""
    path = call.path.partition("?")[0]
    return read_request(ProviderRequest(call.host, path, call.body, call.content_type))


def taken_out(body: dict[str, Any], field: str) -> int:
    """Take a maximum output out of a body, and what it left empty."""
    name, _, inner = field.partition(".")
    if not inner:
        return int(body.pop(name, None) or 0)
    found = taken_out(body.setdefault(name, {}) or {}, inner)
    if not body[name]:
        del body[name]
    return found


def test_calls_of_all_kinds_are_among_them() -> None:
    kinds = {call.answer.content_type.partition(";")[0] for call in (*recorded(), *MADE)}
    assert {"application/json", "text/event-stream", "application/vnd.amazon.eventstream", "audio/mpeg"} <= kinds
    assert any(is_used_as_asked(kind) for kind in kinds)
    assert len({call.host for call in MADE}) >= 9

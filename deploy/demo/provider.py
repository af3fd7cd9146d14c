"""A stand-in provider: answers as OpenAI and Anthropic do, and counts by itself what it would bill.

`python -m deploy.demo.provider --port 8080 --key sk-provider`

It refuses whoever does not show its key. A request may say in the header `x-stand-in`, as `name=value, name=value`,
how it is to be treated:

    call=NAME        the name of the call in /stand-in/calls
    customer=NAME    whom /stand-in/spent books it for
    tokens=N         how many tokens to answer with, within the request's own maximum
    cached=N         how many input tokens are said to come from the cache
    status=N         fail with this status
    fail_first=N     fail the first N attempts of this call with 503
    delay_s=S        wait before the answer
    gap_s=S          wait before each event of a stream
    hang_up=1        read the request, and close the connection without an answer
    done_gap_s=S     wait between the last event of a stream and its end
    break_after=N    close the connection after N events of a stream, or in the middle of a JSON answer
    gzip=1           compress the answer

`GET /stand-in/spent` tells the sums in nano-USD, `GET /stand-in/calls?call=NAME` each call with the headers that came.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from deploy.demo import dialects
from deploy.demo.billing import MODELS, Books, Call

CONTROL: Final = "x-stand-in"
PATHS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages")
BODY_MAX_BYTES: Final = 64 * 2**20


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Orders:
    """What a request says about its own treatment."""

    def __init__(self, header: str) -> None:
        pairs = (part.strip().partition("=") for part in header.split(",") if part.strip())
        self._given = {name: value for name, _, value in pairs}

    def text(self, name: str) -> str:
        """A word; "" if it is not given."""
        return self._given.get(name, "")

    def number(self, name: str, default: float = 0) -> float:
        """A number."""
        return float(self._given.get(name, default))

    def count(self, name: str) -> int | None:
        """An integer; None if it is not given."""
        return int(self._given[name]) if name in self._given else None


class Provider:
    """The HTTP application. `keys` are the API keys that it takes."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.books = Books()
        self._keys = keys
        self._attempts: Counter[str] = Counter()

    def application(self) -> web.Application:
        """What aiohttp serves."""
        app = web.Application(client_max_size=BODY_MAX_BYTES)
        app.add_routes([web.post(path, self._serve) for path in PATHS])
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stand-in/spent", self._spent)
        app.router.add_get("/stand-in/calls", self._calls)
        return app

    async def _spent(self, _request: web.Request) -> web.Response:
        return web.json_response(self.books.spent())

    async def _calls(self, request: web.Request) -> web.Response:
        label = request.query.get("call")
        calls = self.books.calls if label is None else self.books.labelled(label)
        return web.json_response([call.plain() for call in calls])

    async def _models(self, request: web.Request) -> web.Response:
        if _key(request.headers) not in self._keys:
            return _refusal(request.path, Refused(401, "Incorrect API key provided."))
        return web.json_response(dialects.models())

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        orders = Orders(request.headers.get(CONTROL, ""))
        call = Call(orders.text("call"), orders.text("customer"), _key(request.headers), request.path, {}, {})
        call.headers = {name.lower(): value for name, value in request.headers.items()}
        self.books.begin(call)
        try:
            try:
                await self._read(request, call, orders)
                await asyncio.sleep(orders.number("delay_s"))
                self._fail(call, orders)
            except Refused as refused:
                call.status = refused.status
                return _refusal(call.path, refused)
            if orders.text("hang_up"):
                _break_off(request)
                return web.Response()
            call.status = 200
            if call.body.get("stream") and call.path != "/v1/embeddings":
                return await _stream(request, call, orders)
            return await _answer(request, call, orders)
        finally:
            self.books.end(call)

    async def _read(self, request: web.Request, call: Call, orders: Orders) -> None:
        if call.api_key not in self._keys:
            raise Refused(401, "Incorrect API key provided.")
        try:
            call.body = await request.json()
        except ValueError:
            raise Refused(400, "We could not parse the JSON body of your request.") from None
        call.model = str(call.body.get("model", ""))
        if call.model not in MODELS:
            raise Refused(404, f"The model `{call.model}` does not exist.")
        cached = int(orders.number("cached"))
        call.tokens = dialects.measure(call.path, call.body, output=orders.count("tokens"), cached=cached)

    def _fail(self, call: Call, orders: Orders) -> None:
        self._attempts[call.label] += 1
        if self._attempts[call.label] <= orders.number("fail_first"):
            raise Refused(503, "The server is overloaded.")
        status = orders.count("status")
        if status is not None and status != 200:
            raise Refused(status, f"You asked for {status}.")


def _key(headers: Mapping[str, str]) -> str:
    return headers.get("x-api-key") or headers.get("Authorization", "").removeprefix("Bearer ")


def _refusal(path: str, refused: Refused) -> web.Response:
    body = dialects.failure(path, refused.status, str(refused))
    return web.json_response(body, status=refused.status)


async def _answer(request: web.Request, call: Call, orders: Orders) -> web.StreamResponse:
    data = json.dumps(dialects.answer(call)).encode()
    headers = {"content-type": "application/json", "x-request-id": f"req_{id(call):x}"}
    if orders.text("gzip"):
        data, headers["content-encoding"] = gzip.compress(data), "gzip"
    if orders.count("break_after") is None:
        call.finished = True
        return web.Response(body=data, headers=headers)
    response = web.StreamResponse(headers={**headers, "content-length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    _break_off(request)
    return response


async def _stream(request: web.Request, call: Call, orders: Orders) -> web.StreamResponse:
    """Write event by event; billed is what was generated until somebody hung up."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    squeeze = zlib.compressobj(wbits=31) if orders.text("gzip") else None
    if squeeze is not None:
        response.headers["content-encoding"] = "gzip"
    gap_s, break_after = orders.number("gap_s"), orders.count("break_after")
    frames = list(dialects.stream(call))
    call.tokens.output = 0
    await response.prepare(request)
    try:
        for number, frame in enumerate(frames):
            if number == break_after:
                _break_off(request)
                return response
            await asyncio.sleep(gap_s)
            call.tokens.output += frame.tokens
            data = frame.data
            if squeeze is not None:
                data = squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)
            await response.write(data)
        if squeeze is not None:
            await response.write(squeeze.flush())
        call.finished = True
        await asyncio.sleep(orders.number("done_gap_s"))
        await response.write_eof()
    except ConnectionError:
        return response
    return response


def _break_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def serve(keys: frozenset[str], port: int) -> None:
    """Serve on loopback until cancelled; the port is printed once it is open (0: a free one)."""
    # A caller who leaves ends the call, as with a real provider: what was generated until then is billed.
    runner = web.AppRunner(Provider(keys).application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        address: Any = runner.addresses[0]
        print(f"the stand-in provider listens on {address[0]}:{address[1]}", flush=True)  # noqa: T201 - a program
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A stand-in provider that counts what it would bill.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--key", action="append", required=True, help="an API key that it takes; may be repeated")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(frozenset(arguments.key), arguments.port))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()

"""One attempt to deliver an alert over HTTP, and what came of it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import httpx2

from limiter.ledger.alerting.alerts import Alert
from limiter.ledger.alerting.bodies import body_of, headers_of
from limiter.ledger.alerting.endpoints import Endpoint

#: So much of an answer is read, and shown; the rest stays where it is.
_READ_MAX_BYTES: Final = 4_096
_SHOWN_MAX: Final = 200

_GONE: Final = 410
#: Answers whose Retry-After speaks for everything that the endpoint would get.
_THROTTLING: Final = (429, 503)


class Result(StrEnum):
    """What came of an attempt."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Attempt:
    """`detail` says what came back, for people. `not_before_s`: how long the receiver wants to be left in peace."""

    result: Result
    detail: str
    not_before_s: int = 0


class Sender:
    """Sends; follows no redirect, reads little of an answer, and shows no URL."""

    def __init__(self) -> None:
        # They would log the URL of every request, and Slack's are secrets.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._clients: dict[str, httpx2.AsyncClient] = {}  # by the authorities that they trust

    async def send(self, endpoint: Endpoint, alert: Alert, *, now_ms: int) -> Attempt:
        """Try once, within the endpoint's timeout."""
        body = body_of(alert, endpoint.format)
        headers = headers_of(endpoint, alert, body, now_ms=now_ms) | {"accept-encoding": "identity"}
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                return await self._post(endpoint, body, headers, now_ms)
        except TimeoutError:
            return Attempt(Result.FAILED, f"no answer within {endpoint.timeout_s} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            reason = _plain(str(error).replace(endpoint.url, "the URL")) or type(error).__name__
            return Attempt(Result.FAILED, f"no answer: {reason}")

    async def close(self) -> None:
        """Let the connections go."""
        while self._clients:
            await self._clients.popitem()[1].aclose()

    async def _post(self, endpoint: Endpoint, body: bytes, headers: dict[str, str], now_ms: int) -> Attempt:
        if endpoint.ca not in self._clients:
            trusted = ssl.create_default_context(cadata=endpoint.ca) if endpoint.ca else True
            made = httpx2.AsyncClient(verify=trusted, follow_redirects=False, timeout=None)  # send() has one
            self._clients[endpoint.ca] = made
        async with self._clients[endpoint.ca].stream("POST", endpoint.url, content=body, headers=headers) as answer:
            if answer.is_success:
                return Attempt(Result.DELIVERED, str(answer.status_code))
            detail = f"{answer.status_code}: {await _beginning(answer)}".removesuffix(": ")
            if answer.status_code == _GONE:
                return Attempt(Result.GONE, detail)
            wait_s = retry_after_s(answer.headers.get("retry-after", ""), now_ms=now_ms)
            return Attempt(Result.FAILED, detail, wait_s if answer.status_code in _THROTTLING else 0)


async def _beginning(answer: httpx2.Response) -> str:
    read = b""
    async for part in answer.aiter_raw(_READ_MAX_BYTES):
        read += part[: _READ_MAX_BYTES - len(read)]
        if len(read) >= _READ_MAX_BYTES:
            break
    return _plain(read.decode(errors="replace"))


def _plain(text: str) -> str:
    """What a stranger wrote, on one line, without signs that do something to a terminal."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if len(line) <= _SHOWN_MAX else f"{line[:_SHOWN_MAX]}…"


def retry_after_s(header: str, *, now_ms: int) -> int:
    """Read Retry-After: seconds, or a date; 0 if it is neither, or over."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year or an offset that no date has
        return 0
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0, int((date - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds()))

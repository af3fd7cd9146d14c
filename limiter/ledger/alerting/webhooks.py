"""Tells people: every alert goes to the log once, and to each endpoint that wants it until it has been taken.

Any number of processes may run this on the same books. What is delivered is delivered at least once: a process that
dies between the attempt and its record is followed by another attempt, with the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from limiter.domain.errors import LimiterError
from limiter.ledger.alerting import queue
from limiter.ledger.alerting.alerts import Alert
from limiter.ledger.alerting.bodies import sentence
from limiter.ledger.alerting.endpoints import Endpoint
from limiter.ledger.alerting.queue import Claimed
from limiter.ledger.alerting.sender import Attempt, Result, Sender
from limiter.ledger.database import Database
from limiter.observability.metrics import Metrics

LOOK_EVERY_S: Final = 2.0
_LONGEST_WAIT_S: Final = 60.0
#: Deliveries to an endpoint before its file and its alerts are looked at again.
_IN_A_ROW: Final = 100
#: Older alerts than this are looked for once an hour only: rows that were booked days late.
_RECENT_MS: Final = queue.GIVE_UP_MS + queue.DAY_MS
_HOUR_MS: Final = 3_600_000

_log = structlog.get_logger(__name__)


def clock_ms() -> int:
    """This machine's time."""
    return time.time_ns() // 1_000_000


class Alerts:
    """Delivers the alerts of one set of books.

    `reload` is asked before every look for the endpoints of a changed file; None: it has not changed. An endpoint
    that answered 410 (Gone) gets nothing more until then.
    """

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        endpoints: Sequence[Endpoint] = (),
        *,
        reload: Callable[[], Sequence[Endpoint] | None] = lambda: None,
        clock: Callable[[], int] = clock_ms,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._endpoints = tuple(endpoints)
        self._reload = reload
        self._clock = clock
        self._every_s = every_s
        self._sender = Sender()
        self._gone: set[str] = set()
        self._all_again_ms = 0

    async def run(self) -> None:
        """Deliver until cancelled; books that are away are tried again and again."""
        busy: dict[str, asyncio.Task[int]] = {}
        wait_s = self._every_s
        try:
            while True:
                try:
                    await self.look()
                    wait_s = self._every_s
                except LimiterError as error:
                    wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                    _log.warning("alerts.wait", reason=str(error), again_s=round(wait_s, 1))
                busy = {name: task for name, task in busy.items() if not task.done()}
                for endpoint in self._open():  # a receiver that hangs keeps no other one waiting
                    if endpoint.name not in busy:
                        busy[endpoint.name] = asyncio.create_task(self._deliver_safely(endpoint))
                await asyncio.sleep(wait_s)
        finally:
            for task in busy.values():
                task.cancel()
            await asyncio.gather(*busy.values(), return_exceptions=True)
            await self.close()

    async def deliver_due(self) -> int:
        """Log what is new, and attempt every delivery that is due; answers how many arrived. Raises Unavailable."""
        await self.look()
        return sum(await asyncio.gather(*(self._deliver(endpoint) for endpoint in self._open())))

    async def close(self) -> None:
        """Let the connections go."""
        await self._sender.close()

    async def look(self) -> None:
        """Log alerts that nobody logged, let them wait for their endpoints, give up what is too old."""
        changed = await asyncio.to_thread(self._reload)
        if changed is not None:
            self._endpoints, self._gone = tuple(changed), set()
            _log.info("alerts.endpoints", names=[endpoint.name for endpoint in changed])
        await asyncio.to_thread(self._look)

    def _open(self) -> list[Endpoint]:
        return [endpoint for endpoint in self._endpoints if endpoint.name not in self._gone]

    def _look(self) -> None:
        now_ms = self._clock()
        all_of_them = now_ms >= self._all_again_ms
        since_ms = 0 if all_of_them else now_ms - _RECENT_MS
        if all_of_them or self._anything_new(since_ms, now_ms):
            logged, given_up = self._write_new(since_ms, now_ms, forget=all_of_them)
            for alert in logged:
                self._metrics.alerts[alert.type].inc()
            for claimed in given_up:
                self._metrics.webhooks["given_up"].inc()
                _log.error("webhook.given_up", endpoint=claimed.endpoint, alert=claimed.alert.id, reason="too old")
        if all_of_them:
            self._all_again_ms = now_ms + _HOUR_MS

    def _anything_new(self, since_ms: int, now_ms: int) -> bool:
        with self._database.read() as connection:
            if queue.new_alerts(connection, queue.LOG, since_ms=since_ms) or queue.too_old(connection, now_ms=now_ms):
                return True
            for endpoint in self._endpoints:
                known_ms = queue.known_since(connection, endpoint.name)
                if known_ms is None:
                    return True
                if queue.new_alerts(connection, endpoint.name, since_ms=max(since_ms, known_ms)):
                    return True
        return False

    def _write_new(self, since_ms: int, now_ms: int, *, forget: bool) -> tuple[list[Alert], list[Claimed]]:
        with self._database.write() as connection:
            queue.one_at_a_time(connection)
            if forget:
                queue.forget(connection, now_ms=now_ms)
            logged = queue.new_alerts(connection, queue.LOG, since_ms=since_ms)
            queue.note_logged(connection, logged, now_ms=now_ms)
            for endpoint in self._endpoints:
                queue.introduce(connection, endpoint.name, now_ms=now_ms)
                known_ms = queue.known_since(connection, endpoint.name) or 0
                found = queue.new_alerts(connection, endpoint.name, since_ms=max(since_ms, known_ms))
                queue.enqueue(connection, endpoint, found, now_ms=now_ms)
            given_up = queue.too_old(connection, now_ms=now_ms)
            for claimed in given_up:
                queue.give_up(connection, claimed, now_ms=now_ms)
            for alert in logged:  # before the commit: rather twice than never
                _log.warning("alert", id=alert.id, type=alert.type, text=sentence(alert), data=dict(alert.data))
        return logged, given_up

    async def _deliver_safely(self, endpoint: Endpoint) -> int:
        try:
            return await self._deliver(endpoint)
        except LimiterError as error:
            _log.warning("webhook.waits", endpoint=endpoint.name, reason=str(error))
            return 0

    async def _deliver(self, endpoint: Endpoint) -> int:
        """Attempt what is due at an endpoint, one after the other, until one fails; answers how many arrived."""
        for arrived in range(_IN_A_ROW):
            claimed = await asyncio.to_thread(self._claim, endpoint)
            if claimed is None:
                return arrived
            attempt = await self._sender.send(endpoint, claimed.alert, now_ms=self._clock())
            outcome = await asyncio.to_thread(self._record, claimed, attempt)
            self._tell(endpoint, claimed, attempt, outcome)
            if attempt.result is not Result.DELIVERED:
                return arrived
        return _IN_A_ROW

    def _claim(self, endpoint: Endpoint) -> Claimed | None:
        now_ms = self._clock()
        with self._database.read() as connection:
            if not queue.is_due(connection, endpoint, now_ms=now_ms):
                return None
        with self._database.write() as connection:
            return queue.claim(connection, endpoint, now_ms=now_ms)

    def _record(self, claimed: Claimed, attempt: Attempt) -> str:
        with self._database.write() as connection:
            return queue.record(connection, claimed, attempt, now_ms=self._clock())

    def _tell(self, endpoint: Endpoint, claimed: Claimed, attempt: Attempt, outcome: str) -> None:
        said = {"endpoint": endpoint.name, "host": endpoint.host, "alert": claimed.alert.id, "answer": attempt.detail}
        self._metrics.webhooks[attempt.result.value].inc()
        if attempt.result is Result.DELIVERED:
            _log.info("webhook.delivered", **said, attempt=claimed.attempts)
        elif attempt.result is Result.GONE:
            self._gone.add(endpoint.name)
            _log.error("webhook.endpoint_gone", **said, effect="it gets nothing more until its file changes")
        elif outcome.startswith(queue.GIVEN_UP):
            self._metrics.webhooks["given_up"].inc()
            _log.error("webhook.given_up", **said, reason=f"{claimed.attempts} attempts failed")
        else:
            _log.warning("webhook.failed", **said, attempt=claimed.attempts)

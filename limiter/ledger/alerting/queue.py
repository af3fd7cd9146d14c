"""Which alert is to go to which endpoint, in SQL: so that of all processes one sends it.

`deliveries` has a row for each alert and endpoint once the endpoint has been asked whether it wants it. Two names are
no endpoint's: LOG, for alerts that were logged; and the alert "", whose row says since when an endpoint is known.
A delivery is claimed by moving its `next_ms` to the end of a lease: whoever claimed it and died is followed by another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from secrets import randbelow
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, exists, func, or_, select, text, update

from limiter.ledger.alerting.alerts import Alert
from limiter.ledger.alerting.endpoints import Endpoint
from limiter.ledger.alerting.sender import Attempt, Result
from limiter.ledger.schema import alerts, deliveries
from limiter.ledger.upserts import insert_new

LOG: Final = "log"

WAITING: Final = "waiting"
UNDER_WAY: Final = "under way"
UNWANTED: Final = "not wanted"
GIVEN_UP: Final = "given up"
AGAIN: Final = "to be sent again"
_KNOWN: Final = "known"

DAY_MS: Final = 24 * 3_600_000
#: An alert that could not be delivered is given up when it is so old, and forgotten when it is so old.
GIVE_UP_MS: Final = 3 * DAY_MS
FORGET_MS: Final = 90 * DAY_MS
#: Beyond the endpoint's timeout, until others believe that whoever claimed a delivery is dead.
LEASE_MS: Final = 60_000
#: How far the clocks of the store and of this machine may be apart, and how late a sum may be told.
_SLACK_MS: Final = 120_000
#: After the first attempt, the second, …: the schedule of the Standard Webhooks.
DELAYS_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
RETRY_AFTER_MAX_S: Final = 86_400
_AT_ONCE: Final = 500
#: One at a time on a PostgreSQL server: a number of ours for its advisory lock.
_LOCK: Final = 0x616C65727473


class Claimed(NamedTuple):
    """A delivery that nobody else attempts now, for the how manieth time."""

    alert: Alert
    endpoint: str
    attempts: int


def alert_of(row: Row[Any]) -> Alert:
    """An alert from its row."""
    return Alert(row.id, row.type, row.at_ms, json.loads(row.data))


def new_alerts(connection: Connection, endpoint: str, *, since_ms: int) -> list[Alert]:
    """Alerts that an endpoint (or the log) has not been asked about, oldest first; some of them, if they are many."""
    asked = exists().where(deliveries.c.alert == alerts.c.id, deliveries.c.endpoint == endpoint)
    wanted = select(alerts).where(alerts.c.at_ms >= since_ms, ~asked).order_by(alerts.c.at_ms, alerts.c.id)
    return [alert_of(row) for row in connection.execute(wanted.limit(_AT_ONCE))]


def known_since(connection: Connection, endpoint: str) -> int | None:
    """From which time on an endpoint gets alerts; None: nobody has seen it before."""
    same = deliveries.c.alert == "", deliveries.c.endpoint == endpoint
    since: int | None = connection.execute(select(deliveries.c.next_ms).where(*same)).scalar()
    return None if since is None else since - _SLACK_MS


def one_at_a_time(connection: Connection) -> None:
    """Wait until no other process is between its look at what is new and its writing that down."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def note_logged(connection: Connection, found: Sequence[Alert], *, now_ms: int) -> None:
    """Write down that alerts are in the log."""
    insert_new(connection, deliveries, [_done(alert.id, LOG, now_ms, "logged") for alert in found])


def introduce(connection: Connection, endpoint: str, *, now_ms: int) -> None:
    """Write down since when an endpoint is known, if it is not."""
    insert_new(connection, deliveries, [_done("", endpoint, now_ms, _KNOWN)])


def enqueue(connection: Connection, endpoint: Endpoint, found: Sequence[Alert], *, now_ms: int) -> None:
    """Let alerts wait for an endpoint, or write down that it does not want them."""
    rows = [_done(alert.id, endpoint.name, now_ms, UNWANTED) for alert in found if not endpoint.wants(alert)]
    rows += [
        _done(alert.id, endpoint.name, now_ms, WAITING) | {"done_ms": None} for alert in found if endpoint.wants(alert)
    ]
    insert_new(connection, deliveries, rows)


def _done(alert: str, endpoint: str, now_ms: int, outcome: str) -> dict[str, Any]:
    return {
        "alert": alert,
        "endpoint": endpoint,
        "attempts": 0,
        "next_ms": now_ms,
        "done_ms": now_ms,
        "outcome": outcome,
    }


def is_due(connection: Connection, endpoint: Endpoint, *, now_ms: int) -> bool:
    """Whether there is something to claim; without waiting for who writes."""
    due = exists().where(
        deliveries.c.endpoint == endpoint.name, deliveries.c.done_ms.is_(None), deliveries.c.next_ms <= now_ms
    )
    return bool(connection.execute(select(due)).scalar())


def claim(connection: Connection, endpoint: Endpoint, *, now_ms: int) -> Claimed | None:
    """Take the delivery that is due for longest; None: none is, or another process was faster."""
    due = (
        select(alerts, deliveries.c.next_ms, deliveries.c.attempts)
        .join(deliveries, deliveries.c.alert == alerts.c.id)
        .where(deliveries.c.endpoint == endpoint.name, deliveries.c.done_ms.is_(None), deliveries.c.next_ms <= now_ms)
        .order_by(deliveries.c.next_ms, alerts.c.at_ms, alerts.c.id)
        .limit(1)
    )
    if connection.dialect.name == "postgresql":
        due = due.with_for_update(of=deliveries, skip_locked=True)
    row = connection.execute(due).first()
    if row is None:
        return None
    lease_ms = endpoint.timeout_s * 1000 + LEASE_MS
    taken = connection.execute(
        update(deliveries)
        .where(*_same(row.id, endpoint.name), deliveries.c.attempts == row.attempts)
        .where(deliveries.c.done_ms.is_(None), deliveries.c.next_ms == row.next_ms)
        .values(attempts=row.attempts + 1, next_ms=now_ms + lease_ms, outcome=UNDER_WAY)
    )
    return Claimed(alert_of(row), endpoint.name, row.attempts + 1) if taken.rowcount == 1 else None


def record(connection: Connection, claimed: Claimed, attempt: Attempt, *, now_ms: int) -> str:
    """Write down what came of an attempt; answers the outcome as it is now in the books."""
    same = _same(claimed.alert.id, claimed.endpoint)
    if attempt.result is not Result.FAILED:
        outcome = f"{attempt.result}: {attempt.detail}"
        connection.execute(update(deliveries).where(*same).values(done_ms=now_ms, outcome=outcome))
        return outcome
    hold_ms = min(attempt.not_before_s, RETRY_AFTER_MAX_S) * 1000
    next_ms = now_ms + max(hold_ms, _delay_ms(claimed.attempts))
    last = claimed.attempts > len(DELAYS_S) or next_ms - claimed.alert.at_ms > GIVE_UP_MS
    outcome = f"{GIVEN_UP if last else Result.FAILED}: {attempt.detail}"
    ours = deliveries.c.attempts == claimed.attempts, deliveries.c.done_ms.is_(None)
    values = {"done_ms": now_ms if last else None, "next_ms": next_ms, "outcome": outcome}
    connection.execute(update(deliveries).where(*same, *ours).values(values))
    if hold_ms:
        waiting = deliveries.c.endpoint == claimed.endpoint, deliveries.c.done_ms.is_(None)
        early = deliveries.c.next_ms < now_ms + hold_ms, deliveries.c.outcome != UNDER_WAY
        connection.execute(update(deliveries).where(*waiting, *early).values(next_ms=now_ms + hold_ms))
    return outcome


def _delay_ms(attempts: int) -> int:
    """How long to wait after so many attempts: up to a fifth more than the schedule, so that not all come at once."""
    delay_ms = DELAYS_S[min(attempts, len(DELAYS_S)) - 1] * 1000
    return delay_ms + randbelow(delay_ms // 5)


def too_old(connection: Connection, *, now_ms: int) -> list[Claimed]:
    """Deliveries to be given up, whoever was to make them: their alerts are too old."""
    waits = or_(
        deliveries.c.outcome.not_in((UNDER_WAY, AGAIN)),
        and_(deliveries.c.outcome == UNDER_WAY, deliveries.c.next_ms <= now_ms),
    )
    old = (
        select(alerts, deliveries.c.endpoint, deliveries.c.attempts)
        .join(deliveries, deliveries.c.alert == alerts.c.id)
        .where(deliveries.c.done_ms.is_(None), alerts.c.at_ms < now_ms - GIVE_UP_MS, waits)
        .order_by(alerts.c.at_ms)
        .limit(_AT_ONCE)
    )
    return [Claimed(alert_of(row), row.endpoint, row.attempts) for row in connection.execute(old)]


def give_up(connection: Connection, claimed: Claimed, *, now_ms: int) -> None:
    """End a delivery without success."""
    same = _same(claimed.alert.id, claimed.endpoint)
    tries = f"{claimed.attempts} attempts" if claimed.attempts else "it was never tried"
    values = {"done_ms": now_ms, "outcome": f"{GIVEN_UP}: the alert is older than 3 days; {tries}"}
    connection.execute(update(deliveries).where(*same, deliveries.c.done_ms.is_(None)).values(values))


def forget(connection: Connection, *, now_ms: int) -> int:
    """Remove alerts that are long past, and what became of them; answers how many."""
    past = alerts.c.at_ms < now_ms - FORGET_MS
    connection.execute(delete(deliveries).where(deliveries.c.alert.in_(select(alerts.c.id).where(past))))
    return connection.execute(delete(alerts).where(past)).rowcount


def redeliver(connection: Connection, alert: str, endpoint: str | None, *, now_ms: int) -> list[str]:
    """Let an alert be sent again, to one endpoint or all that wanted it; answers to which.

    One that is being sent at this moment is left alone.
    """
    idle = or_(deliveries.c.outcome != UNDER_WAY, deliveries.c.next_ms <= now_ms)
    place = [deliveries.c.alert == alert, deliveries.c.endpoint != LOG, idle]
    place.append(deliveries.c.outcome != UNWANTED if endpoint is None else deliveries.c.endpoint == endpoint)
    names = list(connection.execute(select(deliveries.c.endpoint).where(*place).order_by("endpoint")).scalars())
    values = {"attempts": 0, "next_ms": now_ms, "done_ms": None, "outcome": AGAIN}
    connection.execute(update(deliveries).where(*place, deliveries.c.endpoint.in_(names)).values(values))
    return names


def listed(connection: Connection, *, failed: bool, count: int) -> list[tuple[Alert, list[Row[Any]]]]:
    """The newest alerts, each with its deliveries; `failed`: only those that some endpoint did not get so far."""
    wanted = select(alerts).order_by(alerts.c.at_ms.desc(), alerts.c.id).limit(count)
    if failed:
        missed = or_(
            and_(deliveries.c.done_ms.is_(None), deliveries.c.attempts > 0),
            *(func.substr(deliveries.c.outcome, 1, len(word)) == word for word in (GIVEN_UP, Result.GONE)),
        )
        wanted = wanted.where(exists().where(deliveries.c.alert == alerts.c.id, missed))
    found = []
    for row in connection.execute(wanted).all():
        shown = deliveries.c.alert == row.id, deliveries.c.endpoint != LOG, deliveries.c.outcome != UNWANTED
        steps = connection.execute(select(deliveries).where(*shown).order_by(deliveries.c.endpoint)).all()
        found.append((alert_of(row), list(steps)))
    return found


def _same(alert: str, endpoint: str) -> tuple[Any, Any]:
    return deliveries.c.alert == alert, deliveries.c.endpoint == endpoint

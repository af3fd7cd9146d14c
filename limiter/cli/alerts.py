"""`alerts list|test|redeliver`: what people were told, and how they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from uuid import uuid4

import typer

from limiter.alert_file import read_endpoints
from limiter.cli.books import with_books
from limiter.cli.failures import CommandFailed, say
from limiter.cli.lazy import example
from limiter.cli.options import Output
from limiter.cli.output import Format, table, write, write_json
from limiter.domain.errors import InvalidArgument, NotFound
from limiter.ledger.alerting import queue
from limiter.ledger.alerting.alerts import TEST, Alert, instant
from limiter.ledger.alerting.bodies import message_id, sentence
from limiter.ledger.alerting.endpoints import Endpoint
from limiter.ledger.alerting.sender import Attempt, Result, Sender
from limiter.ledger.database import Database

AlertsFile: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--alerts", envvar="LIMITER_ALERTS", metavar="FILE", help="The file of endpoints.", show_default=False
    ),
]


@example("limiter alerts list", "limiter alerts list --failed --format json")
@with_books
def list_(
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that an endpoint did not take so far.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="So many at most.")] = 50,
    output: Output = Format.TABLE,
    books: Database,
) -> None:
    """List alerts, the newest first, and who got them."""
    with books.read() as connection:
        found = queue.listed(connection, failed=failed, count=limit + 1)
    shown = found[:limit]
    if output is Format.JSON:
        write_json([_plain(alert, steps) for alert, steps in shown])
    else:
        rows = (
            (_when(alert.at_ms), sentence(alert), "; ".join(map(_step, steps)) or "only the log", alert.id)
            for alert, steps in shown
        )
        write(table(("time", "what", "deliveries", "id"), rows))
    if len(found) > limit:
        say(f"There are more than these {limit}; see --limit.")


@example("limiter alerts test --alerts alerts.yaml --endpoint operations")
def send_test(
    *,
    alerts: AlertsFile,
    endpoint: Annotated[str, typer.Option(metavar="NAME", help="The endpoint.", show_default="the only one")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Send a test alert now, and print what came back.

    It is tried once, and nothing of it is kept in the books. An endpoint that does not take it ends with exit code 1.
    """
    found = _named(read_endpoints(alerts), endpoint)
    now_ms = time.time_ns() // 1_000_000
    alert = Alert.about(TEST, (uuid4().hex,), at_ms=now_ms, data={"endpoint": found.name})
    attempt = asyncio.run(_send(found, alert, now_ms))
    took = f"{time.time_ns() // 1_000_000 - now_ms} ms"
    if output is Format.JSON:
        told = {"endpoint": found.name, "host": found.host, "id": alert.id}
        write_json(told | {"result": attempt.result.value, "answer": attempt.detail})
    elif attempt.result is Result.DELIVERED:
        write(f"{found.name} ({found.host}) took it: {attempt.detail}, after {took}; webhook-id {message_id(alert)}")
    if attempt.result is not Result.DELIVERED:
        raise CommandFailed(f"{found.name} ({found.host}) did not take it: {attempt.detail}")


@example("limiter alerts redeliver budget_threshold_0123456789abcdef01234567 --endpoint operations")
@with_books
def redeliver(
    *,
    alert: Annotated[str, typer.Argument(metavar="ID", help="As `alerts list` prints it.", show_default=False)],
    endpoint: Annotated[
        str, typer.Option(metavar="NAME", help="To this endpoint.", show_default="all that wanted it")
    ] = "",
    output: Output = Format.TABLE,
    books: Database,
) -> None:
    """Let an alert be sent again.

    The sidecar or drain that delivers alerts sends it with its next look, with the same webhook-id as before. An alert
    that is older than three days is tried once.
    """
    with books.write() as connection:
        names = queue.redeliver(connection, alert, endpoint or None, now_ms=time.time_ns() // 1_000_000)
    if not names:
        raise NotFound(
            f"alert {alert}: there is none, no endpoint{f' {endpoint}' if endpoint else ''} was to get it, or it is"
            " being sent right now; see `limiter alerts list`"
        )
    if output is Format.JSON:
        write_json({"id": alert, "endpoints": names})
    else:
        write(f"to be sent again to {', '.join(names)}")


def _named(endpoints: tuple[Endpoint, ...], name: str) -> Endpoint:
    if not name and len(endpoints) == 1:
        return endpoints[0]
    for endpoint in endpoints:
        if endpoint.name == name:
            return endpoint
    names = ", ".join(endpoint.name for endpoint in endpoints) or "none"
    raise InvalidArgument("--endpoint", name, f"the file has {names}")


async def _send(endpoint: Endpoint, alert: Alert, now_ms: int) -> Attempt:
    sender = Sender()
    try:
        return await sender.send(endpoint, alert, now_ms=now_ms)
    finally:
        await sender.close()


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _step(row: Any) -> str:  # noqa: ANN401 - a row of `deliveries`
    """What became of an alert at one endpoint, for people."""
    text = f"{row.endpoint}: {row.outcome}"
    if row.done_ms is None and row.attempts:
        text += f" (attempt {row.attempts}, next {instant(row.next_ms)})"
    return text


def _plain(alert: Alert, steps: list[Any]) -> dict[str, Any]:
    """An alert as JSON."""
    return {
        "id": alert.id,
        "webhook_id": message_id(alert),
        "type": alert.type,
        "timestamp": instant(alert.at_ms),
        "text": sentence(alert),
        "data": dict(alert.data),
        "deliveries": list(_plain_steps(steps)),
    }


def _plain_steps(steps: list[Any]) -> Iterator[dict[str, Any]]:
    for row in steps:
        done = row.done_ms is not None
        yield {
            "endpoint": row.endpoint,
            "outcome": row.outcome,
            "attempts": row.attempts,
            "done_at": instant(row.done_ms) if done else None,
            "next_at": None if done else instant(row.next_ms),
        }

"""Alerts arrive: signed, once whoever sends, again after failures, and never for ever."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import func, select
from standardwebhooks import Webhook

from limiter.domain.errors import Unavailable
from limiter.ledger.alerting import queue
from limiter.ledger.alerting.alerts import Alert, with_usd, write_alert
from limiter.ledger.alerting.bodies import body_of
from limiter.ledger.alerting.endpoints import BodyFormat, Endpoint
from limiter.ledger.alerting.sender import retry_after_s
from limiter.ledger.alerting.webhooks import Alerts
from limiter.ledger.database import Database
from limiter.ledger.schema import alerts, deliveries
from limiter.observability.metrics import Metrics
from tests.ledger.receivers import OLD_SECRET, SECRET, Got, Receiver, as_slack, certify, receiving

ROOT = Path(__file__).parents[2]
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 24 * 3_600_000


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.now_ms

    def tick(self, ms: int) -> None:
        self.now_ms += ms


class Office:
    """Books, a clock, and those who send."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.metrics = Metrics()
        self.made: list[Alerts] = []
        self.number = 0

    def sender(self, *endpoints: Endpoint, **other: Any) -> Alerts:  # noqa: ANN401 - passed on as they come
        """A process that delivers."""
        alerts = Alerts(self.database, self.metrics, endpoints, clock=self.clock, **other)
        self.made.append(alerts)
        return alerts

    def alert(self, kind: str = "budget.threshold", **data: Any) -> Alert:  # noqa: ANN401 - whatever is told
        """Write one, of now."""
        self.number += 1
        told = {"organization": "acme", "scope": "acme", "limit": "monthly", "threshold": 0.8} | data
        alert = Alert.about(kind, (self.number,), at_ms=self.clock.now_ms, data=with_usd(told))
        with self.database.write() as connection:
            write_alert(connection, alert)
        return alert

    def outcomes(self, alert: Alert) -> dict[str, str]:
        """What became of an alert, by endpoint."""
        with self.database.read() as connection:
            rows = connection.execute(select(deliveries).where(deliveries.c.alert == alert.id))
            return {row.endpoint: row.outcome for row in rows}

    def count(self, result: str) -> float:
        return float(self.metrics.webhooks[result]._value.get())


@pytest.fixture
async def office(database: Database) -> AsyncIterator[Office]:
    office = Office(database)
    yield office
    for made in office.made:
        await made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, a private authority, and `receiver.pem`, which it signed for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed here")
    folder = tmp_path_factory.mktemp("certificates")
    ca = str(certify(folder / "ca.pem"))
    certify(folder / "receiver.pem", "-addext", "subjectAltName=IP:127.0.0.1", "-CA", ca, "-CAkey", ca)
    return folder


def endpoint(receiver: Receiver, name: str = "ops", **other: Any) -> Endpoint:  # noqa: ANN401 - its fields
    return Endpoint(name, receiver.url, **{"secrets": (SECRET,)} | other)


async def test_an_alert_arrives_once_with_a_signature_that_the_library_accepts(
    office: Office, receiver: Receiver
) -> None:
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    alert = office.alert(ceiling_nanousd=5 * 10**9)
    assert await sender.deliver_due() == 1
    assert await sender.deliver_due() == 0
    (got,) = receiver.got
    assert got.id == alert.id
    body = Webhook(SECRET).verify(got.body, dict(got.headers))
    assert body["type"] == "budget.threshold"
    assert body["timestamp"].endswith("Z")
    assert body["data"] == dict(alert.data)
    assert body["data"]["ceiling_usd"] == "5.00"
    assert office.outcomes(alert) == {"log": "logged", "ops": "delivered: 200"}
    assert office.count("delivered") == 1


async def test_a_receiver_with_a_certificate_of_a_private_authority_gets_alerts_once_that_is_trusted(
    office: Office, certificates: Path
) -> None:
    with receiving(certificates / "receiver.pem") as receiver:
        changed: list[tuple[Endpoint, ...]] = []
        sender = office.sender(endpoint(receiver), reload=lambda: changed.pop() if changed else None)
        await sender.deliver_due()
        alert = office.alert()
        for attempt in (1, 2):
            with structlog.testing.capture_logs() as lines:
                assert await sender.deliver_due() == 0
            assert office.outcomes(alert)["ops"].startswith("failed: no answer: ")
            assert "certificate verify failed" in office.outcomes(alert)["ops"]
            (failed,) = [line for line in lines if line["event"] == "webhook.failed"]
            assert (failed["attempt"], "certificate verify failed" in failed["answer"]) == (attempt, True)
            office.clock.tick(6 * SECOND if attempt == 1 else 6 * MINUTE)
        assert not receiver.got

        changed.append((endpoint(receiver, ca=(certificates / "ca.pem").read_text()),))
        assert await sender.deliver_due() == 1
        assert [got.signed_by(SECRET) for got in receiver.got] == [True]
        assert office.outcomes(alert)["ops"] == "delivered: 200"


async def test_a_certificate_for_another_host_is_not_taken_whoever_signed_it(
    office: Office, certificates: Path
) -> None:
    with receiving(certificates / "receiver.pem") as receiver:
        receiver.url = receiver.url.replace("127.0.0.1", "localhost")
        sender = office.sender(endpoint(receiver, ca=(certificates / "ca.pem").read_text()))
        await sender.deliver_due()
        alert = office.alert()
        assert await sender.deliver_due() == 0
        assert "Hostname mismatch" in office.outcomes(alert)["ops"]
        assert not receiver.got


async def test_an_endpoint_with_an_authority_of_its_own_trusts_no_other_and_is_trusted_for_no_other(
    office: Office, certificates: Path, tmp_path: Path
) -> None:
    other_ca = certify(tmp_path / "ca.pem")
    with receiving(certificates / "receiver.pem") as receiver:
        sender = office.sender(
            endpoint(receiver, "private", ca=(certificates / "ca.pem").read_text()),
            endpoint(receiver, "other", ca=other_ca.read_text()),
            endpoint(receiver, "public"),
        )
        await sender.deliver_due()
        alert = office.alert()
        assert await sender.deliver_due() == 1
        outcomes = office.outcomes(alert)
        assert outcomes.pop("private") == "delivered: 200"
        assert all("certificate verify failed" in outcomes[name] for name in ("other", "public"))
        assert len(receiver.got) == 1


async def test_while_secrets_change_each_of_them_signs(office: Office, receiver: Receiver) -> None:
    sender = office.sender(endpoint(receiver, secrets=(SECRET, OLD_SECRET)))
    await sender.deliver_due()
    office.alert()
    await sender.deliver_due()
    for secret in (SECRET, OLD_SECRET):
        Webhook(secret).verify(receiver.got[0].body, dict(receiver.got[0].headers))


async def test_endpoints_get_the_events_and_organizations_that_they_want(office: Office, receiver: Receiver) -> None:
    with receiving() as other:
        sender = office.sender(
            endpoint(receiver, events=("budget.*",), organizations=("acme", "globex-*")),
            endpoint(other, "rest", events=("books.*", "hold.*")),
        )
        await sender.deliver_due()
        wanted = [office.alert(), office.alert("budget.refusals", organization="globex-2")]
        office.alert(organization="initech")
        drift = office.alert("books.drift")
        await sender.deliver_due()
        assert sorted(receiver.ids) == sorted(alert.id for alert in wanted)
        assert other.ids == [drift.id]


async def test_a_new_endpoint_gets_alerts_from_then_on_and_not_the_history(office: Office, receiver: Receiver) -> None:
    office.alert()
    office.clock.tick(10 * MINUTE)
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    office.clock.tick(SECOND)
    later = office.alert()
    await sender.deliver_due()
    await office.sender(endpoint(receiver)).deliver_due()  # the next process knows the endpoint
    assert receiver.ids == [later.id]


async def test_what_failed_is_tried_again_by_the_schedule_with_the_same_id(office: Office, receiver: Receiver) -> None:
    receiver.status, receiver.body = 500, b"no\x1b[2J\nway"
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    alert = office.alert()
    for delay_s in queue.DELAYS_S[:8]:
        await sender.deliver_due()
        tried = len(receiver.got)
        office.clock.tick(delay_s * SECOND - 1)
        await sender.deliver_due()
        assert len(receiver.got) == tried
        office.clock.tick(delay_s * SECOND // 5 + 1)
    assert office.outcomes(alert)["ops"] == "failed: 500: no [2J way"
    receiver.status = 204
    assert await sender.deliver_due() == 1
    assert set(receiver.ids) == {alert.id}
    assert len({got.headers["webhook-timestamp"] for got in receiver.got}) == len(receiver.got)
    assert len({got.body for got in receiver.got}) == 1
    assert all(got.signed_by(SECRET) for got in receiver.got)


async def test_an_alert_that_nobody_takes_is_given_up_after_three_days(office: Office, receiver: Receiver) -> None:
    receiver.status = 500
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    alert = office.alert()
    for _ in range(20):
        await sender.deliver_due()
        office.clock.tick(12 * HOUR)
    assert office.outcomes(alert)["ops"] == "given up: 500"
    assert len(receiver.got) < 10
    assert office.count("given_up") == 1


async def test_an_alert_that_nobody_sent_for_three_days_is_given_up_and_logged(
    office: Office, receiver: Receiver
) -> None:
    await office.sender(endpoint(receiver)).deliver_due()
    alert = office.alert()
    office.clock.tick(3 * DAY + 1)
    with structlog.testing.capture_logs() as lines:
        await office.sender(endpoint(receiver)).deliver_due()
    assert not receiver.got
    assert office.outcomes(alert)["ops"] == "given up: the alert is older than 3 days; it was never tried"
    assert [line["alert"] for line in lines if line["event"] == "webhook.given_up"] == [alert.id]


async def test_an_endpoint_that_is_gone_gets_nothing_until_its_file_changes(office: Office, receiver: Receiver) -> None:
    changed: list[tuple[Endpoint, ...]] = []
    sender = office.sender(endpoint(receiver), reload=lambda: changed.pop() if changed else None)
    await sender.deliver_due()
    receiver.status = 410
    first, second = office.alert(), office.alert()
    await sender.deliver_due()
    await sender.deliver_due()
    assert len(receiver.got) == 1
    receiver.status = 200
    changed.append((endpoint(receiver),))
    await sender.deliver_due()
    assert len(receiver.got) == 2
    assert sorted([office.outcomes(first)["ops"], office.outcomes(second)["ops"]]) == ["delivered: 200", "gone: 410"]


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_holds_all_that_waits_for_the_endpoint(
    office: Office, receiver: Receiver, status: int
) -> None:
    receiver.status, receiver.headers = status, {"retry-after": "1200"}
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    office.alert()
    office.alert()
    await sender.deliver_due()
    receiver.status = 200
    office.clock.tick(1_199 * SECOND)
    await office.sender(endpoint(receiver)).deliver_due()
    assert len(receiver.got) == 1
    office.clock.tick(2 * SECOND)
    assert await sender.deliver_due() == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120), (" 7 ", 7), ("", 0), ("-1", 0), ("soon", 0), ("1.5", 0), ("9" * 30, 999_999_999),
        ("Sun, 01 Nov 2026 00:01:00 GMT", 60), ("Sun, 01 Nov 2020 00:01:00 GMT", 0), ("Sun, 99 Nov 2026", 0),
        ("Sun, 01 Nov 99999999999999 00:00:00 GMT", 0), ("Sun, 01 Nov 2026 00:00:00 +99999999999999", 0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str, seconds: int) -> None:
    assert retry_after_s(header, now_ms=1_793_491_200_000) == seconds


async def test_a_receiver_that_hangs_keeps_no_other_one_waiting(office: Office, receiver: Receiver) -> None:
    receiver.hangs = True
    with receiving() as quick:
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        quick.on_request = lambda _: loop.call_soon_threadsafe(arrived.set)
        both = endpoint(receiver, timeout_s=30), endpoint(quick, "quick")
        sender = office.sender(*both, every_s=0.01)
        await sender.look()
        office.alert()
        running = asyncio.create_task(sender.run())
        await asyncio.wait_for(arrived.wait(), 10)
        arrived.clear()
        office.alert()
        await asyncio.wait_for(arrived.wait(), 10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(receiver.got) == 1


async def test_a_receiver_that_does_not_answer_in_time_has_failed(office: Office, receiver: Receiver) -> None:
    receiver.hangs = True
    sender = office.sender(endpoint(receiver, timeout_s=1))
    await sender.deliver_due()
    alert = office.alert()
    assert await sender.deliver_due() == 0
    assert office.outcomes(alert)["ops"] == "failed: no answer within 1 s"


async def test_little_is_read_of_a_huge_answer(office: Office, receiver: Receiver) -> None:
    receiver.status, receiver.body = 400, b"x" * 50_000_000
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    alert = office.alert()
    await sender.deliver_due()
    assert office.outcomes(alert)["ops"] == f"failed: 400: {'x' * 200}…"
    receiver.status = 200
    office.clock.tick(MINUTE)
    assert await sender.deliver_due() == 1


async def test_a_redirect_is_a_failure_and_not_followed(office: Office, receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.status, receiver.headers = 307, {"location": elsewhere.url}
        sender = office.sender(endpoint(receiver))
        await sender.deliver_due()
        alert = office.alert()
        await sender.deliver_due()
        assert not elsewhere.got
    assert office.outcomes(alert)["ops"] == "failed: 307"


async def test_a_receiver_that_is_not_there_has_failed_and_its_url_is_not_told(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as closed:
        secret_url = f"{closed.url}/services/SECRET"
    sender = office.sender(Endpoint("slack", secret_url, format=BodyFormat.SLACK))
    await sender.deliver_due()
    alert = office.alert()
    with structlog.testing.capture_logs() as lines:
        await sender.deliver_due()
    assert office.outcomes(alert)["slack"].startswith("failed: no answer: ")
    assert "SECRET" not in f"{lines}{caplog.text}{office.outcomes(alert)}{sender._endpoints}"


async def test_of_two_senders_at_once_one_sends(office: Office, receiver: Receiver, books_url: str) -> None:
    second = Database(books_url)
    senders = [
        office.sender(endpoint(receiver)),
        Alerts(second, office.metrics, [endpoint(receiver)], clock=office.clock),
    ]
    await asyncio.gather(*(sender.deliver_due() for sender in senders))
    sent = [office.alert().id for _ in range(30)]
    with structlog.testing.capture_logs() as lines:
        arrived = await asyncio.gather(*(sender.deliver_due() for sender in senders))
    while sum(arrived) < len(sent):  # one may have looked before the other had written down what is new
        arrived += await asyncio.gather(*(sender.deliver_due() for sender in senders))
    await senders[1].close()
    second.close()
    assert sorted(receiver.ids) == sorted(sent)
    assert sorted(line["id"] for line in lines if line["event"] == "alert") == sorted(sent)


DYING = """
import asyncio, sys
from limiter.ledger.database import Database
from limiter.ledger.alerting.endpoints import Endpoint
from limiter.ledger.alerting.webhooks import Alerts
from limiter.observability.metrics import Metrics
url, to, secret = sys.argv[1:]
asyncio.run(Alerts(Database(url), Metrics(), [Endpoint("ops", to, (secret,))]).deliver_due())
"""


def die_sending(receiver: Receiver, books_url: str) -> int:
    """Start a process that delivers, and kill it when its first request is here; answers its exit code."""
    with subprocess.Popen([sys.executable, "-c", DYING, books_url, receiver.url, SECRET], cwd=ROOT) as process:

        def kill(_: Got) -> None:
            process.kill()
            process.wait()

        receiver.on_request = kill
        return process.wait(60)


async def test_after_a_kill_between_attempt_and_record_it_goes_out_again_with_the_same_id(
    office: Office, receiver: Receiver, books_url: str
) -> None:
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    alert = office.alert()
    office.clock.tick(SECOND)
    assert await asyncio.to_thread(die_sending, receiver, books_url) == -signal.SIGKILL
    receiver.on_request = lambda _: None
    assert office.outcomes(alert)["ops"] == "under way"
    assert await sender.deliver_due() == 0  # it may still be alive, for all that others know
    office.clock.tick(15 * SECOND + queue.LEASE_MS + 30 * SECOND)
    assert await sender.deliver_due() == 1
    assert receiver.ids == [alert.id, alert.id]


async def test_every_alert_is_logged_once_even_without_endpoints(office: Office) -> None:
    senders = [office.sender(), office.sender()]
    alert = office.alert()
    with structlog.testing.capture_logs() as lines:
        for sender in senders:
            await sender.deliver_due()
    (line,) = [line for line in lines if line["event"] == "alert"]
    assert line["id"] == alert.id
    assert line["text"] == "acme has passed 80 % of its limit monthly."
    assert office.metrics.alerts["budget.threshold"]._value.get() == 1


async def test_slack_gets_a_sentence_that_rings_nobodys_bell(office: Office, receiver: Receiver) -> None:
    sender = office.sender(endpoint(receiver, secrets=(), format=BodyFormat.SLACK))
    await sender.deliver_due()
    alert = office.alert(
        "budget.refusals", reason="SPEND_CEILING", window="month", ceiling_nanousd=800 * 10**9,
        model="a&b", customer="<!channel>",
    )  # fmt: skip
    await sender.deliver_due()
    (got,) = receiver.got
    text = (
        "Calls are refused at the limit monthly (800.00 USD per month) of acme: the spend ceiling is reached."
        " The first: model a&amp;b for customer &lt;!channel&gt;."
    )
    assert got.json["text"] == text
    section, context = got.json["blocks"]
    assert section["text"] == {"type": "mrkdwn", "text": text, "verbatim": True}
    assert alert.id in context["elements"][0]["text"]
    assert "webhook-signature" not in got.headers


async def test_slack_takes_every_message_whatever_names_are_in_it(office: Office, receiver: Receiver) -> None:
    def answer(got: Got) -> None:
        receiver.status, receiver.body = as_slack(got)

    receiver.on_request = answer
    sender = office.sender(endpoint(receiver, secrets=(), format=BodyFormat.SLACK))
    await sender.deliver_due()
    for name in ("plain", "&<>" * 2_000, "x" * 9_999 + "<!here>", "🔥&" * 3_000, ""):
        names = dict.fromkeys(("scope", "limit", "reason", "model", "customer", "key"), name)
        for kind in ("budget.threshold", "budget.refusals", "hold.expired", "books.gap", "of.tomorrow"):
            alert = office.alert(kind, **names, amount_nanousd=1)
            await sender.deliver_due()
            assert office.outcomes(alert)["ops"] == "delivered: 200", (kind, name[:9])


async def test_an_alert_can_be_sent_again_however_old_it_is(office: Office, receiver: Receiver) -> None:
    sender = office.sender(endpoint(receiver), endpoint(receiver, "picky", events=("books.*",)))
    await sender.deliver_due()
    alert = office.alert()
    await sender.deliver_due()
    office.clock.tick(30 * DAY)
    receiver.status = 500
    with office.database.write() as connection:
        assert queue.redeliver(connection, alert.id, None, now_ms=office.clock.now_ms) == ["ops"]
    await sender.deliver_due()
    assert receiver.ids == [alert.id, alert.id]
    assert office.outcomes(alert)["ops"] == "given up: 500"  # once only: it is old
    with office.database.write() as connection:
        assert queue.redeliver(connection, alert.id, "picky", now_ms=office.clock.now_ms) == ["picky"]
        assert queue.redeliver(connection, "nothing", None, now_ms=office.clock.now_ms) == []


async def test_what_is_being_sent_is_not_sent_again_meanwhile(office: Office, receiver: Receiver) -> None:
    ops = endpoint(receiver)
    sender = office.sender(ops)
    await sender.deliver_due()
    alert = office.alert()
    await sender.look()
    with office.database.write() as connection:
        assert queue.claim(connection, ops, now_ms=office.clock.now_ms) is not None
        assert queue.claim(connection, ops, now_ms=office.clock.now_ms) is None
        assert queue.redeliver(connection, alert.id, None, now_ms=office.clock.now_ms) == []


async def test_alerts_and_deliveries_are_forgotten_after_ninety_days(office: Office, receiver: Receiver) -> None:
    sender = office.sender(endpoint(receiver))
    await sender.deliver_due()
    office.alert()
    await sender.deliver_due()
    office.clock.tick(91 * DAY)
    kept = office.alert()
    await sender.deliver_due()
    with office.database.read() as connection:
        assert connection.execute(select(alerts.c.id)).scalars().all() == [kept.id]
        of_alerts = select(func.count()).where(deliveries.c.alert != "")
        assert connection.execute(of_alerts).scalar_one() == 2
    assert len(receiver.got) == 2


async def test_books_that_are_away_are_tried_again(
    office: Office, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    receiver.on_request = lambda _: loop.call_soon_threadsafe(arrived.set)
    sender = office.sender(endpoint(receiver), every_s=0.01)
    await sender.look()
    office.alert()
    look, troubles = sender._look, [1, 1]

    def away() -> None:
        if troubles and troubles.pop():
            raise Unavailable("books: away")
        look()

    monkeypatch.setattr(sender, "_look", away)
    running = asyncio.create_task(sender.run())
    await asyncio.wait_for(arrived.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_body_is_the_same_whoever_makes_it() -> None:
    alert = Alert("x", "books.gap", 1_793_491_200_123, {"b": 1, "a": "ü"})
    assert body_of(alert, BodyFormat.STANDARD).decode() == (
        '{"data":{"a":"ü","b":1},"timestamp":"2026-11-01T00:00:00.123Z","type":"books.gap"}'
    )

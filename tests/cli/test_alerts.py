"""`alerts …`, and the file that says where alerts go."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from limiter.alert_file import AlertFileInvalid, ChangedFile, read_endpoints
from limiter.domain.errors import InvalidArgument
from limiter.ledger.alerting import queue
from limiter.ledger.alerting.alerts import Alert, write_alert
from limiter.ledger.alerting.endpoints import BodyFormat, Endpoint
from limiter.ledger.alerting.sender import Attempt, Result
from limiter.ledger.database import Database, sqlite_url
from limiter.observability.logs import redact_text
from tests.cli.conftest import CommandLine
from tests.ledger.receivers import OLD_SECRET, SECRET, Receiver, certify, receiving

ROOT = Path(__file__).parents[2]
DATA = {"organization": "acme", "scope": "acme/search", "limit": "monthly", "threshold": 0.8}


@pytest.fixture
def books(directory: Path) -> Iterator[Database]:
    (directory / "data").mkdir()
    database = Database(sqlite_url(directory / "data" / "books.db"))
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def file(text: str, name: str = "alerts.yaml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def write(books: Database, number: int, outcome: Attempt | None) -> Alert:
    """An alert, and what became of it at the endpoint ops."""
    now_ms = time.time_ns() // 1_000_000
    alert = Alert.about("budget.threshold", (number,), at_ms=now_ms + number, data=DATA)
    ops = Endpoint("ops", "https://x.example")
    with books.write() as connection:
        write_alert(connection, alert)
        queue.note_logged(connection, [alert], now_ms=now_ms)
        queue.enqueue(connection, Endpoint("other", "", events=("books.*",)), [alert], now_ms=now_ms)
        if outcome is not None:
            queue.enqueue(connection, ops, [alert], now_ms=now_ms)
            claimed = queue.claim(connection, ops, now_ms=now_ms)
            assert claimed is not None
            queue.record(connection, claimed, outcome, now_ms=now_ms)
    return alert


def test_list_shows_the_newest_first_and_who_got_them(limiter: CommandLine, books: Database) -> None:
    logged = write(books, 1, None)
    arrived = write(books, 2, Attempt(Result.DELIVERED, "200"))
    failed = write(books, 3, Attempt(Result.FAILED, "500: no"))

    output = limiter.run("alerts", "list")

    assert [line.split()[-1] for line in output.lines[2:]] == [failed.id, arrived.id, logged.id]
    assert output.row(arrived.id)[1:3] == ["acme/search has passed 80 % of its limit monthly.", "ops: delivered: 200"]
    assert output.row(failed.id)[2].startswith("ops: failed: 500: no (attempt 1, next ")
    assert output.row(logged.id)[2] == "only the log"


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_list_folds_no_time_and_no_id_however_narrow_the_terminal_is(
    columns: int, limiter: CommandLine, books: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = write(books, 1, Attempt(Result.FAILED, "500: no"))
    monkeypatch.setenv("COLUMNS", str(columns))

    output = limiter.run("alerts", "list")

    told_at = datetime.fromtimestamp(failed.at_ms // 1000, UTC)
    assert output.row(failed.id)[0] == f"{told_at:%Y-%m-%d %H:%M:%SZ}"
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\)", output.out)  # of the next attempt


def test_list_failed_shows_those_that_did_not_arrive(limiter: CommandLine, books: Database) -> None:
    write(books, 1, None)
    write(books, 2, Attempt(Result.DELIVERED, "200"))
    failed = write(books, 3, Attempt(Result.FAILED, "500: no"))
    gone = write(books, 4, Attempt(Result.GONE, "410"))

    found = limiter.run("alerts", "list", "--failed", "--format", "json").json

    assert [alert["id"] for alert in found] == [gone.id, failed.id]
    (step,) = found[1]["deliveries"]
    assert (step["endpoint"], step["outcome"], step["attempts"], step["done_at"]) == ("ops", "failed: 500: no", 1, None)
    assert step["next_at"].endswith("Z")
    assert found[1]["data"] == DATA


def test_list_says_when_there_are_more(limiter: CommandLine, books: Database) -> None:
    newest = [write(books, number, None) for number in range(3)][-1]

    output = limiter.run("alerts", "list", "--limit", "1")

    assert newest.id in output.lines[-1]
    assert "more than these 1" in output.err


def test_redeliver_lets_an_alert_be_sent_again(limiter: CommandLine, books: Database) -> None:
    alert = write(books, 1, Attempt(Result.DELIVERED, "200"))

    output = limiter.run("alerts", "redeliver", alert.id)

    assert output.out == "to be sent again to ops\n"
    with books.write() as connection:
        claimed = queue.claim(connection, Endpoint("ops", ""), now_ms=time.time_ns() // 1_000_000)
    assert claimed is not None
    assert claimed.alert == alert


def test_redeliver_of_nothing_says_so(limiter: CommandLine, books: Database) -> None:
    alert = write(books, 1, None)

    assert "nothing: there is none" in limiter.run("alerts", "redeliver", "nothing", exit_code=5).err
    output = limiter.run("alerts", "redeliver", alert.id, "--endpoint", "nobody", exit_code=5)
    assert "no endpoint nobody" in output.err


def test_a_test_alert_arrives_signed_and_what_came_back_is_printed(limiter: CommandLine, receiver: Receiver) -> None:
    file(f"endpoints: [{{name: ops, url: '{receiver.url}', secret: {SECRET}}}]")

    output = limiter.run("alerts", "test", "--alerts", "alerts.yaml")

    (got,) = receiver.got
    assert Webhook(SECRET).verify(got.body, dict(got.headers))["type"] == "alert.test"
    assert output.out.startswith("ops (127.0.0.1) took it: 200, after ")
    assert got.id in output.out


def test_a_test_alert_that_is_not_taken_ends_with_exit_code_1(
    limiter: CommandLine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status, receiver.body = 404, b"no_service"
    file(f"endpoints: [{{name: chat, url: '{receiver.url}/SECRET', format: slack}}]")
    monkeypatch.setenv("LIMITER_ALERTS", "alerts.yaml")

    output = limiter.run("alerts", "test", "--endpoint", "chat", "--format", "json", exit_code=1)

    assert (output.json["result"], output.json["answer"]) == ("failed", "404: no_service")
    assert output.err == "limiter: chat (127.0.0.1) did not take it: 404: no_service\n"
    assert receiver.got[0].json["text"] == "A test of Limiter: alerts reach this endpoint."


def test_a_receiver_whose_private_authority_the_file_names_takes_a_test_alert(
    limiter: CommandLine, directory: Path
) -> None:
    ca = str(certify(directory / "ca.pem"))
    certificate = certify(directory / "own.pem", "-addext", "subjectAltName=IP:127.0.0.1", "-CA", ca, "-CAkey", ca)
    Path("bundle.pem").write_text(f"# Főtanúsítvány\n{Path(ca).read_text()}", encoding="utf-8")
    with receiving(certificate) as receiver:
        text = f"name: ops, url: '{receiver.url}', secret: {SECRET}"

        file(f"endpoints: [{{{text}}}]")
        output = limiter.run("alerts", "test", "--alerts", "alerts.yaml", exit_code=1)
        assert "certificate verify failed" in output.err
        assert not receiver.got

        file(f"endpoints: [{{{text}, ca_file: bundle.pem}}]")
        output = limiter.run("alerts", "test", "--alerts", "alerts.yaml")
        assert output.out.startswith("ops (127.0.0.1) took it: 200")
        assert len(receiver.got) == 1


def test_a_test_of_an_endpoint_that_is_not_in_the_file_names_those_that_are(limiter: CommandLine) -> None:
    file("endpoints: [{name: a, url: https://a, format: slack}, {name: b, url: https://b, format: slack}]")

    output = limiter.run("alerts", "test", "--alerts", "alerts.yaml", exit_code=2)

    assert "the file has a, b" in output.err


def test_a_file_says_where_what_goes_and_with_which_secrets() -> None:
    Path("old").write_text(f"{SECRET}\n{OLD_SECRET}\n")
    path = file(
        f"""
        endpoints:
          - {{name: a, url: "https://a.example/x", secret: {SECRET}, events: ["budget.*"], organizations: [acme]}}
          - {{name: b, url: "http://localhost:9000", secret_file: old, timeout_s: 30}}
          - {{name: c, url_env: C_URL, secret_env: C_SECRET}}
          - {{name: d, url: "http://[::1]:1/", format: slack}}
        """
    )
    variables = {"C_URL": "https://c.example\n", "C_SECRET": SECRET}

    assert read_endpoints(path, environment=variables) == (
        Endpoint("a", "https://a.example/x", (SECRET,), ("budget.*",), ("acme",)),
        Endpoint("b", "http://localhost:9000", (SECRET, OLD_SECRET), timeout_s=30),
        Endpoint("c", "https://c.example", (SECRET,)),
        Endpoint("d", "http://[::1]:1/", format=BodyFormat.SLACK),
    )


@pytest.mark.parametrize(
    ("entry", "mistake"),
    [
        ("name: 'a b'", "endpoints[0].name: 'a b' is not valid; use 1 to 128"),
        ("name: log", "endpoints[0].name: 'log' is not valid"),
        ("nam: a", "endpoints[0].nam: unknown field; did you mean name?"),
        ("url: ftp://x", "endpoints[0].url: write https://HOST/PATH; http is for this machine only"),
        ("url: http://example.com", "endpoints[0].url: write https://HOST/PATH; http is for this machine only"),
        ("url: http://127.0.0.1.example.com", "endpoints[0].url: write https://HOST/PATH"),
        ("url: 'https://me:pw@example.com'", "endpoints[0].url: a URL with a login is refused"),
        ("url: 'https://x.example/#a'", "endpoints[0].url: what follows # is never sent"),
        ("url: 'https://'", "endpoints[0].url: this is no URL"),
        ("url: 'https://x:port/'", "endpoints[0].url: this is no URL"),
        ("url: 'https://x y/'", "endpoints[0].url: this is no URL"),
        ("url_env: UNSET", "endpoints[0]: name url or url_env, one of them"),
        ("secret: whsec_c2hvcnQ=", "endpoints[0].secret[0]: this is no signing secret"),
        ("secret: [plain]", "endpoints[0].secret[0]: this is no signing secret"),
        ("secret: []", "endpoints[0].secret: "),
        ("secret_env: UNSET", "endpoints[0].secret_env: this environment variable is not set"),
        ("secret_file: nowhere", "endpoints[0].secret_file: this file cannot be read (No such file or directory)"),
        ("secret_file: wrong", "endpoints[0].secret_file: what stands there: this is no signing secret"),
        ("secret_file: empty", "endpoints[0].secret_file: what stands there: there are 0 secrets"),
        ("{}", "endpoints[0]: name secret, secret_file or secret_env, one of them"),
        ("ca_file: nowhere", "endpoints[0].ca_file: this file cannot be read (No such file or directory)"),
        ("ca_file: wrong", "endpoints[0].ca_file: what stands there: this is no list of certificates"),
        ("ca_file: broken", "endpoints[0].ca_file: what stands there: a certificate cannot be read ("),
        ("events: budget", "endpoints[0].events: 'budget' is not valid"),
        ("events: []", "endpoints[0].events: "),
        ("events: [3]", "endpoints[0].events[0]: "),
        ("organizations: ['']", "endpoints[0].organizations[0]: '' is not valid"),
        ("format: teams", "endpoints[0].format: 'teams' is not valid; write one of standard, slack"),
        ("timeout_s: 0", "endpoints[0].timeout_s: 0 is not valid; write whole seconds from 1 to 60"),
        ("timeout_s: 1.5", "endpoints[0].timeout_s: 1.5 is not valid"),
        ("timeout_s: true", "endpoints[0].timeout_s: true is not valid"),
    ],
)
def test_every_mistake_is_told_at_its_path_and_without_a_secret(entry: str, mistake: str) -> None:
    Path("wrong").write_text("topsecret")
    Path("empty").write_text("")
    Path("broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    given = {"name": "a", "url": "https://a.example", "secret": SECRET}
    name, _, value = entry.partition(": ")
    if entry == "{}" or name.startswith("secret_"):
        del given["secret"]
    if entry != "{}":
        given[name] = value
    text = ", ".join(f"{field}: {value}" for field, value in given.items())

    with pytest.raises(AlertFileInvalid) as refused:
        read_endpoints(file(f"endpoints: [{{{text}}}]"), environment={})

    assert any(str(found).startswith(mistake) for found in refused.value.mistakes), str(refused.value)
    assert not any(word in str(refused.value) for word in (SECRET, "topsecret", "plain", "pw@"))


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("endpoints: {}", "alerts.yaml: endpoints: a mapping is not valid; write a list"),
        ("[]", "alerts.yaml: a list is not valid; write a mapping"),
        ("endpoint: []", "alerts.yaml: endpoint: unknown field; did you mean endpoints?"),
        ("endpoints: [", "alerts.yaml: line 2, column 1: not YAML"),
        (
            "endpoints: [{name: a, url: https://a, format: slack}, {name: a, url: https://b, format: slack}]",
            "alerts.yaml: endpoints[1].name: 'a' is taken",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, mistake: str) -> None:
    with pytest.raises(AlertFileInvalid) as refused:
        read_endpoints(file(text))

    assert mistake in str(refused.value)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="name a YAML file that can be read"):
        read_endpoints(Path("nowhere.yaml"))


def test_the_examples_are_read(directory: Path) -> None:
    from limiter import alert_file  # noqa: PLC0415 - its docstring is what is tested

    (directory / "acme").write_text(SECRET)
    deployed = (ROOT / "deploy" / "alerts.example.yaml").read_text().replace("/run/secrets/acme-finance", "acme")
    variables = {"LIMITER_WEBHOOK_SECRET": SECRET, "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/x"}
    for text in (deployed, (alert_file.__doc__ or "").partition("::\n")[2]):
        endpoints = read_endpoints(file(text), environment=variables)
        assert [endpoints[0].name, endpoints[-1].format] == ["operations", BodyFormat.SLACK]


def test_a_changed_file_is_read_again_and_one_with_mistakes_is_not_taken() -> None:
    path = file("endpoints: []")
    changed = ChangedFile(path)
    assert changed() is None
    file("endpoints: [{name: a, url: https://a.example, format: slack}]")
    assert changed() == (Endpoint("a", "https://a.example", format=BodyFormat.SLACK),)
    assert changed() is None
    file("endpoints: [{name: a}]")
    assert changed() is None


def test_no_signing_secret_gets_into_the_log() -> None:
    assert SECRET not in redact_text(f"signed with {SECRET}")

"""`limiter top`."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import grpc
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import Fails, FakeSidecar, spend

METRICS = """\
# TYPE limiter_decisions_total counter
limiter_decisions_total{decision="GRANTED",reason="NONE"} 12.0
limiter_decisions_total{decision="DENIED",reason="REQUEST_RATE"} 3.0
limiter_decisions_total{decision="DENIED",reason="SPEND_CEILING"} 41.0
limiter_decisions_total{decision="DENIED",reason="CONCURRENCY"} 0.0
"""


def scopes(**changes: object) -> pb.ListScopesResponse:
    """An organization with much room, and a key that is nearly at its end."""
    return pb.ListScopesResponse(
        scopes=[
            pb.ScopeStatus(scope="acme", limits=[spend(limit="monthly", settled=1, held=0, remaining=19_999_999_999)]),
            pb.ScopeStatus(scope="acme/search/bot", limits=[spend(**changes)]),
        ]
    )


@contextmanager
def metrics() -> Iterator[str]:
    """Serve METRICS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_used_most_stands_above(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListScopes", scopes(), scopes())

    by_use = limiter.run("top", "acme", "--once")
    by_name = limiter.run("top", "acme", "--once", "--sort", "scope")

    assert [line.split()[1] for line in by_use.lines[2:4]] == ["daily", "monthly"]
    assert [line.split()[1] for line in by_name.lines[2:4]] == ["monthly", "daily"]
    assert sidecar.requests("ListScopes")[0].scope == "acme"
    assert by_use.row("daily") == [
        *("acme/search/bot", "daily", "20.00 USD/day", "19.000000001", "0.50", "0.499999999", "97.5 %", "0.00", "0"),
    ]


def test_what_was_charged_above_the_holds_is_shown(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListScopes", *(scopes(overage=1_250_000_001) for _ in range(3)))

    assert limiter.run("top", "--once").row("daily")[-2:] == ["1.250000001", "0"]
    (_, scope) = limiter.run("top", "--format", "json").json["scopes"]
    assert (scope["limits"][0]["overage"], scope["limits"][0]["overage_usd"]) == (1_250_000_001, "1.250000001")


def test_a_narrow_terminal_does_without_the_overage(
    limiter: CommandLine, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.answers("ListScopes", scopes(overage=1_250_000_001))
    monkeypatch.setenv("COLUMNS", "100")

    output = limiter.run("top", "--once")

    assert "overage" not in output.out
    assert output.row("daily")[-3:] == ["0.499999999", "97.5 %", "0"]


@pytest.mark.parametrize("columns", range(40, 130, 10))
def test_no_digit_is_cut_however_narrow_the_terminal_is(
    columns: int, limiter: CommandLine, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.answers("ListScopes", scopes(overage=1_250_000_001))
    monkeypatch.setenv("COLUMNS", str(columns))

    output = limiter.run("top", "--once")

    numbers = {word for line in output.lines for word in line.split() if word[0].isdigit()}
    assert {"19.000000001", "0.499999999", "19.999999999"} <= numbers
    assert numbers <= {
        *("20.00", "19.000000001", "0.50", "0.499999999", "97.5", "1.250000001"),
        *("0.000000001", "0.00", "19.999999999", "0.0", "0"),
    }


def test_a_pipe_gets_one_look(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListScopes", scopes())

    limiter.run("top")

    assert len(sidecar.asked) == 1


def test_refusals_by_reason_stand_below_the_most_frequent_first(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListScopes", scopes(), scopes())

    with metrics() as address:
        output = limiter.run("top", "--once", "--metrics", address)
        printed = limiter.run("top", "--format", "json", "--metrics", address).json

    assert output.lines[-1] == f"refused since the start of {address}: SPEND_CEILING 41  REQUEST_RATE 3"
    assert printed["refusals"] == {"SPEND_CEILING": 41, "REQUEST_RATE": 3}
    assert [scope["scope"] for scope in printed["scopes"]] == ["acme", "acme/search/bot"]


@pytest.mark.parametrize("address", ["", "127.0.0.1:1", "nonsense"])
def test_without_metrics_there_is_no_word_of_refusals(address: str, limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListScopes", scopes(), scopes())

    assert "refused" not in limiter.run("top", "--once", "--metrics", address).out
    assert limiter.run("top", "--format", "json", "--metrics", address).json["refusals"] is None


def test_a_ceiling_of_nothing_is_full(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListScopes", scopes(limit_value=0, settled=0, held=0, remaining=0))

    assert limiter.run("top", "--once").row("daily")[-3] == "100.0 %"


def test_on_a_terminal_it_refreshes_in_place_and_outlives_a_sidecar_that_is_away(sidecar: FakeSidecar) -> None:
    away = Fails(grpc.StatusCode.UNAVAILABLE, "the store is away")
    sidecar.answers("ListScopes", scopes(), away, *(scopes(settled=19_500_000_000) for _ in range(1000)))
    control, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "110", "LINES": "20"}
    command = [sys.executable, "-m", "limiter", "top", "--interval", "50ms"]

    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        drawn = ""
        while "19.50" not in drawn:
            drawn += os.read(control, 65_536).decode()
        process.send_signal(signal.SIGINT)
        drawn += "".join(iter(lambda: _rest(control), ""))
        process.wait(20)

    assert process.returncode == 130
    assert "the store is away" in drawn
    assert "\x1b[?1049h" in drawn  # the alternate screen, left at the end
    assert drawn.rstrip().endswith(("\x1b[?25h", "\x1b[?1049l"))
    assert re.search(r"19\.000000001.*the store is away.*19\.50", drawn, re.DOTALL)
    assert "Traceback" not in drawn


def _rest(control: int) -> str:
    try:
        return os.read(control, 65_536).decode()
    except OSError:  # Linux says so when the other side is closed
        return ""

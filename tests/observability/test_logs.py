"""Logs: one line per event, readable by machines, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from limiter.observability.logs import configure, redact_text

KEY = "lk-" + "aB3_-" * 6


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_file_gets_json_with_time_level_and_logger() -> None:
    configure(stream=(stream := io.StringIO()))
    before = datetime.now(UTC)
    structlog.get_logger("limiter.store").info("store_connected", nodes=3)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "store_connected", "nodes": 3, "level": "info", "logger": "limiter.store"}
    assert before <= datetime.now(UTC)


def test_a_terminal_gets_text() -> None:
    configure(stream=(stream := Terminal()))
    structlog.get_logger().warning("store_slow", seconds=2)
    assert "store_slow" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("style", "is_json"), [("json", True), ("console", False)])
def test_the_style_can_be_chosen(style: Any, is_json: bool) -> None:  # noqa: ANN401, FBT001 (a table's columns)
    configure(style=style, stream=(stream := Terminal()))
    structlog.get_logger().info("started")
    assert stream.getvalue().startswith("{") is is_json


def test_what_is_below_the_level_is_left_out() -> None:
    configure(level="warning", stream=(stream := io.StringIO()))
    structlog.get_logger().info("chatter")
    logging.getLogger("grpc").info("chatter")
    structlog.get_logger().error("trouble")
    assert [line["event"] for line in lines(stream)] == ["trouble"]


def test_the_standard_library_speaks_through_the_same_chain() -> None:
    configure(stream=(stream := io.StringIO()))
    logging.getLogger("asyncio").warning("slow callback of %s s", 2, extra={"api_key": "x"})
    (line,) = lines(stream)
    assert line["event"] == "slow callback of 2 s"
    assert line["level"] == "warning"
    assert line["logger"] == "asyncio"
    assert line["api_key"] == "[redacted]"


def test_bound_ids_stand_in_every_line_of_a_call() -> None:
    configure(stream=(stream := io.StringIO()))
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger().info("reserved")
        logging.getLogger("grpc").info("answered")
    structlog.get_logger().info("idle")
    assert [line.get("request_id") for line in lines(stream)] == ["r-1", "r-1", None]


def test_a_second_configuration_replaces_the_first() -> None:
    configure(stream=(first := io.StringIO()))
    configure(stream=(second := io.StringIO()))
    structlog.get_logger().info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


@dataclass
class Carrier:
    content: str


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_secret_is_written_wherever_it_stands(style: Any) -> None:  # noqa: ANN401 (a table's column)
    configure(style=style, stream=(stream := io.StringIO()))
    log = structlog.get_logger()
    log.info("named", secret="hunter2", api_key="hunter2", token="hunter2", password="hunter2", Authorization="hunter2")
    log.info("longer", listener_token="hunter2", **{"x-api-key": "hunter2", "http.authorization": b"hunter2"})
    log.info("deep", headers={"authorization": "hunter2", "others": [{"password": "hunter2"}]})
    log.info("long secrets too", secret={"of": ["hunter2"]})
    log.info("in the event %s", KEY, value=KEY, nested=[{"deep": (KEY,)}], raw=KEY.encode(), carrier=Carrier(KEY))
    log.info("url", store="redis://app:hunter2@h:6379/0", header="Bearer hunter2hunter2")
    logging.getLogger("lib").warning("args %s %s", KEY, "rediss://:hunter2@h")
    try:
        int(f"{KEY} and redis://:hunter2@h")
    except ValueError:
        log.exception("failed")
        logging.getLogger("lib").exception("failed too")
    written = stream.getvalue()
    assert "hunter2" not in written
    assert KEY not in written
    assert written.count("lk-[redacted]") >= 8


def test_what_only_resembles_a_secret_is_kept() -> None:
    configure(stream=(stream := io.StringIO()))
    kept = {
        "max_output_tokens": 5,
        "tokens": 7,
        "key": "acme/search/bot",
        "secretary": "x",
        "token": None,
        "id": "lk-short",
    }
    structlog.get_logger().info("reserved", **kept)
    (line,) = lines(stream)
    assert {name: line[name] for name in kept} == kept
    assert redact_text("see https://example.com/a@b") == "see https://example.com/a@b"


def test_a_line_break_in_a_value_does_not_forge_a_line() -> None:
    configure(stream=(stream := io.StringIO()))
    structlog.get_logger().info("reserved", model="x\n{}")
    assert len(stream.getvalue().splitlines()) == 1

"""Logs: one stream of JSON lines (or, on a terminal, of text) in which no secret stands.

What the standard library's loggers say goes through the same chain. A call's ids are bound with
``structlog.contextvars.bound_contextvars(request_id=…)`` and then stand in each of its lines.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]

REDACTED: Final = "[redacted]"

#: Fields whose value is never shown, alone or as the end of a longer name (`listener_token`).
_SECRET_NAME = re.compile(
    r"(?:^|[_.\- ])(?:secret|pepper|api[_-]?key|token|password|passwd|authorization)$", re.IGNORECASE
)

#: What a secret looks like wherever it stands: a key of ours, a login in a URL, an HTTP credential.
_SECRET_TEXT: Final = (
    (re.compile(r"lk-[A-Za-z0-9_-]{20,}"), f"lk-{REDACTED}"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]{16,}"), f"whsec_{REDACTED}"),
    (re.compile(r"(://)[^/@\s\"']+@"), rf"\1{REDACTED}@"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
)


def configure(*, level: Level = "info", style: Format = "auto", stream: TextIO | None = None) -> None:
    """Set up logging for this process; may be called again.

    `style` ``auto`` writes text if `stream` (default: standard error) is a terminal, else JSON.
    """
    stream = stream or sys.stderr
    is_console = style == "console" or (style == "auto" and stream.isatty())
    of_every_line: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if is_console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*of_every_line, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_fields,
                renderer,
                _redact_line,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells every step
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *of_every_line,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def redact_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace the values of fields that are secrets by their name, at any depth."""
    return {name: REDACTED if _is_secret(name, value) else _redact_inside(value) for name, value in event.items()}


def redact_text(text: str) -> str:
    """Replace everything in a text that looks like a secret."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _redact_line(_: WrappedLogger, __: str, line: Any) -> Any:  # noqa: ANN401 (structlog's protocol: after the renderer it is text)
    return redact_text(line)


def _is_secret(name: object, value: object) -> bool:
    return value is not None and isinstance(name, str) and _SECRET_NAME.search(name) is not None


def _redact_inside(value: object) -> object:
    if isinstance(value, dict):
        return {name: REDACTED if _is_secret(name, inner) else _redact_inside(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redact_inside(inner) for inner in value]
    return value

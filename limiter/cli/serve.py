"""`limiter serve`: start a sidecar."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from limiter.app import run_loop
from limiter.cli.lazy import example
from limiter.cli.settings_flags import with_settings
from limiter.observability import logs
from limiter.serving import Serving
from limiter.serving import serve as serve_until_stopped
from limiter.settings import Settings


@example("limiter serve --policy policy.yaml --listen 127.0.0.1:50051")
@with_settings
def serve(
    *,
    settings: Settings,
    example_key: Annotated[
        str, typer.Option(metavar="ORG/TEAM/KEY", help="Mint a secret for this key and print how to use it.")
    ] = "",
) -> None:
    """Start a sidecar; without --store with a Valkey of its own."""
    logs.configure(level=settings.log_level, style=settings.log_format)

    def announce(serving: Serving) -> None:
        if example_key or sys.stderr.isatty():
            sys.stderr.write(_welcome(serving, example_key))

    run_loop(serve_until_stopped(settings, example_key=example_key, announce=announce))


def _welcome(serving: Serving, example_key: str) -> str:
    """Where to go from here, for people."""
    lines = ["", f"Limiter serves on {', '.join(serving.addresses)}"]
    if serving.http:
        lines.append(f"  metrics, health   http://{serving.http}/metrics  /healthz  /readyz")
    if serving.secret:
        call = "--model gpt-4o --input-tokens 1000 --max-output-tokens 500"
        lines += [
            f"  example key       {example_key}",
            f"  its secret        {serving.secret}   (shown once)",
            f"  try               {_command()} reserve {example_key} {call}",
        ]
    return "\n".join([*lines, "  stop              Ctrl-C", "", ""])


def _command() -> str:
    """How this program is called from here: by its name if that is found, else as it was started."""
    return "limiter" if shutil.which("limiter") else sys.argv[0]

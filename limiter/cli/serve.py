"""`limiter serve`: start a sidecar."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from limiter.serving import Serving


def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT or unix:/PATH, then options by comma (trusted, tls, token-file=…); repeatable"),
    ] = None,
    http: Annotated[str | None, typer.Option(help="HOST:PORT of /metrics, /healthz, /readyz; '' for none")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Sockets, pepper and the embedded store's files")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="URL of a Redis or Valkey: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://"
        ),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file to apply at start")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price file whose entries win over the price book")] = None,
    pepper_file: Annotated[Path | None, typer.Option(help="Pepper shared by all sidecars of a store")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that answer calls")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, native or grpcio")] = None,
    fsync: Annotated[str | None, typer.Option(help="Embedded store: everysec or always")] = None,
    max_backlog: Annotated[int | None, typer.Option(help="Ledger rows of a shard at which Reserve stops")] = None,
    grace_s: Annotated[float | None, typer.Option(help="Seconds that running calls get at the end")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or console")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings")] = None,
    example_key: Annotated[
        str, typer.Option(help="Mint a secret for this key and print how to use it", metavar="ORG/TEAM/KEY")
    ] = "",
) -> None:
    """Start a sidecar; without --store with a Valkey of its own.

    Example: limiter serve --policy policy.yaml --listen 127.0.0.1:50051
    """
    from limiter.app import run_loop  # noqa: PLC0415 - heavy: only this command needs the server
    from limiter.domain.errors import LimiterError  # noqa: PLC0415
    from limiter.observability import logs  # noqa: PLC0415
    from limiter.serving import serve as serve_for_ever  # noqa: PLC0415
    from limiter.settings import Settings  # noqa: PLC0415

    flags: dict[str, Any] = {
        name: value
        for name, value in {
            "listen": tuple(listen) if listen else None,
            "http": http,
            "data_dir": data_dir,
            "store": store,
            "policy": policy,
            "prices": prices,
            "pepper_file": pepper_file,
            "workers": workers,
            "engine": engine,
            "fsync": fsync,
            "max_backlog": max_backlog,
            "grace_s": grace_s,
            "log_level": log_level,
            "log_format": log_format,
            "config": config,
        }.items()
        if value is not None
    }
    try:
        settings = Settings.load(flags)
        logs.configure(level=settings.log_level, style=settings.log_format)
        run_loop(serve_for_ever(settings, example_key=example_key, announce=_announce(example_key)))
    except LimiterError as error:
        typer.echo(f"limiter serve: {error}", err=True)
        raise typer.Exit(1) from None


def _announce(example_key: str) -> Any:  # noqa: ANN401 - a callback, or None
    """Tell people where to go; only where one may read it."""

    def tell(serving: Serving) -> None:
        lines = ["", f"Limiter serves on {', '.join(serving.addresses)}"]
        if serving.http:
            lines.append(f"  metrics, health   http://{serving.http}/metrics  /healthz  /readyz")
        if serving.secret:
            lines += [
                f"  example key       {example_key}",
                f"  its secret        {serving.secret}   (shown once)",
                "  try               "
                f"limiter reserve --api-key {serving.secret} --model gpt-4o --input-tokens 1000 --max-output-tokens 500",
            ]
        sys.stderr.write("\n".join([*lines, "  stop              Ctrl-C", "", ""]))

    return tell if example_key or sys.stderr.isatty() else None

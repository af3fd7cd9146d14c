"""`reserve`, `charge`, `headroom`: what applications ask, tried from a shell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from limiter.cli.arguments import duration, moment, read_file, tags, units
from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.lazy import example
from limiter.cli.options import Output, with_caller
from limiter.cli.output import Format, facts, table, usd, when, write, write_json
from limiter.cli.plain import plain
from limiter.cli.settlements import Actual, print_settlement, with_actual
from limiter.cli.sidecar import Place
from limiter.cli.statuses import limits_table
from limiter.client.errors import InvalidRequest
from limiter.client.requests import Principal, charge_request, headroom_request, reserve_request
from limiter.client.steps import new_request_id
from limiter.domain.errors import InvalidArgument
from limiter.v1 import limiter_pb2 as pb

Caller: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="[KEY]", help="ORG/TEAM/KEY, on trusted listeners; none: --api-key says who calls.", show_default=False
    ),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LIMITER_API_KEY",
        help="The secret of the key, instead of KEY. Others can see a command line: prefer the environment.",
    ),
]
Model: TypeAlias = Annotated[str, typer.Option(help="As callers name it; the policy's aliases apply.")]
Provider: TypeAlias = Annotated[
    str, typer.Option(help="openai, anthropic, …", show_default="found by the model's name")
]
Tags: TypeAlias = Annotated[
    list[str], typer.Option("--tag", metavar="NAME:VALUE", help="For the books, such as customer:acme; repeatable.")
]
Units: TypeAlias = Annotated[
    list[str], typer.Option("--unit", metavar="NAME=COUNT", help="Such as images=2; repeatable.")
]
RequestId: TypeAlias = Annotated[
    str | None,
    typer.Option(help="The idempotency key: the same again has one effect.", show_default="a new UUID"),
]


@example(
    "limiter reserve acme/search/bot --model gpt-4o --input-tokens 1000 --max-output-tokens 500 --tag customer:acme",
    "limiter reserve acme/search/bot --host api.openai.com --path /v1/chat/completions --body request.json",
)
@with_caller
def reserve(
    *,
    key: Caller = "",
    api_key: ApiKey = None,
    model: Model = "",
    provider: Provider = "",
    input_tokens: Annotated[int | None, typer.Option(min=0, help="The prompt's tokens.")] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=0, help="The most that the call may produce.", show_default="the policy's")
    ] = None,
    unit: Units = [],  # noqa: B006 - typer's; nobody changes it
    cost_usd: Annotated[str | None, typer.Option(metavar="USD", help="What the call costs at most, if known.")] = None,
    body: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The request for the provider, to be read by the limiter; - is standard input."),
    ] = None,
    host: Annotated[str, typer.Option(help="With --body: the provider's host.")] = "api.openai.com",
    path: Annotated[str, typer.Option(help="With --body: the path there.")] = "/v1/chat/completions",
    tag: Tags = [],  # noqa: B006 - typer's; nobody changes it
    ttl: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="When the hold ends by itself.", show_default="10m"),
    ] = None,
    request_id: RequestId = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, and change nothing.")] = False,
    all_limits: Annotated[bool, typer.Option("--all-limits", help="Show every limit, not the tightest ones.")] = False,
    consume: Annotated[bool, typer.Option("--consume", help="Admit and settle at once; no hold.")] = False,
    output: Output = Format.TABLE,
    caller: Place,
) -> None:
    """Ask for a hold, as before a model is called.

    Ends with exit code 3 if the limiter refuses.
    """
    given: dict[str, Any] = {
        "model": model,
        "provider": provider,
        "input_tokens": input_tokens,
        "max_output_tokens": max_output_tokens,
        "units": units(unit) or None,
        "cost_usd": cost_usd,
        "provider_request": (host, path, read_file(body, option="--body")) if body is not None else None,
        "tags": tags(tag),
        "ttl": ttl,
        "dry_run": dry_run,
        "all_limits": all_limits,
        "consume": consume,
        "request_id": request_id,
    }
    with caller.open() as sidecar:
        request = _built(reserve_request, given, default=_principal(key, api_key), request_id=new_request_id())
        answer: pb.ReserveResponse = sidecar.ask(sidecar.limiter.Reserve, request)
    if output is Format.JSON:
        write_json(plain(answer))
    else:
        _print_decision(answer)
    if answer.decision != pb.ReserveResponse.GRANTED:
        raise typer.Exit(ExitCode.DENIED)


@example(
    "limiter charge acme/search/bot --model gpt-4o --input-tokens 900 --output-tokens 120 --request-id batch-17",
    "limiter charge acme/search/bot --cost-usd 0.0125 --occurred-at 2026-03-01T12:00:00Z",
)
@with_caller
@with_actual
def charge(
    *,
    key: Caller = "",
    api_key: ApiKey = None,
    model: Model = "",
    provider: Provider = "",
    tag: Tags = [],  # noqa: B006 - typer's; nobody changes it
    request_id: RequestId = None,
    occurred_at: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="When it was spent.", show_default="now")
    ] = None,
    output: Output = Format.TABLE,
    actual: Actual,
    caller: Place,
) -> None:
    """Book spend that had no hold."""
    given = actual.arguments | {
        "model": model,
        "provider": provider,
        "tags": tags(tag),
        "occurred_at": occurred_at,
        "request_id": request_id,
    }
    request = _built(charge_request, given, actual.response, default=_principal(key, api_key), request_id=new_request_id())
    with caller.open() as sidecar:
        print_settlement(sidecar.ask(sidecar.limiter.Charge, request), output)


@example("limiter headroom acme/search/bot --model gpt-4o")
@with_caller
def headroom(
    *,
    key: Caller = "",
    api_key: ApiKey = None,
    model: Model = "",
    provider: Provider = "",
    output: Output = Format.TABLE,
    caller: Place,
) -> None:
    """Show what is left at every limit on a key's path."""
    request = headroom_request(model, provider, Principal(), _principal(key, api_key))
    with caller.open() as sidecar:
        answer: pb.GetHeadroomResponse = sidecar.ask(sidecar.limiter.GetHeadroom, request)
    if output is Format.JSON:
        write_json(plain(answer))
    else:
        write(limits_table(answer.limits))

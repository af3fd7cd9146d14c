"""`reserve`, `charge`, `headroom`: what applications ask, tried from a shell."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import RenderableType

from limiter.cli.arguments import duration, past, read_file, tags, units
from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.lazy import example
from limiter.cli.options import Output, with_caller
from limiter.cli.output import Format, facts, usd, when, write, write_json
from limiter.cli.plain import plain
from limiter.cli.settlements import Actual, built, print_settlement, with_actual
from limiter.cli.sidecar import Place
from limiter.cli.statuses import limits_table
from limiter.client.contract import messages as pb
from limiter.client.requests import Principal, charge_request, headroom_request, reserve_request
from limiter.client.steps import new_request_id

Caller: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="ORG/TEAM/KEY, on trusted listeners; none: --api-key says who calls.", show_default=False
    ),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LIMITER_API_KEY",
        metavar="SECRET",
        help="The secret of the key, instead of KEY. Others can see a command line: prefer the environment.",
    ),
]
Model: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="As callers name it; the policy's aliases apply.")]
Provider: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="openai, anthropic, …", show_default="found by the model's name")
]
Tags: TypeAlias = Annotated[
    list[str], typer.Option("--tag", metavar="NAME:VALUE", help="For the books, such as customer:acme; repeatable.")
]
Units: TypeAlias = Annotated[
    list[str], typer.Option("--unit", metavar="NAME=COUNT", help="Such as images=2; repeatable.")
]
RequestId: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The idempotency key: the same again has one effect.", show_default="a new UUID"),
]

InputTokens: TypeAlias = Annotated[int | None, typer.Option(metavar="N", min=0, help="The prompt's tokens.")]
MaxOutputTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="The most that the call may produce.", show_default="the policy's"),
]
CostUsd: TypeAlias = Annotated[str | None, typer.Option(metavar="USD", help="What the call costs at most, if known.")]
Body: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The request for the provider, to be read by the limiter; - is standard input."),
]
Host: TypeAlias = Annotated[str, typer.Option(metavar="HOST", help="With --body: the provider's host.")]
UrlPath: TypeAlias = Annotated[str, typer.Option("--path", metavar="PATH", help="With --body: the path there.")]
Ttl: TypeAlias = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="DURATION", help="When the hold ends by itself.", show_default="10m"),
]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Decide, and change nothing.")]
AllLimits: TypeAlias = Annotated[bool, typer.Option("--all-limits", help="Show every limit, not the tightest ones.")]
Consume: TypeAlias = Annotated[bool, typer.Option("--consume", help="Admit and settle at once; no hold.")]


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
    input_tokens: InputTokens = None,
    max_output_tokens: MaxOutputTokens = None,
    unit: Units = [],  # noqa: B006 - typer's; nobody changes it
    cost_usd: CostUsd = None,
    body: Body = None,
    host: Host = "api.openai.com",
    url_path: UrlPath = "/v1/chat/completions",
    tag: Tags = [],  # noqa: B006 - typer's; nobody changes it
    ttl: Ttl = None,
    request_id: RequestId = None,
    dry_run: DryRun = False,
    all_limits: AllLimits = False,
    consume: Consume = False,
    output: Output = Format.TABLE,
    caller: Place,
) -> None:
    """Ask for a hold, as before a model is called.

    Ends with exit code 3 if the limiter refuses.
    """
    size: dict[str, Any] = {
        "input_tokens": input_tokens,
        "max_output_tokens": max_output_tokens,
        "units": units(unit) or None,
        "cost_usd": cost_usd,
        "provider_request": None if body is None else (host, url_path, read_file(body, option="--body")),
    }
    if not consume and all(value is None for value in size.values()):
        raise CommandFailed("say how large the call can become: --input-tokens, --cost-usd or --body", ExitCode.USAGE)
    names = {"model": model, "provider": provider, "tags": tags(tag), "ttl": ttl, "request_id": request_id}
    flags = {"dry_run": dry_run, "all_limits": all_limits, "consume": consume}
    request = built(
        reserve_request, size | names | flags, default=_principal(key, api_key), request_id=new_request_id()
    )
    with caller.open() as sidecar:
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
        datetime | None,
        typer.Option(parser=past, metavar="TIME", help="When it was spent, in ISO 8601.", show_default="now"),
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
    request = built(
        charge_request, actual.response, given, default=_principal(key, api_key), request_id=new_request_id()
    )
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
        write(limits_table(answer.limits, read=True))


def _principal(key: str, api_key: str | None) -> Principal:
    """Who calls: a KEY on the command line goes before a secret in the environment."""
    if key and api_key and api_key != os.environ.get("LIMITER_API_KEY"):
        raise CommandFailed("KEY and --api-key both say who calls; give one of them", ExitCode.USAGE)
    if key:
        return Principal(key_id=key)
    if api_key:
        return Principal(api_key=api_key)
    raise CommandFailed("say who calls: ORG/TEAM/KEY, or --api-key (LIMITER_API_KEY)", ExitCode.USAGE)


def _print_decision(answer: pb.ReserveResponse) -> None:
    warnings: list[RenderableType] = []
    if answer.warnings:
        warnings += ["", limits_table(answer.warnings, title="Warnings")]
    if answer.decision == pb.ReserveResponse.GRANTED:
        repeated = " (this grant was given before)" if answer.repeated_call else ""
        rows = [
            ("granted", "dry run: nothing was held" if answer.dry_run else f"yes{repeated}"),
            ("reservation", answer.reservation),
            ("held", usd(answer.held_nanousd)),
            ("expires", when(answer.expires_at)),
            ("max output tokens", str(answer.max_output_tokens) if answer.HasField("max_output_tokens") else ""),
        ]
        write(facts(rows), "", limits_table(answer.limits), *warnings)
        return
    denial = answer.denial
    retry = f"in {denial.retry_after.ToMilliseconds() / 1000:g} s" if denial.HasField("retry_after") else "no"
    rows = [
        ("denied", f"{pb.Denial.Reason.Name(denial.reason)} (HTTP {denial.http_status})"),
        ("because", denial.message),
        ("try again", retry),
        (
            "would fit",
            f"{denial.fits_max_output_tokens} output tokens" if denial.HasField("fits_max_output_tokens") else "",
        ),
    ]
    violations: list[RenderableType] = []
    if denial.violations:
        violations += ["", limits_table(denial.violations, title="Refused by", asked=True)]
    write(facts(rows), *violations, *warnings)

"""What a call used, as options; and what the books say of it after that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from limiter.cli.arguments import read_file, units
from limiter.cli.failures import CommandFailed, ExitCode, say
from limiter.cli.options import in_place_of
from limiter.cli.output import Format, facts, usd, write, write_json
from limiter.cli.plain import plain
from limiter.client.contract import messages as pb
from limiter.client.errors import InvalidRequest

PANEL = "What was used"


@dataclass(frozen=True, slots=True)
class Response:
    """A provider's answer, as the client reads HTTP responses."""

    status_code: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Actual:
    """What was used: the provider's answer, or what the client's `settle` takes instead."""

    response: Response | None
    arguments: dict[str, Any]


def with_actual(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what was used, in place of its parameter `actual: Actual`."""
    options = list(inspect.signature(_actual, eval_str=True).parameters.values())
    return in_place_of("actual", command, options, _actual)


def built(make: Callable[..., Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - one of the client's requests
    """Make a request; raises CommandFailed for a wrong argument."""
    try:
        return make(*arguments, **named)
    except InvalidRequest as error:
        raise CommandFailed(error.message, ExitCode.USAGE) from None


def print_settlement(answer: pb.SettleResponse, output: Format) -> None:
    """Print what the books say."""
    if output is Format.JSON:
        write_json(plain(answer))
        return
    marks = [name for name, holds in (("late", answer.late), ("nothing changed", answer.repeated_call)) if holds]
    # What a repeated call says of usage is not what was booked.
    counts = plain(answer.usage) if answer.HasField("usage") and not answer.repeated_call else {}
    units_used = counts.pop("units", {})
    used = [f"{count} {name.replace('_', ' ')}" for name, count in {**counts, **units_used}.items() if count]
    rows = [
        ("state", ", ".join([pb.ReservationState.Name(answer.state), *marks])),
        ("reservation", answer.reservation),
        ("cost", usd(answer.cost_nanousd)),
        ("given back", usd(answer.released_nanousd) if answer.released_nanousd else ""),
        ("above the hold", usd(answer.overage_nanousd) if answer.overage_nanousd else ""),
        ("basis", pb.Settlement.Basis.Name(answer.basis) if answer.basis else ""),
        ("usage", ", ".join(used)),
        ("priced as", " ".join(filter(None, (answer.model, answer.price_version)))),
    ]
    write(facts(rows))
    for warning in answer.warnings:
        say(f"warning: {warning}")


def _actual(
    *,
    input_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Cached tokens included.", rich_help_panel=PANEL)
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Reasoning tokens included.", rich_help_panel=PANEL)
    ] = None,
    cache_read_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of the input tokens.", rich_help_panel=PANEL)
    ] = None,
    cache_write_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of the input tokens.", rich_help_panel=PANEL)
    ] = None,
    reasoning_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of the output tokens.", rich_help_panel=PANEL)
    ] = None,
    unit: Annotated[
        list[str],
        typer.Option("--unit", metavar="NAME=COUNT", help="Such as images=2; repeatable.", rich_help_panel=PANEL),
    ] = [],  # noqa: B006 - typer's; nobody changes it
    cost_usd: Annotated[
        str | None, typer.Option(metavar="USD", help="What it cost, instead of counts.", rich_help_panel=PANEL)
    ] = None,
    response: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The provider's answer, to be read by the limiter, instead of counts; - is the standard input.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    status: Annotated[
        int,
        typer.Option(metavar="CODE", min=100, max=599, help="With --response: its HTTP status.", rich_help_panel=PANEL),
    ] = 200,
    provider_request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The provider's id of the call, for the books.", rich_help_panel=PANEL),
    ] = None,
) -> Actual:
    body = None if response is None else Response(status, read_file(response, option="--response").encode())
    arguments: dict[str, Any] = {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_read_tokens": cache_read_tokens,
        "cache_write_tokens": cache_write_tokens,
        "reasoning_tokens": reasoning_tokens,
        "units": units(unit) or None,
        "cost_usd": cost_usd,
        "provider_request_id": provider_request_id,
    }
    return Actual(body, arguments)

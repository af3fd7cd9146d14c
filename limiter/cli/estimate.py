"""`limiter estimate`: what recorded calls would have been held for, beside what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from limiter.cli.arguments import moment, read_file
from limiter.cli.estimate_call import NO_PROVIDER, End, examine
from limiter.cli.estimate_lines import read_calls
from limiter.cli.estimate_report import as_json, parts
from limiter.cli.estimate_tally import LISTED, Tally
from limiter.cli.estimate_trace import replay_trace, trace_json, trace_parts
from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.lazy import example
from limiter.cli.options import Output
from limiter.cli.output import Format, write, write_json
from limiter.cli.replay_trace import read_trace
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Sizing
from limiter.domain.scopes import Scope
from limiter.policy.document import parse_policy
from limiter.policy.matching import KeyPolicy, resolve
from limiter.pricing.book import PriceBook
from limiter.service.trial import Trial

#: A key that no policy names: what holds for it is what holds for the whole organization.
_NOBODY: Final = "estimate"

_EMPTY_POLICY: Final = "version: 1\norganizations:\n  estimate: {}\n"


_TRACES: Final = "With a trace"


class Mode(StrEnum):
    """How a hold is sized."""

    STRICT = "strict"
    SAFE = "safe"
    LEARNED = "learned"


_Calls: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Recorded calls, one JSON object per line; gzip is unpacked, - is the standard input.",
        show_default=False,
    ),
]
_Mode: TypeAlias = Annotated[
    Mode | None,
    typer.Option(
        metavar="strict|safe|learned",
        help="Size holds as an upper bound, by a careful estimate, or by what calls of a trace cost before.",
        show_default="safe; learned with --trace",
    ),
]
_Trace: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Instead of calls, a trace as for `replay`: CSV with TIMESTAMP,ContextTokens,GeneratedTokens.",
        show_default=False,
        rich_help_panel=_TRACES,
    ),
]
_Model: TypeAlias = Annotated[str, typer.Option(help="The model that the trace is priced as.", rich_help_panel=_TRACES)]
_MostOutput: TypeAlias = Annotated[
    int, typer.Option(min=1, help="The most output that each of its calls names.", rich_help_panel=_TRACES)
]
_Prices: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Prices of your own, as for `serve`.", show_default=False),
]
_Policy: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take settings (but `estimate`: that is --mode), aliases and free models from this policy.",
        show_default=False,
    ),
]
_Key: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ORG/TEAM/KEY",
        help="Whose settings those are.",
        show_default="the policy's only organization",
    ),
]
_DefaultOutput: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="The output to hold for where a call does not say.", show_default="the policy's, or 4096"),
]
_PriceDate: TypeAlias = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help="Price the calls as of this time, such as 2025-06-30.",
        show_default="now",
    ),
]


@example(
    "limiter estimate --calls calls.jsonl.gz --mode strict",
    "limiter estimate --calls calls.jsonl --policy policy.yaml --format json",
    "limiter estimate --trace trace.csv.gz --model gpt-4o --max-output-tokens 4096",
)
def estimate(
    *,
    calls: _Calls = None,
    mode: _Mode = None,
    trace: _Trace = None,
    model: _Model = "gpt-4o",
    max_output_tokens: _MostOutput = 4096,
    prices: _Prices = None,
    policy: _Policy = None,
    key: _Key = None,
    default_max_output_tokens: _DefaultOutput = None,
    price_date: _PriceDate = None,
    form: Output = Format.TABLE,
) -> None:
    """Compare what recorded calls cost with what would have been held for them; no sidecar is needed.

    A line has host, path, query, status, content_type, request and response (JSON, the text of a stream, or
    `{"__bytes__": BASE64}`). A call is answered if it has status 200 and its answer says what was used; covered if it
    cost no more than its hold. Calls that are not, and those that cannot be read or priced, are told by their lines.
    With `--mode strict` the exit code is 1 if any answered call is uncovered or unread, or a line holds no call.

    With a trace, holds are learned call by call as a sidecar learns them for one team and model; what they would have
    been after the first 500 calls is put beside safe ones.
    """
    if (calls is None) is (trace is None):
        raise CommandFailed("name either recorded calls or a --trace: --calls FILE, or --trace FILE", ExitCode.USAGE)
    mode = mode or (Mode.SAFE if trace is None else Mode.LEARNED)
    if (mode is Mode.LEARNED) is (trace is None):
        raise InvalidArgument("--mode", mode.value, "learned is for a --trace, strict and safe are for --calls")
    trial = Trial(
        prices=PriceBook.load(prices),
        policy=_key_policy(policy, key, default_max_output_tokens),
        sizing=Sizing[mode.name],
        at_ms=int((price_date.timestamp() if price_date else time.time()) * 1000),
    )
    if calls is not None:
        _estimate_calls(calls, trial, form)
    elif trace is not None:
        _estimate_trace(trace, trial, form, model=model, max_output_tokens=max_output_tokens)


def _estimate_calls(file: Path, trial: Trial, form: Format) -> None:
    tally = Tally()
    with _progress(file.stat().st_size if file.is_file() else None, DownloadColumn()) as advance:
        for call in read_calls(file, advance):
            tally.add(examine(call, trial))
    if tally.providers.keys() <= {NO_PROVIDER}:
        first = tally.listings[LISTED[End.UNREAD]].told[:1]
        reason = f" (line {first[0][0].line}: {first[0][1]})" if first else ""
        raise InvalidArgument("--calls", str(file), f"it has no calls{reason}")
    mode = trial.sizing.name.lower()
    if form is Format.JSON:
        write_json(as_json(tally, mode=mode, price_version=trial.prices.version))
    else:
        write(*parts(tally, mode=mode, price_version=trial.prices.version))
    if trial.sizing is Sizing.STRICT and (tally.total.ends[End.UNCOVERED] or tally.total.ends[End.UNREAD]):
        raise typer.Exit(ExitCode.FAILED)


def _estimate_trace(file: Path, trial: Trial, form: Format, *, model: str, max_output_tokens: int) -> None:
    calls = read_trace(file, option="--trace")
    with _progress(len(calls), MofNCompleteColumn()) as advance:
        outcome = replay_trace(calls, trial, model=model, max_output_tokens=max_output_tokens, advance=advance)
    if form is Format.JSON:
        write_json(trace_json(outcome))
    else:
        write(*trace_parts(outcome))


def _key_policy(file: Path | None, key: str | None, default_max_output_tokens: int | None) -> KeyPolicy:
    """What the policy says of the key; of any key of its only organization where none is named."""
    if key is not None and file is None:
        raise InvalidArgument("--key", key, "name the policy that has it by --policy")
    document = parse_policy(_EMPTY_POLICY if file is None else read_file(file, option="--policy"))
    organizations = document.organizations
    if key is not None:
        scope = Scope.parse_key(key, field="--key")
    elif len(organizations) == 1:
        scope = Scope(next(iter(organizations)), _NOBODY, _NOBODY)
    else:
        raise InvalidArgument("--policy", str(file), f"it has {len(organizations)} organizations; add --key")
    if scope.organization not in organizations:
        raise InvalidArgument("--key", scope.path, f"the policy has {', '.join(organizations)}")
    found = resolve(organizations[scope.organization], key=scope, own_limits=None)
    if default_max_output_tokens is None:
        return found
    return replace(
        found, settings=replace(found.settings, default_max_output_tokens=(("*", default_max_output_tokens),))
    )


@contextmanager
def _progress(total: int | None, unit: ProgressColumn) -> Iterator[Callable[[int], object]]:
    """Show how much is done, on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), unit, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("estimate", total=total)
        yield lambda done: progress.update(task, completed=done)

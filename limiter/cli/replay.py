"""`limiter replay`: play recorded calls against a sidecar, and check that it keeps its word."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from limiter.cli.failures import ExitCode
from limiter.cli.lazy import example
from limiter.cli.options import CONNECTION, Output
from limiter.cli.output import Format, write, write_json
from limiter.cli.replay_admin import enabled_keys
from limiter.cli.replay_driver import Score
from limiter.cli.replay_report import as_json, parts
from limiter.cli.replay_run import Target, run
from limiter.cli.replay_trace import read_trace
from limiter.cli.sidecar import Place
from limiter.domain.errors import InvalidArgument
from limiter.domain.scopes import Scope
from limiter.policy.document import Policy

_Trace: TypeAlias = Annotated[
    Path, typer.Argument(metavar="TRACE", help="CSV with TIMESTAMP,ContextTokens,GeneratedTokens; .gz is unpacked")
]
_Model: TypeAlias = Annotated[str, typer.Option(help="The model that the calls are priced as.")]
_Speed: TypeAlias = Annotated[
    str, typer.Option(help="max: as fast as it goes; recorded; or a factor on the recorded speed, such as 10x.")
]
_Callers: TypeAlias = Annotated[int, typer.Option(min=1, max=10_000, help="Calls under way at the same time.")]
_Limit: TypeAlias = Annotated[int | None, typer.Option(min=1, help="Play only the first N calls.", show_default=False)]
_Keys: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORG/TEAM/KEY",
        help="Spread the calls over these keys; repeatable.",
        show_default="every key that the policy in force declares",
    ),
]
_Customers: TypeAlias = Annotated[int, typer.Option(min=1, max=100_000, help="Tag the calls with so many customers.")]
_Seed: TypeAlias = Annotated[int, typer.Option(help="Another seed spreads the calls another way.")]
_Overestimate: TypeAlias = Annotated[
    float, typer.Option(min=0.01, max=1000, help="Reserve so many times the output that the call will have.")
]
_MostOutput: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Reserve this much output for each call, instead.", show_default=False)
]
_TokensPerSecond: TypeAlias = Annotated[
    float, typer.Option(min=0.1, help="How fast the simulated model writes; not waited for at --speed max.")
]
_Retry: TypeAlias = Annotated[
    int, typer.Option(min=0, max=100, help="Ask again so often where a refusal is for now only (429).")
]
_DataDir: TypeAlias = Annotated[
    Path, typer.Option(envvar="LIMITER_DATA_DIR", help="The data directory of the sidecar.", rich_help_panel=CONNECTION)
]
_Admin: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="LIMITER_ADMIN", help="Its Admin address, instead.", show_default=False, rich_help_panel=CONNECTION
    ),
]
_AdminToken: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LIMITER_ADMIN_TOKEN",
        help="The Admin listener's token.",
        show_default=False,
        rich_help_panel=CONNECTION,
    ),
]
_Address: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="LIMITER_ADDRESS",
        help="Its address for calls (a trusted listener), instead.",
        show_default=False,
        rich_help_panel=CONNECTION,
    ),
]
_Token: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="LIMITER_TOKEN", help="That listener's token.", show_default=False, rich_help_panel=CONNECTION),
]


@example(
    "limiter replay trace.csv.gz --data-dir data",
    "limiter replay trace.csv --speed 10x --callers 200 --model claude-sonnet-4-0",
)
def replay(
    trace: _Trace,
    *,
    model: _Model = "gpt-4o",
    speed: _Speed = "max",
    callers: _Callers = 64,
    limit: _Limit = None,
    key: _Keys = None,
    customers: _Customers = 10,
    seed: _Seed = 0,
    overestimate: _Overestimate = 2.0,
    max_output_tokens: _MostOutput = None,
    tokens_per_second: _TokensPerSecond = 50.0,
    retry: _Retry = 0,
    data_dir: _DataDir = Path("data"),
    admin: _Admin = "",
    admin_token: _AdminToken = None,
    address: _Address = "",
    token: _Token = None,
    form: Output = Format.TABLE,
) -> None:
    """Replay recorded calls against a policy.

    Every call reserves, takes as long as it did, and settles. At the end every answer, counter and ledger
    row is checked against the others. The exit code is 1 if a ceiling was passed, a refusal was not
    justified, the books do not balance, or a call got no answer. Calls are made by key_id, so the
    address must be a trusted listener, as the one in the data directory is. Nobody else should spend on
    the same organizations meanwhile.
    """
    pace = read_speed(speed)
    calls = read_trace(trace, limit=limit)
    target = _target(data_dir, admin=Place(admin, token=admin_token), caller=Place(address, token=token))
    policy = target.policy()
    score = Score(
        keys=tuple(_named(key, policy) if key else enabled_keys(policy)),
        model=model,
        run=secrets.token_hex(4),
        speed=pace,
        callers=callers,
        customers=customers,
        seed=seed,
        overestimate=overestimate,
        max_output_tokens=max_output_tokens,
        tokens_per_s=tokens_per_second,
        retries=retry,
    )
    outcome = run(target, policy, calls, score, name=str(trace))
    if form is Format.JSON:
        write_json(as_json(outcome))
    else:
        write(*parts(outcome))
    if not outcome.kept:
        raise typer.Exit(ExitCode.FAILED)
    if not outcome.complete:
        raise typer.Exit(ExitCode.INTERRUPTED)


def _target(data_dir: Path, *, admin: Place, caller: Place) -> Target:
    """Take the sidecar of a data directory, but for the addresses that were given."""
    found = Target.of(data_dir)
    return Target(
        caller=caller if caller.address else replace(found.caller, token=caller.token),
        admin=admin if admin.address else replace(found.admin, token=admin.token),
    )


def read_speed(text: str) -> float:
    """Read max (0), recorded (1) or a factor such as 10x."""
    if text in ("max", "recorded"):
        return 0.0 if text == "max" else 1.0
    with contextlib.suppress(ValueError):
        factor = float(text.removesuffix("x"))
        if text.endswith("x") and 0.001 <= factor <= 1_000_000:
            return factor
    raise InvalidArgument("--speed", text, "write max, recorded, or a factor such as 10x")


def _named(keys: list[str], policy: Policy) -> list[str]:
    named = [Scope.parse_key(each, field="--key") for each in keys]
    for key in named:
        if key.organization not in policy.organizations:
            raise InvalidArgument("--key", key.path, f"no policy is in force for {key.organization}; apply one first")
    return [key.path for key in named]

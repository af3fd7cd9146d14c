"""`check`, `apply`, `policy show`, `schema`: policies from a shell."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from limiter.cli.arguments import read_file
from limiter.cli.failures import ExitCode, say
from limiter.cli.lazy import example
from limiter.cli.options import Output, with_admin
from limiter.cli.output import Format, facts, table, usd, write, write_json
from limiter.cli.plain import plain
from limiter.cli.sidecar import Place
from limiter.client.contract import messages as pb
from limiter.policy.document import Policy, PolicyInvalid, parse_policy
from limiter.policy.schema import schema_text

File: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FILE", help="A policy in YAML; - is the standard input.", show_default=False)
]


@example("limiter check policy.yaml")
def check(*, file: File, output: Output = Format.TABLE) -> None:
    """Check a policy file; no sidecar is needed.

    Prints every mistake with its path, and ends with exit code 1 if there is one.
    """
    try:
        policy = parse_policy(read_file(file, option="FILE"))
    except PolicyInvalid as error:
        print_mistakes(error, file, output)
        raise typer.Exit(ExitCode.FAILED) from None
    counts = _counts(policy)
    if output is Format.JSON:
        write_json({"valid": True, "mistakes": [], **counts})
    else:
        write(f"{file} is valid: {', '.join(counted(*pair) for pair in counts.items())}")


@example("limiter apply policy.yaml --dry-run", "limiter apply policy.yaml")
@with_admin
def apply(
    *,
    file: File,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Put a policy file in force, and print what changes.

    Each organization that the file names is replaced in one step; others stay as they are, and so do keys that the
    file does not declare.
    """
    text = read_file(file, option="FILE")
    try:
        parse_policy(text)
    except PolicyInvalid as error:
        print_mistakes(error, file, output)
        raise typer.Exit(ExitCode.USAGE) from None
    with admin.open() as sidecar:
        answer: pb.ApplyPolicyResponse = sidecar.ask(
            sidecar.admin.ApplyPolicy, pb.ApplyPolicyRequest(policy_yaml=text, dry_run=dry_run)
        )
    if output is Format.JSON:
        write_json({"dry_run": dry_run, **plain(answer)})
        return
    if answer.changes:
        columns = ("organization", "path", "change", "before", "after")
        write(table(columns, ([getattr(change, column) for column in columns] for change in answer.changes)))
    if answer.openings:
        rows = ([f"{opening.scope} {opening.limit}", opening.window, _start(opening)] for opening in answer.openings)
        write("")
        write(table(("new limit", "window", "starts at"), rows))
    for note in answer.notes:
        say(f"note: {note}")
    versions = ", ".join(f"{name} (version {version})" for name, version in sorted(answer.versions.items()))
    if not answer.changes:
        write(f"nothing changes: {versions}")
    else:
        write(f"not applied, as asked: {versions}" if dry_run else f"applied: {versions}")


@example("limiter policy show acme > acme.yaml")
@with_admin
def show(
    *,
    organization: Annotated[
        str, typer.Argument(metavar="ORG", help="An organization; none: all.", show_default=False)
    ] = "",
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Print the policy in force as YAML."""
    with admin.open() as sidecar:
        answer: pb.GetPolicyResponse = sidecar.ask(
            sidecar.admin.GetPolicy, pb.GetPolicyRequest(organization=organization)
        )
    if output is Format.JSON:
        write_json(plain(answer))
    else:
        sys.stdout.write(answer.policy_yaml)


@example("limiter schema > policy.schema.json")
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    sys.stdout.write(schema_text())


def _start(opening: pb.Opening) -> str:
    """What a new limit starts from, as it is known by now."""
    amount = usd(opening.amount_nanousd)
    return f"pending: {amount} so far" if opening.pending else amount


def _counts(policy: Policy) -> dict[str, int]:
    organizations = [organization.rules for organization in policy.organizations.values()]
    teams = [team for organization in organizations for team in organization.teams.values()]
    keys = [key for team in teams for key in team.keys.values()]
    limits = sum(len(organization.limits) for organization in organizations)
    limits += sum(len(team.limits) + len(team.key_defaults.limits or ()) for team in teams)
    limits += sum(len(key.limits or ()) for key in keys)
    return {"organizations": len(organizations), "teams": len(teams), "keys": len(keys), "limits": limits}


def print_mistakes(error: PolicyInvalid, file: Path, output: Format) -> None:
    """Print every mistake in a policy file, with its path."""
    if output is Format.JSON:
        write_json({"valid": False, "mistakes": [asdict(mistake) for mistake in error.mistakes]})
        return
    write(facts((mistake.path or "document", mistake.message) for mistake in error.mistakes))
    say(f"limiter: {file} is not valid: {counted('mistakes', len(error.mistakes))}")


def counted(things: str, count: int) -> str:
    """Write how many there are: `1 team`, `2 teams`."""
    return f"{count} {things.removesuffix('s') if count == 1 else things}"

"""`keys …`: mint, import, list, rotate, disable and enable keys."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.cli.arguments import duration, moment, read_file
from limiter.cli.failures import CommandFailed, ExitCode, say
from limiter.cli.lazy import example
from limiter.cli.options import Key, Output, Scope, with_admin
from limiter.cli.output import Format, facts, table, when, write, write_json
from limiter.cli.plain import plain, plain_all
from limiter.cli.sidecar import Place, Sidecar
from limiter.client.contract import messages as pb
from limiter.domain.errors import InvalidArgument

PAGE = 1_000

Limits: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Limits of the key's own: a YAML list as under limits: in a policy; - is the standard input.",
        show_default="the policy's",
    ),
]
Expires: TypeAlias = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help="When the key stops working: 2030-12-31T18:00:00Z, or from now: 30d.",
        show_default="never",
    ),
]


@example(
    "limiter keys create acme/search/bot --format json",
    "echo '[{id: daily, spend: 5, per: day}]' | limiter keys create acme/search/customer-17 --limits - --expires 30d",
)
@with_admin
def create(
    *, key: Key, limits: Limits = None, expires: Expires = None, output: Output = Format.TABLE, admin: Place
) -> None:
    """Mint a key; its secret is shown this once."""
    request = pb.CreateKeyRequest(key=key, limits_yaml=_limits(limits), expires_at=_timestamp(expires))
    with admin.open() as sidecar:
        _print_minted(sidecar.ask(sidecar.admin.CreateKey, request), output)


@example("limiter keys import acme/search/bot < secret.txt")
@with_admin
def import_(
    *,
    key: Key,
    secret_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the secret stands.", show_default="the standard input, or a prompt"),
    ] = None,
    limits: Limits = None,
    expires: Expires = None,
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Register a secret that exists elsewhere.

    Only its digest is kept. It is no argument, because others can see a command line.
    """
    if secret_file is None and str(limits) == "-":
        raise CommandFailed(
            "the standard input is the secret; name a --secret-file, or a file of limits", ExitCode.USAGE
        )
    request = pb.ImportKeyRequest(
        key=key, secret=_secret(secret_file), limits_yaml=_limits(limits), expires_at=_timestamp(expires)
    )
    with admin.open() as sidecar:
        _print_minted(sidecar.ask(sidecar.admin.ImportKey, request), output)


@example("limiter keys list acme/search")
@with_admin
def list_(*, scope: Scope = "", output: Output = Format.TABLE, admin: Place) -> None:
    """List the keys that have a secret."""
    with admin.open() as sidecar:
        found = list(all_keys(sidecar, scope))
    if output is Format.JSON:
        write_json(plain_all(found))
        return
    columns = ("key", "enabled", "expires", "limits", "secrets", "created")
    write(table(columns, ([cells[column] for column in columns] for cells in map(_cells, found))))


@example("limiter keys rotate acme/search/bot --overlap 2h")
@with_admin
def rotate(
    *,
    key: Key,
    overlap: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration, metavar="DURATION", help="How long the older secrets still work.", show_default="24h"
        ),
    ] = None,
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Mint a further secret; the older ones end after a while."""
    request = pb.RotateKeyRequest(key=key)
    if overlap is not None:
        request.overlap.CopyFrom(_duration(overlap))
    with admin.open() as sidecar:
        _print_minted(sidecar.ask(sidecar.admin.RotateKey, request), output)


@example("limiter keys update acme/search/bot --expires 30d", "limiter keys update acme/search/bot --policy-limits")
@with_admin
def update(
    *,
    key: Key,
    expires: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="When the key stops working; as for create.")
    ] = None,
    no_expiry: Annotated[bool, typer.Option("--no-expiry", help="Let the key live for ever.")] = False,
    limits: Annotated[Path | None, typer.Option(metavar="FILE", help="Limits of the key's own; as for create.")] = None,
    policy_limits: Annotated[bool, typer.Option("--policy-limits", help="Back to the policy's limits.")] = False,
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Set a key's expiry or its limits."""
    if expires is not None and no_expiry:
        raise CommandFailed("--expires and --no-expiry exclude each other; give one of them", ExitCode.USAGE)
    if limits is not None and policy_limits:
        raise CommandFailed("--limits and --policy-limits exclude each other; give one of them", ExitCode.USAGE)
    if expires is None and limits is None and not (no_expiry or policy_limits):
        raise CommandFailed("say what is new: --expires, --no-expiry, --limits or --policy-limits", ExitCode.USAGE)
    request = pb.UpdateKeyRequest(key=key, expires_at=_timestamp(expires), clear_expiry=no_expiry)
    if limits is not None or policy_limits:
        request.limits_yaml = _limits(limits)
    _update(request, output, admin)


@example("limiter keys disable acme/search/bot")
@with_admin
def disable(*, key: Key, output: Output = Format.TABLE, admin: Place) -> None:
    """Refuse a key from its next call on."""
    _update(pb.UpdateKeyRequest(key=key, enabled=False), output, admin)


@example("limiter keys enable acme/search/bot")
@with_admin
def enable(*, key: Key, output: Output = Format.TABLE, admin: Place) -> None:
    """Let a disabled key call again."""
    _update(pb.UpdateKeyRequest(key=key, enabled=True), output, admin)


def all_keys(sidecar: Sidecar, scope: str) -> Iterator[pb.Key]:
    """Yield the keys of a scope, page by page; an ORG/TEAM/KEY is one key."""
    wanted, under = scope, "/".join(scope.split("/")[:2])
    token = ""
    while True:
        request = pb.ListKeysRequest(scope=under, page_size=PAGE, page_token=token)
        answer: pb.ListKeysResponse = sidecar.ask(sidecar.admin.ListKeys, request)
        yield from (key for key in answer.keys if wanted in ("", under, key.key))
        token = answer.next_page_token
        if not token:
            return


def key_facts(key: pb.Key) -> list[tuple[str, str]]:
    """What is known of a key, for people."""
    return list(_cells(key).items())


def _update(request: pb.UpdateKeyRequest, output: Format, admin: Place) -> None:
    with admin.open() as sidecar:
        key: pb.Key = sidecar.ask(sidecar.admin.UpdateKey, request)
    if output is Format.JSON:
        write_json(plain(key))
    else:
        write(facts(key_facts(key)))


def _print_minted(answer: pb.CreateKeyResponse, output: Format) -> None:
    if output is Format.JSON:
        known = plain(answer.key)
        minted: dict[str, Any] = {"key": known.pop("key")}
        if answer.secret:
            minted["secret"] = answer.secret
        write_json(minted | known)
        return
    known_facts = key_facts(answer.key)
    write(facts([known_facts[0], ("secret", answer.secret), *known_facts[1:]]))
    if answer.secret:
        say("The secret is shown this once; only its digest is kept.")


def _cells(key: pb.Key) -> dict[str, str]:
    return {
        "key": key.key,
        "enabled": "yes" if key.enabled else "no",
        "expires": when(key.expires_at) or "never",
        "limits": "its own" if key.limits_yaml else "the policy's",
        "secrets": ", ".join(_secret_text(secret) for secret in key.secrets),
        "created": when(key.created_at),
    }


def _secret_text(secret: pb.Key.Secret) -> str:
    end = when(secret.not_after)
    return f"…{secret.hint} until {end}" if end else f"…{secret.hint}"


def _limits(file: Path | None) -> str:
    if file is None:
        return ""
    text = read_file(file, option="--limits")
    if not text.strip():  # which the contract would take for "the policy's"
        raise InvalidArgument("--limits", str(file), "it is empty; write [] for a key without limits")
    return text


def _secret(file: Path | None) -> str:
    if file is not None:
        return read_file(file, option="--secret-file").strip()
    if sys.stdin.isatty():
        return getpass.getpass("Secret: ").strip()
    return sys.stdin.read().strip()


def _timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    made = Timestamp()
    made.FromDatetime(at)
    return made


def _duration(length: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(length)
    return made

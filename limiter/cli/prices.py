"""`prices show|import|diff`: what models cost, from a shell; no sidecar is needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeAlias

import typer

from limiter.cli.arguments import moment
from limiter.cli.failures import CommandFailed, ExitCode, say
from limiter.cli.lazy import example
from limiter.cli.options import Output
from limiter.cli.output import Format, table, write, write_json
from limiter.cli.price_table import plain, show_table
from limiter.domain.errors import InvalidArgument
from limiter.pricing import comparing
from limiter.pricing.book import PriceBook
from limiter.pricing.built_in import only_unpriced
from limiter.pricing.explaining import close_names, explain
from limiter.pricing.litellm import import_limits, import_prices, read_list
from limiter.pricing.litellm_listed import Listed
from limiter.pricing.overrides import read_overrides
from limiter.pricing.price_file import write_json as as_json
from limiter.pricing.price_file import write_limits, write_yaml

_BUILT_IN: Final = "builtin"


_LAYERS: Final = {
    "file": "the price file",
    "genai-prices": "genai-prices",
    "built-in": "the prices that Limiter brings",
}

PricesFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--prices", envvar="LIMITER_PRICES", metavar="FILE", help="A file with prices of your own."),
]
At: TypeAlias = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="TIME", help="When the call is made, in ISO 8601.", show_default="now"),
]


@example(
    "limiter prices show gpt-4o",
    "limiter prices show dall-e-3 --context size=1792x1024 --context quality=hd",
    "limiter prices show my-model --prices prices.yaml --at 2027-01-01 --format json",
)
def show(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As calls name it.", show_default=False)],
    provider: Annotated[str, typer.Option(metavar="NAME", help="Who serves it.", show_default="by the model")] = "",
    at: At = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="TERM=VALUE", help="A term of the call, such as service_tier=flex."),
    ] = None,
    prices: PricesFile = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what a model costs, and why.

    Tells each unit's price, tiers by the input's size, other terms, when it changes, and where it is from. A model
    without a price ends with exit code 1.
    """
    book = PriceBook.load(prices)
    at_ms = int((time.time() if at is None else at.timestamp()) * 1000)
    terms = _terms(context or [])
    found = explain(book, provider=provider, model=model, at_ms=at_ms, context=terms)
    if found is None:
        _refuse(book, model, provider)
    if output is Format.JSON:
        write_json(plain(found, at_ms, terms))
    else:
        show_table(found, terms)


@example(
    "limiter prices import model_prices_and_context_window.json --provider deepinfra -o prices.yaml",
    "limiter prices import model_prices_and_context_window.json --only 'gpt-*' --only 'o?*' -o prices.yaml",
)
def import_(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="LITELLM.json",
            help="LiteLLM's list of models; of several files, each adds what those before it do not list.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="JSON if named .json.", show_default="the standard output"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Models with such a name.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--except", metavar="GLOB", help="All but models with such a name.")
    ] = None,
    provider: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Models of this provider.")] = None,
    mode: Annotated[
        list[str] | None, typer.Option(metavar="MODE", help="Models of this mode, such as image_generation.")
    ] = None,
    unpriced: Annotated[bool, typer.Option("--unpriced", help="Only what genai-prices has no price for.")] = False,
    limits: Annotated[bool, typer.Option("--limits", help="The models' limits instead of their prices.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Write a price file from LiteLLM's list of models.

    Prices keep every digit. What a price file cannot say is listed at its end (for a .json file, on the standard
    error). Look at the file before you use it: it wins over the prices that Limiter brings.
    """
    day = datetime.now(UTC).date().isoformat()
    listed: dict[str, Listed] = {}
    for file in reversed(files):
        listed |= read_list(file, origin=f"{file.stem}, read {day}")
    chosen = {
        name: one
        for name, one in listed.items()
        if _wanted(one, only, provider, mode) and not (without and _named(one, without))
    }
    head = {"date": day, "source": ", ".join(file.name for file in files), "licence": "MIT, (c) Berri AI"}
    notes: list[str] = []
    if limits:
        found = import_limits(chosen)
        count, text = sum(map(len, found.values())), write_limits(found, head=head)
    else:
        made = import_prices(chosen)
        entries, notes = made.entries, made.left_out
        if unpriced:
            entries = list(only_unpriced(entries, is_priced=_is_priced(PriceBook.quoted())))
        count = len(entries)
        to_json = target is not None and target.suffix == ".json"
        text = as_json(entries, head=head) if to_json else write_yaml(entries, head=head, notes=notes)
        for note in notes if to_json else ():
            say(f"left out: {note}")
    _hand_over(target, text, count, notes, output)


@example("limiter prices diff prices.yaml builtin", "limiter prices diff old.yaml new.yaml --format json")
def diff(
    *,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A price file, or `builtin`.", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="A price file, or `builtin`.", show_default=False)],
    at: At = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what differs between two lists of prices.

    `builtin` are the prices that Limiter brings, of those models that the other list names. Ends with exit code 0 if
    nothing differs, and with 1 if something does.
    """
    at_ms = int((time.time() if at is None else at.timestamp()) * 1000)
    entries = {name: [] if name == _BUILT_IN else list(read_overrides(Path(name))[0]) for name in (old, new)}
    if _BUILT_IN in entries:
        other = next((name for name in (old, new) if name != _BUILT_IN), _BUILT_IN)
        expanded, brought = comparing.built_in(PriceBook.load(), entries[other], at_ms=at_ms)
        lists = {_BUILT_IN: brought, other: comparing.listed(expanded)} if other != _BUILT_IN else {_BUILT_IN: brought}
    else:
        lists = {name: comparing.listed(found) for name, found in entries.items()}
    found = list(comparing.differences(lists[old], lists[new]))
    if output is Format.JSON:
        write_json([_difference(one) for one in found])
    elif found:
        rows = ([str(one.subject), one.unit, one.old or "—", one.new or "—", one.percent] for one in found)
        write(table(("model", "unit", "old>", "new>", "change>"), rows))
    else:
        write("nothing differs")
    if found:
        raise typer.Exit(ExitCode.FAILED)


def _difference(one: comparing.Difference) -> dict[str, Any]:
    return {**one.subject._asdict(), "unit": one.unit, "old": one.old, "new": one.new, "change": one.percent or None}


def _terms(texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        term, _, value = text.partition("=")
        if not term or not value or term in found:
            raise InvalidArgument("--context", text, "write TERM=VALUE, such as service_tier=flex, each term once")
        found[term] = value
    return found


def _wanted(one: Listed, only: list[str] | None, providers: list[str] | None, modes: list[str] | None) -> bool:
    return (
        (not only or _named(one, only))
        and (not providers or one.about.provider in providers)
        and (not modes or one.mode in modes)
    )


def _named(one: Listed, globs: list[str]) -> bool:
    names = (one.name.lower(), one.about.model.lower())
    return any(fnmatchcase(name, glob.lower()) for name in names for glob in globs)


def _is_priced(book: PriceBook) -> Callable[[str, str], bool]:
    now_ms = int(time.time() * 1000)
    return lambda provider, model: book.find(provider=provider, model=model, at_ms=now_ms) is not None


def _hand_over(target: Path | None, text: str, count: int, notes: Sequence[str], output: Format) -> None:
    if not count:
        say("no entry: nothing in the list fits what was chosen")
    if target is None:
        sys.stdout.write(text)
        return
    _save(target, text)
    if output is Format.JSON:
        write_json({"file": str(target), "entries": count, "left_out": list(notes)})
    else:
        write(f"{target}: {count} entries; {len(notes)} prices left out")


def _save(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument("--output", str(target), f"name a file that can be written ({error.strerror})") from None


def _refuse(book: PriceBook, model: str, provider: str) -> NoReturn:
    name = f"{provider}/{model}" if provider else model
    if lenders := book.match(provider, model).lenders:
        raise CommandFailed(
            f"{name} is offered by {', '.join(lenders)}, each at its own price. Without a provider it has none, so its "
            "calls are refused. Name the provider (--provider), or price the name in a file (--prices)."
        )
    close = close_names(book, model)
    alike = f" Names like it: {', '.join(close)}." if close else ""
    raise CommandFailed(
        f"{name} has no price, so its calls are refused.{alike} Price it in a file (--prices), make the name an alias "
        "of a priced model in the policy, or name it there under `free`."
    )

"""Prices of one's own: a YAML file (or the same in JSON, named .json) whose entries win over genai-prices.

::

    version: 1
    models:
      - provider: openai              # left out: any provider
        match: "my-model*"            # glob on the model's name, letter case aside
        input_per_million: "2.50"     # USD per million tokens
        output_per_million: "10"
        cache_read_per_million: "0.25"    # left out: cached input costs what input costs
        cache_write_per_million: "3.125"
        reasoning_per_million: "10"       # left out: as output
        per_request: "0.005"              # USD per call
        units: {images: "0.04", audio_seconds: "0.0001"}   # USD per single unit
        above_200000:                     # of calls with more input tokens: what changes for all of the call
          input_per_million: "5"
        context_window: 128000
        max_output_tokens: 16384
        from: 2026-01-01              # 0:00 UTC; left out: always
        source: "https://example.com/pricing"
      - {provider: openai, match: painter, units: {images: "0.04"}}
      - {provider: openai, match: painter, units: {images: "0.08"}, when: {quality: hd}}   # variants follow the base
      - {match: painter-2, held_units: {images: "0.25"}}   # billed by tokens; what a hold takes for each image
      - {provider: openai, match: "gpt-*", adds: true, units: {web_searches: "0.008"}}   # whatever prices the model

Of the entries that match a model and a call's terms (`when`) and have begun, the last one counts, and counts whole:
what it does not price has no price. An entry that has nothing but `held_units` prices nothing: it adds to the holds of
a model that has a price elsewhere. So does one that `adds` to what calls are charged: see
:mod:`limiter.pricing.additions`. Amounts are read digit by digit, quoted or not; they never become floats. Unit
names are those of genai-prices (see :mod:`limiter.pricing.units`) or any others that callers will use. Which terms a
call has, and what a hold takes for those that it does not tell: :mod:`limiter.pricing.selection`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Never

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from limiter.domain.calls import COUNT_MAX
from limiter.domain.errors import SHOWN_VALUE_MAX, InvalidArgument, LimiterError
from limiter.domain.money import NANOUSD_PER_USD
from limiter.pricing.exact import Literal as Written
from limiter.pricing.exact import read_json, read_yaml, unreadable
from limiter.pricing.sheets import PriceSheet
from limiter.pricing.units import REQUESTS, RESERVED

_AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?", re.ASCII)
_AMOUNT_RULE: Final = 'write a decimal number of USD, such as "2.50", at most 9 digits before the point and 18 after it'
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_NAME_RULE: Final = "use 1 to 64 of a-z, 0-9 and _, beginning with a letter"
_ABOVE: Final = re.compile(r"above_([1-9][0-9]{0,11})", re.ASCII)

#: How a file's tiers are known among the fields of an entry: by any number of tokens.
ABOVE: Final = "above_<tokens>"


class PricesInvalid(InvalidArgument):
    """A file of prices cannot be used. `mistakes` are all of them, each with its path in the file."""

    def __init__(self, file: Path, mistakes: list[str]) -> None:
        self.field, self.remedy = "prices", "correct the mistakes listed"
        self.mistakes = tuple(mistakes)
        LimiterError.__init__(self, "\n".join(f"{file}: {mistake}" for mistake in mistakes))


def _refuse(value: object, remedy: str) -> Never:
    shown = repr(str(value)) if isinstance(value, Written) else repr(value)
    raise PydanticCustomError("limiter", "{shown} is not valid; {remedy}", {"shown": shown, "remedy": remedy})


def _amount(value: object) -> Fraction:
    if not isinstance(value, str) or _AMOUNT.fullmatch(value) is None:
        _refuse(value, _AMOUNT_RULE)
    return Fraction(value) * NANOUSD_PER_USD


def _count(value: object) -> int:
    if not isinstance(value, Written) or not value.isdecimal() or not 1 <= int(value[:14]) <= COUNT_MAX:
        _refuse(value, f"write a whole number from 1 to {COUNT_MAX}")
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, Written) or not 1 <= len(value) <= 512:
        _refuse(value, "write a text of 1 to 512 characters, quoted if it looks like a number")
    return value


def _day(value: object) -> date:
    if isinstance(value, str):  # as JSON has it
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    if not isinstance(value, date) or isinstance(value, datetime):
        _refuse(value, "write a day, such as 2026-01-01, without a time")
    return value


def _unit(value: object) -> str:
    if value in RESERVED:
        _refuse(value, "it has a field of its own (input_per_million, …, per_request)")
    return _term(value)


def _term(value: object) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        _refuse(value, _NAME_RULE)
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(value, "write true or false")
    return value


def _version(value: object) -> int:
    if not isinstance(value, Written) or value != "1":
        _refuse(value, "this release reads version 1")
    return 1


_Amount = Annotated[Fraction, BeforeValidator(_amount)]
_Count = Annotated[int, BeforeValidator(_count)]
_Text = Annotated[str, BeforeValidator(_text)]
_Unit = Annotated[str, BeforeValidator(_unit)]
_Term = Annotated[str, BeforeValidator(_term)]


class _Prices(BaseModel):
    """Amounts are nano-USD, per million tokens where the name says so."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    input_per_million: _Amount | None = None
    output_per_million: _Amount | None = None
    cache_read_per_million: _Amount | None = None
    cache_write_per_million: _Amount | None = None
    reasoning_per_million: _Amount | None = None
    per_request: _Amount | None = None
    units: dict[_Unit, _Amount] = {}

    def by_unit(self) -> dict[str, Fraction]:
        """Return the prices that are given, each for a single unit."""
        per_million = {
            "input_tokens": self.input_per_million,
            "output_tokens": self.output_per_million,
            "cache_read_tokens": self.cache_read_per_million,
            "cache_write_tokens": self.cache_write_per_million,
            "output_reasoning_tokens": self.reasoning_per_million,
        }
        prices = {unit: price / 1_000_000 for unit, price in per_million.items() if price is not None}
        if self.per_request is not None:
            prices[REQUESTS] = self.per_request
        return prices | self.units


class Override(_Prices):
    """One entry of the file."""

    provider: _Text | None = None
    match: _Text
    when: dict[_Term, _Text] = {}
    adds: Annotated[bool, BeforeValidator(_flag)] = False
    held_units: dict[_Unit, _Amount] = {}
    tiers: dict[str, _Prices] = Field(default={}, alias=ABOVE)
    context_window: _Count | None = None
    max_output_tokens: _Count | None = None
    begins: Annotated[date, BeforeValidator(_day)] | None = Field(default=None, alias="from")
    source: _Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _gather_tiers(cls, entry: object) -> object:
        if not isinstance(entry, dict) or ABOVE in entry:
            return entry
        tiers = {name: value for name, value in entry.items() if isinstance(name, str) and _ABOVE.fullmatch(name)}
        return {name: value for name, value in entry.items() if name not in tiers} | ({ABOVE: tiers} if tiers else {})

    @model_validator(mode="after")
    def _prices_something(self) -> Override:
        base = self.by_unit()
        if not base and (self.tiers or not self.held_units):
            raise PydanticCustomError("limiter", "no price is given; write 0 for what is free")
        if self.adds and (base.keys() != self.units.keys() or self.tiers or self.held_units):
            raise PydanticCustomError("limiter", "it adds units to the price of a model: give it units, and no others")
        for name, tier in self.tiers.items():
            if unknown := sorted(tier.by_unit().keys() - base.keys()):
                message = "{tier} prices {units}, which the entry itself does not; price it there, too"
                raise PydanticCustomError("limiter", message, {"tier": name, "units": ", ".join(unknown)})
        return self

    @property
    def prices(self) -> bool:
        """Whether it prices a model, and is no addition to its price or to what holds take."""
        return not self.adds and bool(self.by_unit())

    @property
    def begins_ms(self) -> int | None:
        """The first instant of the price, in ms since the epoch; None: it was always there."""
        if self.begins is None:
            return None
        midnight = datetime(self.begins.year, self.begins.month, self.begins.day, tzinfo=UTC)
        return int(midnight.timestamp()) * 1000

    def sheet(self) -> PriceSheet:
        """Return its prices per unit; a tier costs what the one below costs where it says nothing else."""
        tiers = sorted((int(name.removeprefix("above_")), tier.by_unit()) for name, tier in self.tiers.items())
        rows = [self.by_unit()]
        for _, changed in tiers:
            rows.append(rows[-1] | changed)
        return PriceSheet(
            tuple(start for start, _ in tiers), {unit: tuple(row[unit] for row in rows) for unit in rows[0]}
        )

    def held_sheet(self) -> PriceSheet:
        """Return what holds take beside the prices."""
        return PriceSheet((), {unit: (price,) for unit, price in self.held_units.items()})

    def described(self) -> dict[str, object]:
        """Return where the price is from, ready for JSON."""
        found: dict[str, object] = {"match": self.match}
        if self.when:
            found["when"] = dict(self.when)
        return found | ({"source": self.source} if self.source else {})


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[Literal[1], BeforeValidator(_version)]
    made: Annotated[date, BeforeValidator(_day)] | None = Field(default=None, alias="date")
    source: _Text | None = None
    licence: _Text | None = None
    models: tuple[Override, ...]


def read_overrides(file: Path) -> tuple[tuple[Override, ...], str]:
    """Read a file of prices: its entries, and the SHA-256 of its bytes in hexadecimal.

    Raises PricesInvalid listing every mistake, also if the file cannot be read.
    """
    try:
        content = file.read_bytes()
        document = read_json(content) if file.suffix == ".json" else read_yaml(content)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise PricesInvalid(file, [unreadable(error)]) from None
    if not isinstance(document, dict):
        raise PricesInvalid(file, ["write a mapping with version and models"])
    try:
        models = _Document.model_validate(document).models
    except ValidationError as error:
        raise PricesInvalid(file, [_sentence(dict(mistake)) for mistake in error.errors()]) from None
    _refuse_repetition(file, models)
    return models, hashlib.sha256(content).hexdigest()


def _refuse_repetition(file: Path, models: Iterable[Override]) -> None:
    mistakes: list[str] = []
    first: dict[object, int] = {}
    for index, entry in enumerate(models):
        when = frozenset((term, value.lower()) for term, value in entry.when.items())
        kind = (entry.prices, entry.adds)
        subject = (entry.provider and entry.provider.lower(), entry.match.lower(), entry.begins, when, kind)
        if subject in first:
            mistakes.append(f"models[{index}]: repeats models[{first[subject]}]; keep one of them")
        first.setdefault(subject, index)
    if mistakes:
        raise PricesInvalid(file, mistakes)


def _sentence(mistake: Mapping[str, Any]) -> str:
    """Write `models[2].units.images: what is wrong; what to do`."""
    steps = [step for step in mistake["loc"] if step not in ("[key]", ABOVE)]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
    if mistake["type"] == "extra_forbidden":
        return f"{path}: unknown field; {_known(mistake['loc'])}"
    if mistake["type"] == "missing":
        return f"{path}: is missing"
    shown = "" if mistake["type"] == "limiter" else f"{repr(mistake['input'])[:SHOWN_VALUE_MAX]} is not valid; "
    return f"{path}: {shown}{mistake['msg']}"


def _known(place: tuple[object, ...]) -> str:
    model = _Document if len(place) == 1 else _Prices if ABOVE in place[:-1] else Override
    fields: Mapping[str, Any] = model.model_fields
    first = {name: fields[name] for name in ("provider", "match") if name in fields}
    return "known are " + ", ".join(info.alias or name for name, info in {**first, **fields}.items())

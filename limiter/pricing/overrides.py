"""Prices of one's own: a YAML file whose entries win over genai-prices.

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
        units: {images: "0.04", audio_seconds: "0.0001"}   # USD per unit
        context_window: 128000
        max_output_tokens: 16384
        from: 2026-01-01              # 0:00 UTC; left out: always
        source: "https://example.com/pricing"

Of the entries that match a model and have begun, the last one counts, and counts whole: what it does not
price has no price. Amounts are read digit by digit, quoted or not; they never become floats. Unit names
are those of genai-prices (see :mod:`limiter.pricing.units`) or any others that callers will use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from fnmatch import translate
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Never

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from limiter.domain.calls import COUNT_MAX
from limiter.domain.errors import SHOWN_VALUE_MAX, LimiterError
from limiter.domain.money import NANOUSD_PER_USD
from limiter.pricing.sheets import PriceSheet
from limiter.pricing.units import REQUESTS, RESERVED

_AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?", re.ASCII)
_AMOUNT_RULE: Final = 'write a decimal number of USD, such as "2.50", at most 9 digits before the point and 18 after it'
_UNIT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_UNIT_RULE: Final = "use 1 to 64 of a-z, 0-9 and _, beginning with a letter"


class PricesInvalid(LimiterError):
    """A file of prices cannot be used. `mistakes` are all of them, each with its path in the file."""

    def __init__(self, file: Path, mistakes: list[str]) -> None:
        super().__init__("\n".join(f"{file}: {mistake}" for mistake in mistakes))
        self.mistakes = tuple(mistakes)


class _Literal(str):
    """An unquoted number, as it stands in the file."""

    __slots__ = ()


def _refuse(value: object, remedy: str) -> Never:
    shown = repr(str(value)) if isinstance(value, _Literal) else repr(value)
    raise PydanticCustomError("limiter", "{shown} is not valid; {remedy}", {"shown": shown, "remedy": remedy})


def _amount(value: object) -> Fraction:
    if not isinstance(value, str) or _AMOUNT.fullmatch(value) is None:
        _refuse(value, _AMOUNT_RULE)
    return Fraction(value) * NANOUSD_PER_USD


def _count(value: object) -> int:
    if not isinstance(value, _Literal) or not value.isdecimal() or not 1 <= int(value[:14]) <= COUNT_MAX:
        _refuse(value, f"write a whole number from 1 to {COUNT_MAX}")
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, _Literal) or not 1 <= len(value) <= 512:
        _refuse(value, "write a text of 1 to 512 characters, quoted if it looks like a number")
    return value


def _day(value: object) -> date:
    if not isinstance(value, date) or isinstance(value, datetime):
        _refuse(value, "write a day, such as 2026-01-01, without a time")
    return value


def _unit(value: object) -> str:
    if not isinstance(value, str) or _UNIT.fullmatch(value) is None:
        _refuse(value, _UNIT_RULE)
    if value in RESERVED:
        _refuse(value, "it has a field of its own (input_per_million, …, per_request)")
    return value


def _version(value: object) -> int:
    if not isinstance(value, _Literal) or value != "1":
        _refuse(value, "this release reads version 1")
    return 1


_Amount = Annotated[Fraction, BeforeValidator(_amount)]
_Count = Annotated[int, BeforeValidator(_count)]
_Text = Annotated[str, BeforeValidator(_text)]
_Unit = Annotated[str, BeforeValidator(_unit)]


class Override(BaseModel):
    """One entry of the file; amounts are nano-USD, per million tokens where the name says so."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    provider: _Text | None = None
    match: _Text
    input_per_million: _Amount | None = None
    output_per_million: _Amount | None = None
    cache_read_per_million: _Amount | None = None
    cache_write_per_million: _Amount | None = None
    reasoning_per_million: _Amount | None = None
    per_request: _Amount | None = None
    units: dict[_Unit, _Amount] = {}
    context_window: _Count | None = None
    max_output_tokens: _Count | None = None
    begins: Annotated[date, BeforeValidator(_day)] | None = Field(default=None, alias="from")
    source: _Text | None = None

    @model_validator(mode="after")
    def _prices_something(self) -> Override:
        if not self.sheet().prices:
            raise PydanticCustomError("limiter", "no price is given; write 0 for what is free")
        return self

    def matches(self, *, providers: frozenset[str], model: str) -> bool:
        """Whether the entry is about `model` at a provider of that name; no providers: at any."""
        if self.provider is not None and providers and self.provider.lower() not in providers:
            return False
        return re.match(translate(self.match.lower()), model.lower()) is not None

    @property
    def begins_ms(self) -> int | None:
        """The first instant of the price, in ms since the epoch; None: it was always there."""
        if self.begins is None:
            return None
        midnight = datetime(self.begins.year, self.begins.month, self.begins.day, tzinfo=UTC)
        return int(midnight.timestamp()) * 1000

    def sheet(self) -> PriceSheet:
        """Return its prices per unit."""
        per_million = {
            "input_tokens": self.input_per_million,
            "output_tokens": self.output_per_million,
            "cache_read_tokens": self.cache_read_per_million,
            "cache_write_tokens": self.cache_write_per_million,
            "output_reasoning_tokens": self.reasoning_per_million,
        }
        prices = {unit: (price / 1_000_000,) for unit, price in per_million.items() if price is not None}
        if self.per_request is not None:
            prices[REQUESTS] = (self.per_request,)
        prices |= {unit: (price,) for unit, price in self.units.items()}
        return PriceSheet(starts=(), prices=prices)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[Literal[1], BeforeValidator(_version)]
    models: tuple[Override, ...]


class _ExactLoader(yaml.SafeLoader):
    """Reads numbers as their literal text and refuses a key that is given twice."""


def _exact_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> _Literal:
    return _Literal(loader.construct_scalar(node))


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_CONSTRUCTORS: Final[Mapping[str, Callable[..., object]]] = {
    "tag:yaml.org,2002:int": _exact_number,
    "tag:yaml.org,2002:float": _exact_number,
    "tag:yaml.org,2002:map": _unique_mapping,
}
for _tag, _constructor in _CONSTRUCTORS.items():
    _ExactLoader.add_constructor(_tag, _constructor)


def read_overrides(file: Path) -> tuple[tuple[Override, ...], str]:
    """Read a file of prices: its entries, and the SHA-256 of its bytes in hexadecimal.

    Raises PricesInvalid listing every mistake, also if the file cannot be read.
    """
    try:
        content = file.read_bytes()
        document = yaml.load(content, Loader=_ExactLoader)  # noqa: S506 - the loader is a SafeLoader
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise PricesInvalid(file, [" ".join(str(error).split())]) from None
    if not isinstance(document, dict):
        raise PricesInvalid(file, ["write a mapping with version and models"])
    try:
        models = _Document.model_validate(document).models
    except ValidationError as error:
        raise PricesInvalid(file, [_sentence(dict(mistake)) for mistake in error.errors()]) from None
    _refuse_repetition(file, models)
    return models, hashlib.sha256(content).hexdigest()


def _refuse_repetition(file: Path, models: tuple[Override, ...]) -> None:
    mistakes: list[str] = []
    first: dict[tuple[str | None, str, date | None], int] = {}
    for index, entry in enumerate(models):
        subject = (entry.provider and entry.provider.lower(), entry.match.lower(), entry.begins)
        if subject in first:
            mistakes.append(f"models[{index}]: repeats models[{first[subject]}]; keep one of them")
        first.setdefault(subject, index)
    if mistakes:
        raise PricesInvalid(file, mistakes)


def _sentence(mistake: dict[str, Any]) -> str:
    """Write `models[2].units.images: what is wrong; what to do`."""
    steps = [step for step in mistake["loc"] if step != "[key]"]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
    if mistake["type"] == "extra_forbidden":
        return f"{path}: unknown field; {_known(len(steps))}"
    if mistake["type"] == "missing":
        return f"{path}: is missing"
    message: str = mistake["msg"]
    if mistake["type"] != "limiter":
        message = f"{repr(mistake['input'])[:SHOWN_VALUE_MAX]} is not valid; {message}"
    return f"{path}: {message}"


def _known(depth: int) -> str:
    fields = (_Document if depth == 1 else Override).model_fields
    return "known are " + ", ".join(info.alias or name for name, info in fields.items())

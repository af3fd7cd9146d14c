"""The kinds of values in a plans file, each read strictly: a value, or a mistake that says what to write."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, PlainValidator

from limiter.domain.calls import COUNT_MAX, TAG_NAME, TAG_NAME_MAX, TAG_VALUE_MAX
from limiter.domain.errors import InvalidArgument
from limiter.domain.mistakes import refuse
from limiter.domain.money import NANOUSD_PER_USD, format_usd, parse_usd
from limiter.domain.zones import zone

TEXT_MAX: Final = 4_000
CENT_NANOUSD: Final = NANOUSD_PER_USD // 100
_NUMBER: Final = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,18})?", re.ASCII)
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_/-]{0,15}", re.ASCII)
#: What a price has a field of its own for, or what is part of that.
_NO_UNITS: Final = frozenset(
    ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "calls")
)


def _number(value: object, remedy: str) -> Decimal:
    text = f"{value:f}" if isinstance(value, Decimal) and value.is_finite() else str(value)
    if isinstance(value, (bool, float)) or not isinstance(value, (int, Decimal, str)) or not _NUMBER.fullmatch(text):
        raise refuse(value, remedy)
    return Decimal(text)


def _percent(value: object) -> Decimal:
    remedy = "write a decimal number of percent from -100 to 100000, such as 20 or -7.5"
    number = _number(value, remedy)
    if not -100 <= number <= 100_000:
        raise refuse(value, remedy)
    return number


def _amount(value: object) -> Decimal:
    remedy = "write a decimal number of USD, such as 2.50, at most 9 digits before the point and 18 after it"
    number = _number(value, remedy)
    if number < 0:
        raise refuse(value, remedy)
    return number


def _cents(value: object) -> int:
    remedy = "write an amount of USD in whole cents, such as 49.90"
    amount = _number(value, remedy)
    try:
        nanousd = parse_usd(amount, field="")
    except InvalidArgument:
        raise refuse(value, remedy) from None
    if nanousd < 0 or nanousd % CENT_NANOUSD:
        raise refuse(value, remedy)
    return nanousd


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= COUNT_MAX:
        raise refuse(value, f"write a whole number from 1 to {COUNT_MAX}")
    return value


def _words(most: int, remedy: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
            raise refuse(value, remedy)
        return value

    return read


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX or any(not (c.isprintable() or c == "\n") for c in value):
        raise refuse(
            value, f"write a text of at most {TEXT_MAX} printable characters, quoted if it looks like a number"
        )
    return value.strip()


def _matching(pattern: re.Pattern[str], remedy: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise refuse(value, remedy)
        return value

    return read


def _unit(value: object) -> str:
    text = _matching(TAG_NAME, f"name a unit by 1 to {TAG_NAME_MAX} of A-Z a-z 0-9 _ . -")(value)
    if text in _NO_UNITS:
        raise refuse(value, "it has a field of its own (input_per_million, …, per_call)")
    return text


def _timezone(value: object) -> str:
    if not isinstance(value, str):
        raise refuse(value, "write an IANA name such as America/New_York or UTC")
    try:
        zone(value)
    except InvalidArgument as error:
        raise refuse(value, error.remedy) from None
    return value


def _lines(value: object) -> str:
    if value != "model" and not (
        isinstance(value, str) and value.startswith("tag:") and TAG_NAME.fullmatch(value.removeprefix("tag:"))
    ):
        raise refuse(value, "write model, or tag:NAME such as tag:feature")
    return str(value)


def _version(value: object) -> int:
    if type(value) is not int or value != 1:
        raise refuse(value, "this release reads version: 1")
    return 1


def several(*words: str) -> BeforeValidator:
    """Read one of these words."""

    def read(value: object) -> object:
        if value not in words:
            raise refuse(value, f"write {' or '.join(words)}")
        return value

    return BeforeValidator(read)


def switch() -> BeforeValidator:
    """Read true or false."""

    def read(value: object) -> object:
        if not isinstance(value, bool):
            raise refuse(value, "write true or false")
        return value

    return BeforeValidator(read)


_AS_TEXT = PlainSerializer(lambda number: f"{number:f}", return_type=str)
_AS_USD = PlainSerializer(format_usd, return_type=str)

Percent = Annotated[Decimal, PlainValidator(_percent), _AS_TEXT]
Amount = Annotated[Decimal, PlainValidator(_amount), _AS_TEXT]
Cents = Annotated[int, PlainValidator(_cents), _AS_USD]  # nano-USD
Above = Cents
Count = Annotated[int, PlainValidator(_count)]
Name = Annotated[
    str, PlainValidator(_words(256, "write a text of 1 to 256 printable characters, quoted if it needs to be"))
]
CustomerName = Annotated[str, PlainValidator(_words(TAG_VALUE_MAX, f"write 1 to {TAG_VALUE_MAX} printable characters"))]
Text = Annotated[str, PlainValidator(_text)]
Unit = Annotated[str, PlainValidator(_unit)]
Prefix = Annotated[
    str,
    PlainValidator(_matching(_PREFIX, "use 1 to 16 of A-Z, a-z, 0-9, _, / and -, beginning with a letter or digit")),
]
TagName = Annotated[
    str,
    PlainValidator(
        _matching(TAG_NAME, f"name a tag with 1 to {TAG_NAME_MAX} of the letters A-Z a-z, digits and _ . -")
    ),
]
Timezone = Annotated[str, PlainValidator(_timezone)]
Lines = Annotated[str, PlainValidator(_lines)]
Version = Annotated[int, PlainValidator(_version)]

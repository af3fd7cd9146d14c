"""The kinds of values in a policy: how each is read strictly, and how it is written again.

Every reader returns the value or raises the error of :func:`limiter.domain.mistakes.refuse`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

from limiter.domain import zones
from limiter.domain.calls import COUNT_MAX, MODEL_MAX, TAG_NAME, TAG_NAME_MAX, TAG_VALUE_MAX
from limiter.domain.errors import InvalidArgument
from limiter.domain.limits import CONCURRENCY_MAX, RATE_MAX, RATE_PERIODS, SPEND_WINDOWS
from limiter.domain.mistakes import mistaken, refuse
from limiter.domain.money import CALL_MAX_NANOUSD, NANOUSD_PER_USD, SUM_MAX_NANOUSD, format_usd, parse_usd
from limiter.domain.reservations import OnAbort, OnExpiry, Sizing
from limiter.domain.scopes import ID_PATTERN, ID_RULE
from limiter.policy.yaml_text import DECIMAL, INT, NUMBER_MAX_CHARS

#: Longest time to live of a hold.
TTL_MAX_MS: Final = 24 * 3_600_000

#: Longest time that Extend may keep a hold open.
LIFETIME_MAX_MS: Final = 30 * 24 * 3_600_000

#: Thresholds of one limit, and patterns of one list.
WARN_AT_MAX: Final = 16
PATTERNS_MAX: Final = 256

#: `warn_at` is counted in millionths.
MILLIONTHS: Final = 1_000_000

#: What `learned_quantile` may be, in millionths.
QUANTILE_MIN: Final = 900_000
QUANTILE_MAX: Final = 999_900

_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(s|m|h|d)", re.ASCII)
_DURATION_UNITS_MS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
_NUMBER_SCHEMA: Final = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}]}
_MODES: Final = {"enforce": False, "shadow": True}

_T = TypeVar("_T")


def _money(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = _exact(value, "write a plain decimal number of USD, such as 12.50")
        try:
            amount = parse_usd(number, field="")
        except InvalidArgument as error:
            raise refuse(value, error.remedy) from None
        if not lowest <= amount <= highest:
            raise refuse(value, f"use {format_usd(lowest)} to {format_usd(highest)} USD")
        return amount

    return read


def _exact(value: object, remedy: str) -> int | Decimal:
    """Read a number, also one in quotes: JSON keeps exact decimals only as text."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= NUMBER_MAX_CHARS and (INT.fullmatch(value) or DECIMAL.fullmatch(value)):
        return Decimal(value)
    raise refuse(value, remedy)


def usd(nanousd: int) -> int | Decimal:
    """Return nano-USD as the number of USD that a policy has: whole if it is."""
    whole, rest = divmod(nanousd, NANOUSD_PER_USD)
    return Decimal(format_usd(nanousd)) if rest else whole


def _count(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse(value, f"write a whole number from {lowest} to {highest} in plain digits")
        if not lowest <= value <= highest:
            raise refuse(value, f"use {lowest} to {highest}")
        return value

    return read


def _duration(highest_ms: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        parts = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if parts is None:
            raise refuse(value, "write a duration such as 90s, 10m, 24h or 7d")
        duration_ms = int(parts[1]) * _DURATION_UNITS_MS[parts[2]]
        if not 1_000 <= duration_ms <= highest_ms:
            raise refuse(value, f"use 1s to {format_duration(highest_ms)}")
        return duration_ms

    return read


def format_duration(duration_ms: int) -> str:
    """Write whole seconds in the largest unit that divides them, but a day as 24h."""
    for unit, length_ms in _DURATION_UNITS_MS.items():
        if duration_ms % length_ms == 0 and (unit != "d" or duration_ms > length_ms):
            return f"{duration_ms // length_ms}{unit}"
    raise AssertionError(duration_ms)


def _text(value: object, remedy: str) -> str:
    if not isinstance(value, str):
        raise refuse(value, f"{remedy}, in quotes if it looks like a number, true, false or null")
    return value


def _model(value: object) -> str:
    text = _text(value, "write a model's name")
    if not 1 <= len(text) <= MODEL_MAX or not text.isprintable():
        raise refuse(value, f"use 1 to {MODEL_MAX} printable characters")
    return text


def _pattern(value: object) -> str:
    text = _text(value, "write a pattern of model names")
    if "[" in text or "]" in text:
        raise refuse(value, "only * and ? are special in a pattern; list the alternatives one by one")
    return _model(text)


def _patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > PATTERNS_MAX:
        raise mistaken(f"has {len(value)} patterns; the most is {PATTERNS_MAX}")
    return value


def _some_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise mistaken("is empty; name at least one model, or leave the field out for every model")
    return _patterns(value)


def _id(value: str) -> str:
    if ID_PATTERN.fullmatch(value) is None:
        raise refuse(value, f"use {ID_RULE}")
    return value


def _limit_id(value: object) -> str:
    return _id(_text(value, "write an id"))


def _timezone(value: object) -> str:
    name = _text(value, "write an IANA name such as America/New_York or UTC")
    try:
        zones.zone(name)
    except InvalidArgument as error:
        raise refuse(value, error.remedy) from None
    return name


def _tag_name(value: str) -> str:
    if TAG_NAME.fullmatch(value) is None:
        raise refuse(value, f"name a tag with 1 to {TAG_NAME_MAX} of the letters A-Z a-z, digits and _ . -")
    return value


def _tag_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > PATTERNS_MAX:
        raise mistaken(f"has {len(value)} names; the most is {PATTERNS_MAX}")
    return value


def _tag_value(value: object) -> str:
    text = _text(value, "write a tag's value as text")
    if not 1 <= len(text) <= TAG_VALUE_MAX or not text.isprintable():
        raise refuse(value, f"use 1 to {TAG_VALUE_MAX} printable characters")
    return text


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise refuse(value, "write true or false")
    return value


def _version(value: object) -> int:
    if type(value) is not int or value != 1:
        raise refuse(value, "this release reads version: 1")
    return 1


def choice(words: dict[str, _T]) -> Callable[[object], _T]:
    """Read one of these words, strictly."""

    def read(value: object) -> _T:
        if not isinstance(value, str) or value not in words:
            raise refuse(value, f"write one of {', '.join(words)}")
        return words[value]

    return read


def _fraction(value: object) -> int:
    scaled = _exact(value, "write a fraction of the ceiling, such as 0.8") * MILLIONTHS
    if not 0 < scaled <= MILLIONTHS or scaled != int(scaled):
        raise refuse(value, "use a fraction above 0 and up to 1, with at most six decimals")
    return int(scaled)


def _quantile(value: object) -> int:
    millionths = _fraction(value)
    if not QUANTILE_MIN <= millionths <= QUANTILE_MAX:
        raise refuse(value, "use 0.9 to 0.9999")
    return millionths


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(value) > WARN_AT_MAX:
        raise mistaken(f"has {len(value)} thresholds; the most is {WARN_AT_MAX}")
    if len(set(value)) != len(value):
        raise mistaken("a fraction is given twice; remove one")
    return tuple(sorted(value))


def fractions(millionths: tuple[int, ...]) -> list[int | Decimal]:
    """Return thresholds as the numbers that a policy has."""
    return [usd(part * (NANOUSD_PER_USD // MILLIONTHS)) for part in millionths]


def _schema(kind: str, **more: Any) -> WithJsonSchema:  # noqa: ANN401 JSON Schema's values are of any type
    return WithJsonSchema({"type": kind, **more})


_DURATION_FIELD = (PlainSerializer(format_duration), _schema("string", pattern=r"^[0-9]+(s|m|h|d)$"))
_ID_SCHEMA = _schema("string", pattern=f"^{ID_PATTERN.pattern}$")
_PERIODS: Final = tuple(dict.fromkeys((*RATE_PERIODS, *SPEND_WINDOWS)))

Spend = Annotated[int, PlainValidator(_money(0, SUM_MAX_NANOUSD)), PlainSerializer(usd), WithJsonSchema(_NUMBER_SCHEMA)]
CallCost = Annotated[
    int, PlainValidator(_money(1, CALL_MAX_NANOUSD)), PlainSerializer(usd), WithJsonSchema(_NUMBER_SCHEMA)
]
Rate = Annotated[int, PlainValidator(_count(0, RATE_MAX)), _schema("integer", minimum=0, maximum=RATE_MAX)]
Slots = Annotated[
    int, PlainValidator(_count(0, CONCURRENCY_MAX)), _schema("integer", minimum=0, maximum=CONCURRENCY_MAX)
]
OutputTokens = Annotated[int, PlainValidator(_count(1, COUNT_MAX)), _schema("integer", minimum=1, maximum=COUNT_MAX)]
Ttl = Annotated[int, PlainValidator(_duration(TTL_MAX_MS)), *_DURATION_FIELD]
Lifetime = Annotated[int, PlainValidator(_duration(LIFETIME_MAX_MS)), *_DURATION_FIELD]
Expiry = Annotated[
    OnExpiry,
    PlainValidator(choice({choice.name.lower(): choice for choice in OnExpiry})),
    PlainSerializer(lambda choice: choice.name.lower()),
    _schema("string", enum=[choice.name.lower() for choice in OnExpiry]),
]
Abort = Annotated[
    OnAbort,
    PlainValidator(choice({choice.name.lower(): choice for choice in OnAbort})),
    PlainSerializer(lambda choice: choice.name.lower()),
    _schema("string", enum=[choice.name.lower() for choice in OnAbort]),
]
Estimate = Annotated[
    Sizing,
    PlainValidator(choice({word.name.lower(): word for word in Sizing})),
    PlainSerializer(lambda word: word.name.lower()),
    _schema("string", enum=[word.name.lower() for word in Sizing]),
]
Shadow = Annotated[bool, PlainValidator(choice(_MODES)), _schema("string", enum=list(_MODES))]
#: Unchecked: what it may say depends on the kind of limit.
Per = Annotated[str, PlainValidator(lambda value: value), _schema("string", enum=list(_PERIODS))]
_Fraction = Annotated[
    int, PlainValidator(_fraction), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
]
WarnAt = Annotated[tuple[_Fraction, ...], AfterValidator(_ascending)]
Quantile = Annotated[
    int,
    PlainValidator(_quantile),
    PlainSerializer(lambda millionths: fractions((millionths,))[0]),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0.9, "maximum": 0.9999}, {"type": "string"}]}),
]
Switch = Annotated[bool, PlainValidator(_switch), _schema("boolean")]
Version = Annotated[int, PlainValidator(_version), _schema("integer", const=1)]
Id = Annotated[str, AfterValidator(_id), _ID_SCHEMA]
LimitId = Annotated[str, PlainValidator(_limit_id), _ID_SCHEMA]
Timezone = Annotated[str, PlainValidator(_timezone), _schema("string")]
Model = Annotated[str, PlainValidator(_model), _schema("string", minLength=1, maxLength=MODEL_MAX)]
TagName = Annotated[str, AfterValidator(_tag_name)]
TagNames = Annotated[tuple[TagName, ...], AfterValidator(_tag_names)]
TagValue = Annotated[str, PlainValidator(_tag_value), _schema("string", minLength=1, maxLength=TAG_VALUE_MAX)]
Pattern = Annotated[str, PlainValidator(_pattern), _schema("string", minLength=1, maxLength=MODEL_MAX)]
Patterns = Annotated[tuple[Pattern, ...], AfterValidator(_patterns)]
SomePatterns = Annotated[tuple[Pattern, ...], AfterValidator(_some_patterns)]

"""The common form of a line of a provider's bill, and what reading a bill found on the way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from limiter.domain.errors import InvalidArgument

#: A bill is taken to be rounded to no coarser unit than a cent, and to no finer one than a nano-USD.
_DECIMALS: Final = (2, 9)
#: Numbers above this are ms since 1970, not s.
_SECONDS_MAX: Final = 100_000_000_000
NANO: Final = Decimal(10) ** 9
#: Numbers of more digits, before or after the point, are none of a bill; some would take minutes to write out.
_DIGITS_MAX: Final = 60
#: The end of the year 9999, in ms since 1970.
_TIME_MAX_MS: Final = 253_402_300_800_000
#: Costs of a line beyond it are no costs of a line.
_COST_MAX: Final = Decimal(1_000_000_000)


class BillLine(NamedTuple):
    """What a provider asks for or counts: of one call, or of all calls of a model in a span of time.

    Counts are None where the line does not tell them; `input_tokens` include what was read from and written to a cache.
    """

    place: str  # FILE:LINE, for messages
    start_ms: int
    end_ms: int  # exclusive; the same as start_ms: one call at that time
    model: str  # as the provider writes it; "": no model's line
    item: str = ""  # what the line is for, in the provider's words
    cost: Decimal | None = None  # USD, exactly as written; None: the line only counts
    request_id: str = ""
    calls: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    part: str = ""  # the kind of token that the cost is of: input (not cached), output, cache_read, cache_write
    identity: str = ""  # what makes the line itself; two with the same are one line given twice


@dataclass(slots=True)
class LeftOut:
    """Lines that are not compared, and what they come to."""

    lines: int = 0
    usd: Decimal = Decimal(0)

    def add(self, amount: Decimal | None) -> None:
        """Count one line."""
        self.lines += 1
        self.usd += amount or 0


@dataclass(slots=True)
class Told:
    """What reading a bill found beside its lines: told to whoever asked, so that nothing is dropped in silence."""

    lines: int = 0
    decimals: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)  # by reason
    unknown_columns: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    _pages: tuple[int, bool, str] = (0, False, "")

    def leave_out(self, reason: str, amount: Decimal | None = None) -> None:
        """Count a line that is not compared."""
        self.left_out.setdefault(reason, LeftOut()).add(amount)

    def note(self, text: str) -> None:
        """Remember something that is worth saying, once."""
        if text not in self.notes:
            self.notes.append(text)

    def page(self, end_ms: int, place: str, *, has_more: bool) -> None:
        """Remember whether the provider had more pages after the one that reaches furthest."""
        self._pages = max(self._pages, (end_ms, has_more, place))

    def check_pages(self) -> None:
        """Raise InvalidArgument if the last page says that there are more."""
        _, has_more, place = self._pages
        if has_more:
            raise InvalidArgument(f"{place}: has_more", has_more, "the provider has further pages: give them, too")

    def usd(self, value: object, place: str, *, factor: Decimal = Decimal(1)) -> Decimal:
        """Read an amount of USD; remember how many decimals the bill writes. Raises InvalidArgument."""
        amount = number(value, place) * factor
        if abs(amount) > _COST_MAX:
            raise InvalidArgument(place, value, "that is more than a line of a bill can cost")
        self.decimals = max(self.decimals, -int(amount.as_tuple().exponent))
        return amount

    @property
    def unit(self) -> Decimal:
        """The unit that the bill's amounts are rounded to, in USD: by the most decimals that any of them has."""
        least, most = _DECIMALS
        return Decimal(1).scaleb(-min(max(self.decimals, least), most))


def number(value: object, place: str) -> Decimal:
    """Read a finite number. Raises InvalidArgument naming the place."""
    try:
        read = Decimal(str(value).strip())
    except InvalidOperation:
        read = Decimal("NaN")
    if not read.is_finite():
        raise InvalidArgument(place, value, "write a number")
    if read.adjusted() > _DIGITS_MAX or int(read.as_tuple().exponent) < -_DIGITS_MAX:
        raise InvalidArgument(place, value, f"write a number of at most {_DIGITS_MAX} digits")
    return read


def count(value: object, place: str, *, factor: Decimal = Decimal(1)) -> int | None:
    """Read how many; None where nothing is written. Raises InvalidArgument for what is no count."""
    if value is None or value == "":
        return None
    read = number(value, place) * factor
    if read < 0:
        raise InvalidArgument(place, value, "a count is not negative")
    return int(read.to_integral_value())


def moment_ms(value: object, place: str) -> int:
    """Read a time: ISO 8601 (UTC where it names no zone), a day, s or ms since 1970. Raises InvalidArgument."""
    text = str(value).strip()
    try:
        if text.replace(".", "", 1).isdigit():
            seconds = Decimal(text)
            if seconds < _TIME_MAX_MS:
                return int(seconds if seconds > _SECONDS_MAX else seconds * 1000)
        read = datetime.fromisoformat(text.removesuffix(" UTC"))
        return round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError, ArithmeticError):
        raise InvalidArgument(place, value, "write a time such as 2026-11-01T00:00:00Z") from None


def part_of(words: str) -> str:
    """The kind of token that words of a bill are about, as BillLine.part; "" if they are about none."""
    plain = re.sub(r"[^a-z]", "", words.lower())
    if "output" in plain:
        return "output"
    if "storage" in plain or not ("input" in plain or "cach" in plain):
        return ""
    if "uncached" in plain or "nocache" in plain or "cach" not in plain:
        return "input"
    return "cache_write" if "write" in plain or "creation" in plain else "cache_read"


def check_currency(value: object, place: str) -> None:
    """Raise InvalidArgument for any currency but USD."""
    if str(value or "usd").strip().lower() != "usd":
        raise InvalidArgument(place, value, "the books are in USD: export the bill in USD, or convert it")


def nanousd(amount: Decimal) -> int:
    """Round an exact amount of USD to nano-USD, half to even."""
    return int((amount * NANO).to_integral_value())


def identity_of(row: Any) -> str:  # noqa: ANN401 - whatever was read
    """What makes a line itself, where it has no number of its own: all that it says."""
    return repr(sorted(row.items()) if isinstance(row, dict) else row)

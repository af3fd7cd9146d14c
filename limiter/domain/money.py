"""Money is an integer of nano-USD (10⁻⁹ USD); a float never holds it."""

from __future__ import annotations

import re
from decimal import Decimal

from limiter.domain.errors import InvalidArgument

NANOUSD_PER_USD = 1_000_000_000

#: The largest amount of one call. Lua numbers are doubles, exact below 2⁵³; sums of calls are kept
#: in two limbs and go up to :data:`SUM_MAX_NANOUSD`.
CALL_MAX_NANOUSD = 2**53 - 1

#: The largest sum that a counter or an answer can hold (int64): 9.2 billion USD.
SUM_MAX_NANOUSD = 2**63 - 1

_DECIMAL = re.compile(r"[+-]?(\d{1,10}(\.\d{0,64})?|\.\d{1,64})", re.ASCII)


def parse_usd(text: str | int | Decimal, *, field: str) -> int:
    """Read an amount in USD exactly, as nano-USD.

    `text` is a decimal literal, an int or a Decimal; a float is refused because it has already lost
    digits. Raises InvalidArgument naming `field` for anything that is not a finite amount of whole
    nano-USD within ±SUM_MAX_NANOUSD.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, Decimal)):
        raise InvalidArgument(field, text, "write a decimal number of USD, such as 12.50")
    plain = format(text, "f") if isinstance(text, Decimal) and text.is_finite() else str(text)
    if _DECIMAL.fullmatch(plain) is None:
        raise InvalidArgument(field, text, "write a decimal number of USD, such as 12.50")
    usd, _, decimals = plain.lstrip("+-").partition(".")
    if len(decimals.rstrip("0")) > 9:
        raise InvalidArgument(field, text, "at most nine decimals: money is counted in nano-USD")
    nanousd = int((usd or "0") + decimals[:9].ljust(9, "0"))
    if nanousd > SUM_MAX_NANOUSD:
        raise InvalidArgument(field, text, "the largest amount is 9.2 billion USD")
    return -nanousd if plain.startswith("-") else nanousd


def format_usd(nanousd: int) -> str:
    """Write nano-USD as a decimal of USD: every digit that counts, at least two decimals."""
    sign = "-" if nanousd < 0 else ""
    usd, nano = divmod(abs(nanousd), NANOUSD_PER_USD)
    decimals = f"{nano:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{usd}.{decimals}"

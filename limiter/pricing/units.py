"""The units that prices are quoted in, and which of them are parts of others.

The names are those of genai-prices: `web_searches`, `storage_searches`, `code_executions`, `audio_seconds`,
`input_audio_tokens`, `output_image_tokens`, `cache_write_1h_tokens`, `input_characters`, `input_document_pages`
and so on; an override file may add others, such as `images`. Counts of parts are included in the whole:
`cache_write_1h_tokens` are some of the `cache_write_tokens`, which are some of the `input_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from genai_prices.data_units import unit_data
from genai_prices.units import UnitDef, UnitRegistry

from limiter.domain.errors import InvalidArgument

REGISTRY: Final = UnitRegistry(unit_data)

REQUESTS: Final = "requests"

#: Units that a call states by fields of its own, and the field's name in our contract.
FIELDS: Final[Mapping[str, str]] = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_reasoning_tokens": "reasoning_tokens",
}

#: Names that `units` may not use: they would count a thing twice.
RESERVED: Final = frozenset({*FIELDS, *FIELDS.values(), REQUESTS})


def is_part(part: str, whole: str) -> bool:
    """Whether every `part` is also a `whole`: input_audio_tokens are input_tokens."""
    return part in REGISTRY.units and whole in REGISTRY.ancestor_usage_keys(part)


def specificity(unit: str) -> int:
    """How many levels of wholes a unit can have above it; a part has more than its whole."""
    return len(REGISTRY.units[unit].dimensions) if unit in REGISTRY.units else 0


def direction(unit: str) -> str:
    """`input` or `output` for tokens, otherwise ""."""
    known = REGISTRY.units.get(unit)
    if known is None or known.dimensions["family"] != "tokens":
        return ""
    return known.dimensions["direction"]


def _nearest_whole(unit: UnitDef) -> str | None:
    """Of the wholes that a call states by a field, or that are not tokens, the most specific."""
    wholes = [
        name
        for name in REGISTRY.ancestor_usage_keys(unit.usage_key)
        if name in FIELDS or REGISTRY.units[name].dimensions["family"] != "tokens"
    ]
    return max(wholes, key=lambda name: (specificity(name), name), default=None)


#: For each part, the whole whose count must include it.
WHOLE_OF: Final[Mapping[str, str]] = {
    name: whole for name, unit in REGISTRY.units.items() if (whole := _nearest_whole(unit)) is not None
}


def add_units(counts: dict[str, int], units: Mapping[str, int], *, field: str) -> None:
    """Add `units` to the `counts` of the fields; a whole of which only parts are given is their sum.

    Raises InvalidArgument, naming `field`, for a negative count, for a name that is a field of the
    contract, and for a part larger than its whole: such a part would be charged too little.
    """
    for name, count in units.items():
        if name in RESERVED:
            raise InvalidArgument(f"{field}.{name}", count, "state it by the field for it, not as a unit")
        if count < 0:
            raise InvalidArgument(f"{field}.{name}", count, "counts are 0 or more")
        counts[name] = count
    for name, count in units.items():
        whole = WHOLE_OF.get(name)
        if whole is None:
            continue
        if whole not in FIELDS and whole not in units:
            counts[whole] = counts.get(whole, 0) + count
        elif count > counts[whole]:
            remedy = f"they are a part of {FIELDS.get(whole, whole)} ({counts[whole]}), which must include them"
            raise InvalidArgument(f"{field}.{name}", count, remedy)

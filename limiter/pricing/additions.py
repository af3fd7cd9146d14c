"""Units that are added to the price of a model, whichever list that is from: what tools on the provider's side cost.

An entry of a price file that `adds` prices no model by itself. The prices of its units stand beside those of the model,
where these are from a list below its own; where they are from its own list or one above, it prices only units that they
do not. A price in a file of one's own is not added to by the lists that come with this package: it counts whole.
Of the entries that add the price of a unit, the last one that is met counts, unit by unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from limiter.pricing.overrides import Override
from limiter.pricing.selection import Context, begun, within_reach
from limiter.pricing.sheets import PriceSheet

#: Where a price is from; the lists in their order.
OWN_FILE: Final = "file"
QUOTED: Final = "genai-prices"
BUILT_IN: Final = "built-in"


def additions(
    own: Sequence[Override],
    built_in: Sequence[Override],
    *,
    to: PriceSheet,
    layer: str,
    at_ms: int,
    context: Context,
    held: bool,
) -> dict[str, Override]:
    """Return the entries that add to the price `to` of the list `layer`, by unit; `held`: the dearest it may become."""
    found: dict[str, Override] = {}
    terms = dict(context)
    for entries, wins in ((own, layer != OWN_FILE), (() if layer == OWN_FILE else built_in, False)):
        adding = [entry for entry in begun(entries, at_ms) if entry.adds]
        for unit in dict.fromkeys(unit for entry in adding for unit in entry.units):
            if unit in found or (unit in to.prices and not wins):
                continue
            sure, others = within_reach([entry for entry in adding if unit in entry.units], terms)
            possible = [*(others if held or sure is None else ()), *([sure] if sure else ())]
            if possible:
                dearest = max(one.units[unit] for one in possible)
                found[unit] = next(one for one in possible if one.units[unit] == dearest)
    return found


def with_additions(sheet: PriceSheet, added: Mapping[str, Override]) -> PriceSheet:
    """Return `sheet` with what is added to it, the same at every tier."""
    if not added:
        return sheet
    tiers = len(sheet.starts) + 1
    more = {unit: (entry.units[unit],) * tiers for unit, entry in added.items()}
    return PriceSheet(sheet.starts, {**sheet.prices, **more})

"""One entry of LiteLLM's list, as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from limiter.pricing.limits import Limits
from limiter.pricing.litellm_names import Subject

#: Prices per unit, by the term that they are for (None: always) and the input tokens that the call must be above.
Rates: TypeAlias = dict[tuple[tuple[str, str] | None, int], dict[str, Decimal]]


@dataclass(frozen=True, slots=True)
class Listed:
    """What LiteLLM lists under one name. `left_out` names fields that our files cannot say."""

    name: str
    mode: str
    about: Subject
    rates: Rates
    limits: Limits
    source: str
    left_out: tuple[str, ...]

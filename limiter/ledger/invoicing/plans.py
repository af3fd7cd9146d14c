"""The plans file: what customers pay for their calls.

`read_plans` validates a tree of plain values (of YAML or JSON, numbers as int, Decimal or text, never float);
`Plans.terms` gives what holds for one customer, which is stored with each of its invoices. See docs/books.md and
deploy/plans.example.yaml.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.ledger.invoicing.plan_fields import (
    Above,
    Amount,
    Cents,
    Count,
    CustomerName,
    Lines,
    Name,
    Percent,
    Prefix,
    TagName,
    Text,
    Timezone,
    Unit,
    Version,
    several,
    shown,
    switch,
)
from limiter.ledger.texts import canonical

_PLAIN: Final = re.compile(r"[A-Za-z0-9_@-]{1,128}", re.ASCII)


class PlansInvalid(InvalidArgument):
    """A plans file that cannot be used. `mistakes` are all of them, each with its path in the file."""

    def __init__(self, mistakes: Iterable[str], *, file: str = "") -> None:
        self.field, self.remedy = "plan", "correct the mistakes listed"
        self.mistakes = tuple(mistakes)
        LimiterError.__init__(self, "\n".join(f"{file}: {one}" if file else one for one in self.mistakes))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Part):
    """What a model is sold for, in USD. Of the prices that match, the last one counts, and counts whole."""

    match: Name
    provider: Name | None = None
    input_per_million: Amount | None = None
    output_per_million: Amount | None = None
    cache_read_per_million: Amount | None = None  # left out: as input
    cache_write_per_million: Amount | None = None  # left out: as input
    reasoning_per_million: Amount | None = None  # left out: as output
    per_call: Amount | None = None
    units: dict[Unit, Amount] = {}

    @model_validator(mode="after")
    def _prices_something(self) -> Price:
        if not self.units and all(getattr(self, name) is None for name in PRICED):
            raise PydanticCustomError("limiter", "no price is given; write 0 for what is free")
        return self


#: The fields of a price that are amounts, but for its units.
PRICED: Final = (
    "input_per_million",
    "output_per_million",
    "cache_read_per_million",
    "cache_write_per_million",
    "reasoning_per_million",
    "per_call",
)


class Included(_Part):
    """What a month includes: one of the three."""

    usd: Cents | None = None
    tokens: Count | None = None
    calls: Count | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Included:
        if sum(value is not None for value in (self.usd, self.tokens, self.calls)) != 1:
            raise PydanticCustomError("limiter", "write one of usd, tokens, calls")
        return self


class Tier(_Part):
    """By how many percent the part of a month's charges above so many USD is changed, up to the next tier."""

    above: Above
    percent: Percent


class Rounding(_Part):
    """How amounts become whole cents."""

    rule: Annotated[Literal["half-even", "half-up"], several("half-even", "half-up")] = "half-even"
    each: Annotated[Literal["line", "total"], several("line", "total")] = "line"


class _Rules(_Part):
    markup_percent: Percent | None = None
    prices: tuple[Price, ...] | None = None
    included: Included | None = None
    tiers: tuple[Tier, ...] | None = None
    minimum: Cents | None = None

    @model_validator(mode="after")
    def _tiers_rise(self) -> _Rules:
        starts = [tier.above for tier in self.tiers or ()]
        if starts != sorted(set(starts)):
            raise PydanticCustomError("limiter", "tiers: each must begin above the one before")
        return self


class Customer(_Rules):
    """A customer: whom the invoice is for, and what differs from the terms of all."""

    buyer: Text = ""


class _Common(_Part):
    currency: Annotated[Literal["USD"], several("USD")] = "USD"
    customer_tag: TagName = "customer"
    organization: Name | None = None
    timezone: Timezone = "UTC"
    number_prefix: Prefix = "INV"
    seller: Text = ""
    note: Text = ""
    lines: Lines = "model"
    rounding: Rounding = Rounding()
    several_customers: Annotated[Literal["refuse", "first"], several("refuse", "first")] = "refuse"
    show_cost: Annotated[bool, switch()] = False


class Terms(_Common, _Rules):
    """All that makes the invoice of one customer; as JSON it is stored beside the invoice."""

    customer: CustomerName
    buyer: Text = ""

    def to_json(self) -> str:
        """Write them as the books keep them."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Terms:
        """Read what to_json wrote."""
        return cls.model_validate(json.loads(text))

    @property
    def priced_units(self) -> frozenset[str]:
        """The units that a price of the list names."""
        return frozenset(unit for price in self.prices or () for unit in price.units)


class Plans(_Common):
    """A plans file."""

    version: Version
    terms: _Rules = Field(default_factory=_Rules)
    customers: dict[CustomerName, Customer] = {}

    def for_customer(self, name: str) -> Terms:
        """What holds for a customer: the terms of all, but for the fields that its own entry has."""
        common = self.model_dump(mode="json", include=set(_Common.model_fields))
        rules = self.terms.model_dump(mode="json")
        own = self.customers.get(name, Customer()).model_dump(mode="json", exclude_unset=True)
        try:
            return Terms.model_validate({"customer": name} | common | rules | own)
        except ValidationError:
            raise InvalidArgument(
                "customer", name, "write the value of the customer tag, 1 to 256 characters"
            ) from None


def read_plans(tree: object, *, file: str = "", mistakes: Iterable[str] = ()) -> Plans:
    """Validate a tree of plain values. Raises PlansInvalid with all mistakes, those found earlier among them."""
    found = list(mistakes)
    if not isinstance(tree, dict):
        raise PlansInvalid([*found, "write a mapping with version and terms"], file=file)
    try:
        plans = Plans.model_validate(tree)
    except ValidationError as error:
        found += [_sentence(dict(mistake)) for mistake in error.errors(include_url=False)]
    if found:
        raise PlansInvalid(found, file=file)
    return plans


def _sentence(mistake: Mapping[str, Any]) -> str:
    """Write `customers.acme.tiers[0].above: what is wrong; what to do`."""
    steps = [step for step in mistake["loc"] if step != "[key]"]
    place, kind = _path(steps), mistake["type"]
    if kind == "extra_forbidden":
        known = _fields(steps)
        near = difflib.get_close_matches(str(steps[-1])[:64], known, n=1)
        return f"{place}: unknown field; {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(known)}"
    if kind == "missing":
        return f"{place}: is missing"
    if kind == "limiter":
        return f"{place}: {mistake['msg']}" if place else str(mistake["msg"])
    if kind in ("model_type", "dict_type"):
        return f"{place}: {shown(mistake['input'])} is not valid; write a mapping of names to values"
    if kind in ("tuple_type", "list_type"):
        return f"{place}: {shown(mistake['input'])} is not valid; write a list, such as [a, b]"
    return f"{place}: {shown(mistake['input'])} is not valid; {mistake['msg']}"


def _path(steps: Iterable[str | int]) -> str:
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step[:80], ensure_ascii=False)}]"
    return text


def _fields(steps: list[str | int]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "prices": Price,
        "included": Included,
        "tiers": Tier,
        "rounding": Rounding,
        "terms": _Rules,
        "customers": Customer,
    }
    named = [parts[step] for step in steps[:-1] if isinstance(step, str) and step in parts]
    return list((named[-1] if named else Plans).model_fields)

"""The plans file: what customers pay for their calls.

`read_plans` validates a tree of plain values (of YAML or JSON, numbers as int, Decimal or text, never float);
`Plans.terms` gives what holds for one customer, which is stored with each of its invoices. See docs/books.md and
deploy/plans.example.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.mistakes import gather, mistaken, mistakes_in
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
    switch,
)
from limiter.ledger.texts import canonical


class PlansInvalid(InvalidArgument):
    """A plans file that cannot be used. `mistakes` are all of them, each with its path in the file."""

    def __init__(self, mistakes: Iterable[str], *, file: str = "") -> None:
        self.field, self.remedy = "plan", "correct the mistakes listed"
        self.mistakes = tuple(mistakes)
        LimiterError.__init__(self, "\n".join(f"{file}: {one}" if file else one for one in self.mistakes))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _gather(cls, data: object, handler: Callable[[object], Self]) -> Self:
        return gather(data, handler, fields=tuple(cls.model_fields))


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
            raise mistaken("no price is given; write 0 for what is free")
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
            raise mistaken("write one of usd, tokens, calls")
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
            raise mistaken("tiers: each must begin above the one before")
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


class Plans(_Common):
    """A plans file."""

    version: Version
    terms: _Rules = Field(default_factory=_Rules)
    customers: dict[CustomerName, Customer] = {}

    def for_customer(self, name: str, organization: str | None = None) -> Terms:
        """What holds for a customer, of that organization: the terms of all, but for the fields that its own has."""
        if self.organization is not None and organization not in (None, self.organization):
            remedy = f"the plan is of organization {self.organization}: leave it out, or give another plan"
            raise InvalidArgument("organization", organization, remedy)
        common = self.model_dump(mode="json", include=set(_Common.model_fields))
        rules = self.terms.model_dump(mode="json")
        common["organization"] = self.organization if organization is None else organization
        own = self.customers.get(name, Customer()).model_dump(mode="json", exclude_unset=True)
        try:
            return Terms.model_validate({"customer": name} | common | rules | own)
        except ValidationError as error:
            field = mistakes_in(error)[0].path
            remedy = "write 1 to 256 printable characters, as the calls name it"
            raise InvalidArgument(field, name if field == "customer" else organization, remedy) from None


def read_plans(tree: object, *, file: str = "", mistakes: Iterable[str] = ()) -> Plans:
    """Validate a tree of plain values. Raises PlansInvalid with all mistakes, those found earlier among them."""
    found = list(mistakes)
    if not isinstance(tree, dict):
        raise PlansInvalid([*found, "write a mapping with version and terms"], file=file)
    try:
        plans = Plans.model_validate(tree)
    except ValidationError as error:
        found += map(str, mistakes_in(error))
    if found:
        raise PlansInvalid(found, file=file)
    return plans

"""What is billed to one customer for one month: which calls are its own, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from limiter.domain.errors import FailedPrecondition
from limiter.domain.money import format_usd
from limiter.domain.rows import Position
from limiter.ledger.invoicing.lines import Bill, Tally
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.plans import Terms
from limiter.ledger.invoicing.usages import Usage
from limiter.ledger.schema import COUNTS

Positions: TypeAlias = Mapping[int, Position]


class Account:
    """Adds up a customer's calls of a month, of the rows up to `positions` (None: all)."""

    def __init__(self, terms: Terms, month: Month, positions: Positions | None = None) -> None:
        self.terms = terms
        self.month = month
        self.positions = positions
        #: The organizations whose calls are counted.
        self.organizations: set[str] = set()
        self._tally = Tally(terms)
        self._shared_calls, self._shared_cost = 0, 0
        self._sharing: set[str] = set()

    def add(self, usage: Usage) -> None:
        """Count these calls if they are this customer's: a call is billed once, whatever customers it names."""
        terms = self.terms
        customers = sorted(set(usage.values_of(terms.customer_tag)))
        if (
            terms.customer not in customers
            or terms.organization not in (None, usage.organization)
            or not self._rests_on(usage)
            or (usage.units and not terms.prices)
        ):
            return
        if len(customers) > 1 and terms.several_customers == "refuse":
            self._shared_calls += usage.counts[COUNTS.index("calls")]
            self._shared_cost += usage.cost_nanousd
            self._sharing.update(customers)
        elif customers[0] == terms.customer:
            self.organizations.add(usage.organization)
            self._tally.add(usage)

    def bill(self, later: Iterable[Terms] = ()) -> Bill:
        """What they cost; `later` as Tally.bill. Raises FailedPrecondition where calls are others', too."""
        if self._sharing:
            shown = ", ".join(sorted(self._sharing)[:10])
            raise FailedPrecondition(
                f"invoice: {self._shared_calls} calls of {self.month.name} ({format_usd(self._shared_cost)} USD) name"
                f" several customers: {shown}; nobody is billed twice. With several_customers: first in the plan, such"
                " a call is billed to the first of them in alphabetical order"
            )
        return self._tally.bill(tuple(later))

    def _rests_on(self, usage: Usage) -> bool:
        if usage.position is None or self.positions is None:
            return True
        shard, position = usage.position
        return shard in self.positions and position <= self.positions[shard]


def common(accounts: Sequence[Account]) -> dict[int, Position]:
    """The positions that all of these rest on."""
    found = [account.positions or {} for account in accounts]
    shards = set.intersection(*(set(positions) for positions in found))
    return {shard: min(positions[shard] for positions in found) for shard in shards}

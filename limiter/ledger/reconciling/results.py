"""Compares what the books say with what a provider says, and explains every nano-USD between them.

Drift is theirs − ours: above zero, the provider asks for more than the books have. The explanations of a cell (a model
in a bucket of time) add up to its drift; what nothing explains stands there as unexplained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from limiter.domain.money import format_usd
from limiter.domain.reservations import Basis
from limiter.ledger.alerting.alerts import DRIFT, Alert
from limiter.ledger.reconciling.bills.lines import NANO, nanousd


class Kind(StrEnum):
    """Why the two differ."""

    ROUNDING = "rounding"  # the provider's: half a unit for each line of the bill
    NEIGHBOUR = "neighbouring_bucket"  # begun in one bucket, counted by the provider in the next
    EXPIRED = "expiry_charged"  # nobody settled: the hold itself was charged
    RELEASED = "released_but_billed"
    ESTIMATED = "settled_by_estimate"
    PRICE = "price_changed"  # the same tokens, another cost
    USAGE = "other_usage"  # the same call, other tokens
    ONLY_THEIRS = "only_in_bill"
    ONLY_OURS = "only_in_books"
    MODEL_THEIRS = "model_only_in_bill"
    MODEL_OURS = "model_only_in_books"
    UNEXPLAINED = "unexplained"


#: What is no drift: it comes of how the provider writes its bill.
HARMLESS: Final = frozenset({Kind.ROUNDING, Kind.NEIGHBOUR})


@dataclass(slots=True)
class Explanation:
    """A part of a drift. `calls` 0: not known."""

    kind: Kind
    nanousd: int
    calls: int = 0
    note: str = ""


class Bucket(NamedTuple):
    """A span of time that the bill sums up; the end is not in it."""

    start_ms: int
    end_ms: int


@dataclass(slots=True)
class Counts:
    """Calls and tokens; input includes what was read from and written to caches."""

    calls: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    def add(self, other: Counts, sign: int = 1) -> None:
        """Add, or with -1 take off, the counts of others."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))


@dataclass(slots=True)
class Ours:
    """What the books have in a cell."""

    nanousd: int = 0
    counts: Counts = field(default_factory=Counts)
    by_basis: defaultdict[int, list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )  # nano-USD, calls
    by_price: defaultdict[int, Counts] = field(default_factory=lambda: defaultdict(Counts))  # by id of the price's text

    def add(self, nanousd_: int, counts: Counts, basis: int, price: int, sign: int = 1) -> None:
        """Add, or with -1 take off, what rows add up to."""
        self.nanousd += sign * nanousd_
        self.counts.add(counts, sign)
        self.by_basis[basis][0] += sign * nanousd_
        self.by_basis[basis][1] += sign * counts.calls
        self.by_price[price].add(counts, sign)

    def of(self, basis: Basis) -> tuple[int, int]:
        """What rests on a basis: nano-USD, calls."""
        amount, calls = self.by_basis.get(int(basis), (0, 0))
        return amount, calls


@dataclass(slots=True)
class Theirs:
    """What the bill has in a cell. Lines that cost and lines that only count are kept apart: they tell of the same."""

    usd: Decimal = Decimal(0)
    lines: int = 0  # that cost
    priced: Counts = field(default_factory=Counts)  # counts on lines that cost
    counted: Counts = field(default_factory=Counts)  # counts on lines that only count
    parts: dict[str, tuple[Decimal, int]] = field(default_factory=dict)  # by kind of token: USD, lines

    def cost(self, usd: Decimal, part: str = "", lines: int = 1) -> None:
        """Add lines that cost. `part`: the kind of token, as the fields of Rates; "": unknown, or none."""
        self.usd += usd
        self.lines += lines
        before, known = self.parts.get(part, (Decimal(0), 0))
        self.parts[part] = before + usd, known + lines

    def add(self, other: Theirs) -> None:
        """Add what another has."""
        for part, (usd, lines) in other.parts.items():
            self.cost(usd, part, lines)
        self.priced.add(other.priced)
        self.counted.add(other.counted)

    @property
    def nanousd(self) -> int:
        """The cost, rounded once."""
        return nanousd(self.usd)

    @property
    def counts(self) -> Counts:
        """The counts: those of lines that only count, where there are any."""
        told = self.counted
        return told if told.input or told.output or told.calls else self.priced


@dataclass(slots=True)
class Cell:
    """A model in a bucket."""

    bucket: Bucket
    key: str
    ours: Ours = field(default_factory=Ours)
    theirs: Theirs = field(default_factory=Theirs)
    explanations: list[Explanation] = field(default_factory=list)

    @property
    def drift(self) -> int:
        """Theirs − ours, nano-USD."""
        return self.theirs.nanousd - self.ours.nanousd

    @property
    def harmful(self) -> int:
        """The drift that is neither rounding nor a neighbouring bucket's."""
        return self.drift - sum(one.nanousd for one in self.explanations if one.kind in HARMLESS)

    def explain(self, kind: Kind, nanousd_: int, calls: int = 0, note: str = "") -> None:
        """Add a part; parts of one kind and note are summed."""
        if nanousd_ == 0 and kind in HARMLESS:
            return
        for one in self.explanations:
            if one.kind is kind and one.note == note:
                one.nanousd += nanousd_
                one.calls += calls
                return
        self.explanations.append(Explanation(kind, nanousd_, calls, note))

    def allowance(self, unit: Decimal) -> int:
        """What rounding can come to: half a unit for each line of the bill, half a nano-USD for each of our calls."""
        return half(unit, self.theirs.lines) + (self.ours.counts.calls + 1) // 2


class Example(NamedTuple):
    """A row that explains: a call of ours, a line of theirs, or both."""

    kind: Kind
    ours: int | None
    theirs: int | None
    reservation: str  # ORG/ID; "": there is none
    line: str  # FILE:LINE; "": there is none
    request_id: str
    model: str


@dataclass(slots=True)
class Drift:
    """What a reconciliation found. `cells` are in the order of time and model; amounts are nano-USD."""

    provider: str
    from_ms: int
    to_ms: int
    unit: Decimal
    by_call: bool  # matched by request id, not by model and bucket
    cells: list[Cell] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # by key: how the model is written
    examples: list[Example] = field(default_factory=list)
    matched: int = 0

    @property
    def ours(self) -> int:
        """What the books have."""
        return sum(cell.ours.nanousd for cell in self.cells)

    @property
    def theirs(self) -> int:
        """What the bill has."""
        return sum(cell.theirs.nanousd for cell in self.cells)

    @property
    def drift(self) -> int:
        """Theirs − ours."""
        return self.theirs - self.ours

    @property
    def harmful(self) -> int:
        """The drift that is neither rounding nor a neighbouring bucket's."""
        return sum(cell.harmful for cell in self.cells)

    def explanations(self) -> list[Explanation]:
        """The parts of the drift over all cells, the largest first; they add up to it."""
        sums: dict[tuple[Kind, str], Explanation] = {}
        for cell in self.cells:
            for one in cell.explanations:
                key = one.kind, one.note
                found = sums.setdefault(key, Explanation(one.kind, 0, 0, one.note))
                found.nanousd += one.nanousd
                found.calls += one.calls
        return sorted(sums.values(), key=lambda one: (-abs(one.nanousd), one.kind))

    def beyond(self, tolerance: int) -> bool:
        """Whether any explanation but rounding and neighbours, in any cell, is above `tolerance` (nano-USD).

        Parts that take each other out count: a call too many and one too few are two mistakes.
        """
        parts = (one for cell in self.cells for one in cell.explanations if one.kind not in HARMLESS)
        return sum(abs(one.nanousd) for one in parts) > tolerance

    def alert(self, at_ms: int) -> Alert:
        """What people are told of it; the same id for the same provider and period."""
        data = {
            "provider": self.provider,
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
            "ours_nanousd": self.ours,
            "theirs_nanousd": self.theirs,
            "drift_nanousd": self.drift,
            "explained": {},
        }
        explained: dict[str, int] = defaultdict(int)
        for one in self.explanations():
            explained[one.kind.value] += one.nanousd
        return Alert(
            f"{DRIFT}:{self.provider}:{self.from_ms}-{self.to_ms}",
            DRIFT,
            at_ms,
            data | {"explained": dict(explained)},
        )


def half(unit: Decimal, lines: int) -> int:
    """Half a unit for each of `lines`, in nano-USD, rounded up."""
    return -int(-(unit * NANO * lines) // 2)


def ratio_note(ours: int, theirs: int, allowed: int = 1) -> str:
    """Write by how much a price changed, in so few decimals as rounding (`allowed`, nano-USD) leaves certain."""
    if not ours:
        return ""
    for decimals in range(1, 6):
        ratio = round(Decimal(theirs) / ours, decimals)
        if abs(theirs - ratio * ours) <= allowed:
            return f"theirs is {ratio} of ours"
    return f"theirs is {Decimal(theirs) / ours:.6f} of ours"


def worst(cells: Iterable[Cell]) -> list[Cell]:
    """The cells whose drift is harmful, the largest first."""
    return sorted((cell for cell in cells if cell.harmful), key=lambda cell: -abs(cell.harmful))


def shown(nanousd_: int) -> str:
    """Write an amount with its sign."""
    return ("+" if nanousd_ > 0 else "") + format_usd(nanousd_)

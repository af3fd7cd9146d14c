"""What is charged where what was told cannot be so: nothing for a model that is not free, or counts without sense.

Nothing of this is silent: the row is flagged, the answer warns, and the settlement is counted and logged. What is
charged in place of what was told is an estimate, so that a later settlement by usage can correct it.
"""

from __future__ import annotations

from collections.abc import Sequence

from limiter.domain.calls import Outcome
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.reservations import Basis, RowFlag
from limiter.service.booking import Reckoning, Subject


def doubt_nothing(said: Reckoning, subject: Subject) -> Reckoning:
    """Flag that the caller says a call has cost nothing: it is believed, but not silently."""
    if subject.free or subject.held == 0 or said.outcome is Outcome.FAILED:
        return said
    said.flags |= RowFlag.ZERO_COST
    said.warnings += ("nothing is charged, as the caller says, though the model is not named free",)
    return said


def not_for_nothing(told: Reckoning, subject: Subject) -> Reckoning:
    """Charge the floor at least; the hold, where what was told comes to nothing and there is no floor.

    Free models and calls that the provider refused may cost nothing; a call that failed and cost something has a floor.
    """
    if subject.free or (told.outcome is Outcome.FAILED and not told.cost):
        return told
    floor = subject.facts.floor
    nothing = told.cost == 0
    if nothing:
        told.flags |= RowFlag.ZERO_COST
    if told.cost < floor:
        told.warnings += (f"what was told comes to {format_usd(told.cost)} USD: the floor is charged",)
        told.cost = floor
    elif nothing and subject.held:
        told.warnings += ("what was told comes to nothing: the hold is charged in full, as an estimate",)
        told.cost, told.basis = subject.held, Basis.ESTIMATED
    elif nothing:
        told.warnings += ("what was told comes to nothing, and nothing was held, though the model is not named free",)
    return told


def doubted(told: Reckoning, subject: Subject, doubts: Sequence[str], *, absurd: bool) -> Reckoning:
    """Flag counts that make no sense, and bound what they cost.

    That is at most the policy's max_cost_per_call or the hold, whichever is larger; for `absurd` counts, or a cost
    that no call can have, it is the hold where the policy says nothing. Raises InvalidArgument for such a cost where
    there is neither.
    """
    impossible = told.cost > CALL_MAX_NANOUSD
    if not doubts and not impossible:
        return told
    told.flags |= RowFlag.SUSPECT
    told.warnings += tuple(f"the counts make no sense: {doubt}" for doubt in doubts)
    most = subject.max_cost
    if most is None and (absurd or impossible) and subject.held is not None:
        most = 0
    if most is None and impossible:
        raise InvalidArgument("actual.usage", f"{format_usd(told.cost)} USD", "no single call can cost so much")
    if most is not None and told.cost > max(most, subject.held or 0):
        told.cost, told.basis = max(most, subject.held or 0), Basis.ESTIMATED
        told.warnings += (f"at most {format_usd(told.cost)} USD is charged for them, as an estimate",)
    return told


def with_missing(told: Reckoning, subject: Subject, missing: Sequence[str]) -> Reckoning:
    """Charge the hold at least where something that was used has no price."""
    if not missing:
        return told
    told.flags |= RowFlag.SUSPECT
    told.warnings += tuple(missing)
    if told.cost < (subject.held or 0):
        told.warnings += ("the hold is charged in full, as an estimate",)
        told.cost, told.basis = subject.held or 0, Basis.ESTIMATED
    return told

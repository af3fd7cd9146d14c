"""Whether adjusting rows can be written, found out before the first one is."""

from __future__ import annotations

import time
from typing import Final

from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.reconcile_adjust import Words
from limiter.cli.sidecar import Place
from limiter.client.contract import messages as pb
from limiter.domain.calls import REQUEST_ID_MAX
from limiter.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.reservations import ReservationName
from limiter.ledger.reconciling.plan import CHARGE, Plan, Step

_ENDED: Final = {pb.Denial.KEY_DISABLED: "disabled", pb.Denial.KEY_EXPIRED: "expired"}


def check(plan: Plan, admin: Place, caller: Place | None, words: Words) -> None:
    """Ask whoever would write the rows, without writing any.

    `caller` None: charges are left out. Raises CommandFailed where a listener cannot be reached or does not let us,
    NotFound, FailedPrecondition or InvalidArgument for what it would refuse.
    """
    for field, text in (("--by", words.by), ("--reason", words.reason)):
        _check_text(text, field)
    corrected, models = "", set()
    for step in plan.steps():
        if step.kind != CHARGE:
            corrected = corrected or ReservationName.parse(step.reservation).organization
        elif caller is not None:
            models.add(step.model)
        else:
            continue
        _check_step(step)
    if corrected:
        with admin.open() as sidecar:
            sidecar.ask(sidecar.admin.ListKeys, pb.ListKeysRequest(scope=corrected, page_size=1))
    if caller is not None and models:
        _check_charges(caller, sorted(models), words)


def _check_step(step: Step) -> None:
    place = f"the row of {step.model}, {step.why}"
    if not 0 <= step.after <= CALL_MAX_NANOUSD:
        most = format_usd(CALL_MAX_NANOUSD)
        raise InvalidArgument(place, format_usd(step.after), f"a row books at most {most} USD: choose --from and --to")
    if step.at_ms > time.time() * 1000:
        raise InvalidArgument(place, f"{step.at_ms} ms", "it is of a time to come: choose the bill's period by --to")
    _check_text(step.provider_request_id, place)


def _check_text(text: str, field: str) -> None:
    if len(text) > REQUEST_ID_MAX or not text.isprintable():
        raise InvalidArgument(field, text, f"the books take at most {REQUEST_ID_MAX} printable characters")


def _check_charges(caller: Place, models: list[str], words: Words) -> None:
    """Ask for a hold of nothing, without holding it: so key, model and tags are checked as those of any call."""
    key = words.charge_to
    with caller.open() as sidecar:
        for model in models:
            request = pb.ReserveRequest(
                key_id=key, model=model, provider=words.provider, tags=words.tags, cost_nanousd=0, dry_run=True
            )
            try:
                answer: pb.ReserveResponse = sidecar.ask(sidecar.limiter.Reserve, request)
            except CommandFailed as error:
                if error.exit_code != ExitCode.NOT_ALLOWED:
                    raise
                remedy = "name a listener that trusts key names by --charge-address, and its token by --charge-token"
                raise CommandFailed(f"{error}; {remedy}", error.exit_code) from None
            if answer.denial.reason == pb.Denial.KEY_UNKNOWN:
                remedy = f"name another one, or mint it with `limiter keys create {key}`"
                raise NotFound(f"--charge-to: the key {key} is not known; {remedy}; nothing was written")
            if ended := _ENDED.get(answer.denial.reason):
                remedy = "name another one, or allow it (`limiter keys enable` or `update`, or in the policy)"
                raise FailedPrecondition(f"--charge-to: the key {key} is {ended}; {remedy}; nothing was written")

"""What an apply answers on the wire."""

from __future__ import annotations

from limiter.policy.changes import Change
from limiter.rpc.admin_answers import applied
from limiter.service.administration import Applied
from limiter.service.openings import Opening
from limiter.v1 import limiter_pb2 as pb


def test_an_apply_tells_changes_versions_notes_and_what_new_limits_start_from() -> None:
    result = Applied(
        (("acme", Change("limits.monthly", "added", "", "5.00 USD per month")),),
        {"acme": 4},
        ("a note",),
        (Opening("acme", "monthly", "month", 2**62 + 1, pending=True),),
    )
    assert applied(result) == pb.ApplyPolicyResponse(
        changes=[
            pb.PolicyChange(organization="acme", path="limits.monthly", change="added", after="5.00 USD per month")
        ],
        versions={"acme": 4},
        notes=["a note"],
        openings=[pb.Opening(scope="acme", limit="monthly", window="month", amount_nanousd=2**62 + 1, pending=True)],
    )

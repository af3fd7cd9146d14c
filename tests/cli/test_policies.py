"""`limiter check`, `apply`, `policy show` and `schema`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import FakeSidecar

GOOD = """\
version: 1
organizations:
  acme:
    limits: [{id: monthly, spend: 5000, per: month}]
    teams:
      search:
        key_defaults: {limits: [{id: daily, spend: 5, per: day}]}
        keys: {bot: {}}
"""
BAD = """\
version: 1
organizations:
  acme:
    limits: [{id: monthly, spend: -1, per: fortnight}]
    tems: {}
"""


@pytest.fixture
def good(directory: Path) -> str:
    (directory / "good.yaml").write_text(GOOD)
    return "good.yaml"


@pytest.fixture
def bad(directory: Path) -> str:
    (directory / "bad.yaml").write_text(BAD)
    return "bad.yaml"


def test_a_valid_file_is_checked_without_a_sidecar(limiter: CommandLine, good: str) -> None:
    output = limiter.run("check", good)

    assert output.out == "good.yaml is valid: 1 organization, 1 team, 1 key, 2 limits\n"


def test_every_mistake_is_listed_with_its_path(limiter: CommandLine, bad: str) -> None:
    output = limiter.run("check", bad, exit_code=1)

    assert output.row("organizations.acme.limits[0].spend")
    assert output.row("organizations.acme.limits[0].per")
    assert output.row("organizations.acme.tems", "did you mean teams?")
    assert "bad.yaml is not valid: 3 mistakes" in output.err


def test_mistakes_are_listed_for_programs(limiter: CommandLine, bad: str) -> None:
    printed = limiter.run("check", bad, "--format", "json", exit_code=1).json

    assert printed["valid"] is False
    assert {mistake["path"] for mistake in printed["mistakes"]} == {
        "organizations.acme.limits[0].spend",
        "organizations.acme.limits[0].per",
        "organizations.acme.tems",
    }


def test_a_policy_may_come_from_the_standard_input(limiter: CommandLine) -> None:
    assert limiter.run("check", "-", "--format", "json", stdin=GOOD).json["limits"] == 2


def test_a_file_that_is_not_there_is_a_usage_error(limiter: CommandLine) -> None:
    output = limiter.run("check", "missing.yaml", exit_code=2)

    assert "'missing.yaml' is not valid; name a file that can be read (No such file or directory)" in output.err


def test_applying_prints_what_changes_and_what_to_know(limiter: CommandLine, sidecar: FakeSidecar, good: str) -> None:
    change = pb.PolicyChange(
        organization="acme", path="limits.monthly", change="changed", before="1.00 USD", after="5000.00 USD"
    )
    sidecar.answers(
        "ApplyPolicy",
        pb.ApplyPolicyResponse(changes=[change], versions={"acme": 4}, notes=["limits.monthly: starts at 0"]),
    )

    output = limiter.run("apply", good)

    assert sidecar.request("ApplyPolicy") == pb.ApplyPolicyRequest(policy_yaml=GOOD)
    assert output.row("acme", "limits.monthly", "changed", "1.00 USD", "5000.00 USD")
    assert output.lines[-1] == "applied: acme (version 4)"
    assert output.err == "note: limits.monthly: starts at 0\n"


def test_applying_prints_what_new_limits_start_from(limiter: CommandLine, sidecar: FakeSidecar, good: str) -> None:
    change = pb.PolicyChange(organization="acme", path="limits.monthly", change="added", after="5000.00 USD per month")
    openings = [
        pb.Opening(scope="acme", limit="monthly", window="month", amount_nanousd=1_234_500_000_001),
        pb.Opening(scope="acme/search/*", limit="daily", window="day", amount_nanousd=5_000_000_000, pending=True),
    ]
    answer = pb.ApplyPolicyResponse(changes=[change], versions={"acme": 4}, openings=openings)
    sidecar.answers("ApplyPolicy", answer, answer)

    output = limiter.run("apply", good)
    printed = limiter.run("apply", good, "--format", "json").json

    assert output.row("acme monthly", "month", "1234.500000001 USD")
    assert output.row("acme/search/* daily", "day", "pending: 5.00 USD so far")
    assert printed["openings"][0]["amount_nanousd"] == 1_234_500_000_001
    assert printed["openings"][1]["pending"] is True


def test_a_dry_run_says_that_nothing_was_applied(limiter: CommandLine, sidecar: FakeSidecar, good: str) -> None:
    answer = pb.ApplyPolicyResponse(changes=[pb.PolicyChange(organization="acme", path="limits.monthly")])
    sidecar.answers("ApplyPolicy", answer, answer)

    output = limiter.run("apply", good, "--dry-run")
    printed = limiter.run("apply", good, "--dry-run", "--format", "json").json

    assert all(request.dry_run for request in sidecar.requests("ApplyPolicy"))
    assert output.lines[-1].startswith("not applied, as asked")
    assert printed["dry_run"] is True


def test_a_policy_with_mistakes_is_not_sent(limiter: CommandLine, sidecar: FakeSidecar, bad: str) -> None:
    limiter.run("apply", bad, exit_code=2)

    assert not sidecar.asked


def test_the_policy_in_force_is_printed_as_it_came(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    answer = pb.GetPolicyResponse(policy_yaml=GOOD, versions={"acme": 4})
    sidecar.answers("GetPolicy", answer, answer)

    assert limiter.run("policy", "show", "acme").out == GOOD
    assert limiter.run("policy", "show", "--format", "json").json == {"policy_yaml": GOOD, "versions": {"acme": 4}}
    assert [request.organization for request in sidecar.requests("GetPolicy")] == ["acme", ""]


def test_the_schema_is_the_one_of_the_documentation(limiter: CommandLine) -> None:
    documented = Path(__file__).parents[2] / "docs" / "policy.schema.json"

    assert limiter.run("schema").json == json.loads(documented.read_text())

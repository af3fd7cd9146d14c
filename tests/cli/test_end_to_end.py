"""The commands against a real sidecar, as a first evening with Limiter goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.integration.sidecars import Fleet, Sidecar

POLICY = """\
version: 1
organizations:
  acme:
    limits: [{id: monthly, spend: 5000, per: month}]
    teams:
      search:
        limits: [{id: monthly, spend: 1, per: month}]
"""


@pytest.fixture(scope="module")
def real() -> Iterator[Sidecar]:
    fleet = Fleet()
    yield fleet.start()
    fleet.close()


def test_from_a_policy_to_an_exact_ledger(
    limiter: CommandLine, real: Sidecar, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_DATA_DIR", str(real.directory))
    (directory / "policy.yaml").write_text(POLICY)
    limiter.run("apply", "policy.yaml")
    secret = limiter.run("keys", "create", "acme/search/bot", "--format", "json").json["secret"]

    size = ("--model", "gpt-4o", "--input-tokens", "1000", "--max-output-tokens", "500")
    hold = limiter.run("reserve", "--address", real.public, "--api-key", secret, *size, "--format", "json").json
    output = limiter.run("top", "--once")
    assert output.row("acme/search", "1.00 USD/month", "0.00", hold["held_usd"])
    assert limiter.run("inspect", hold["reservation"], "--format", "json").json["key"] == "acme/search/bot"

    used = ("--input-tokens", "900", "--output-tokens", "100", "--format", "json")
    cost = limiter.run("settle", hold["reservation"], *used).json
    assert cost["state"] == "SETTLED"
    (row,) = map(json.loads, limiter.run("ledger", "export", "acme").lines)
    assert row["amount_nanousd"] == cost["cost_nanousd"] > 0
    assert row["call"]["key"] == "acme/search/bot"

    limiter.run("reserve", "acme/search/bot", "--cost-usd", "1", "--model", "gpt-4o", exit_code=3)
    limiter.run("keys", "disable", "acme/search/bot")
    refused = limiter.run("reserve", "acme/search/bot", *size, "--format", "json", exit_code=3).json
    assert refused["denial"]["reason"] == "KEY_DISABLED"

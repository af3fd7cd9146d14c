"""What is asked of the sidecar: the policy, and messages as callers send them."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.money import NANOUSD_PER_USD
from limiter.v1 import limiter_pb2 as pb

MODEL = "gpt-4o"
INPUT_TOKENS = 1000
OUTPUT_TOKENS = 500

#: Requests, tokens and money at every scope, none of which is ever reached.
LIMITS = (
    Limit("rpm", LimitKind.REQUESTS, 10_000_000_000, "minute", burst=10_000_000_000),
    Limit("tpm", LimitKind.TOKENS, 50_000_000_000, "minute", burst=50_000_000_000),
    Limit("monthly", LimitKind.SPEND, 9_000_000_000 * NANOUSD_PER_USD, "month"),
)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - write everything out
        return True


def organization(number: int) -> str:
    """The id of an organization; it has one team with one key."""
    return f"org{number}"


def key(number: int) -> str:
    """The key of an organization."""
    return f"{organization(number)}/team/key"


def policy_yaml(organizations: int) -> str:
    """A policy with LIMITS on every key, team and organization."""
    rpm, tpm, monthly = LIMITS
    limits = [
        {"id": rpm.id, "requests": rpm.amount, "per": rpm.per},
        {"id": tpm.id, "tokens": tpm.amount, "per": tpm.per},
        {"id": monthly.id, "spend": monthly.amount // NANOUSD_PER_USD, "per": monthly.per},
    ]
    team = {"limits": limits, "keys": {"key": {"limits": limits}}}
    one = {"limits": limits, "teams": {"team": team}}
    parts = {organization(number): one for number in range(organizations)}
    return yaml.dump({"version": 1, "organizations": parts}, Dumper=_Plain)


def reserve_bodies(secrets: Sequence[str]) -> list[bytes]:
    """One Reserve for each API key: an estimate, two tags, no request id."""
    return [
        pb.ReserveRequest(
            api_key=secret,
            model=MODEL,
            estimate=pb.Estimate(input_tokens=INPUT_TOKENS, max_output_tokens=OUTPUT_TOKENS),
            tags=[pb.Tag(name="customer", value=f"customer-{number}"), pb.Tag(name="feature", value="chat")],
        ).SerializeToString()
        for number, secret in enumerate(secrets)
    ]


def settle_tail() -> bytes:
    """A Settle without its reservation: less was used than was held."""
    usage = pb.Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS // 2)
    return pb.SettleRequest(usage=usage, model=MODEL).SerializeToString()

"""Logs of gateways, a line for each call: OpenRouter's activity and LiteLLM's spend logs.

OpenRouter (https://openrouter.ai/docs/guides/guides/activity-export): `generation_id, created_at, cost_total,
tokens_prompt, tokens_completion, model_permaslug, …`. LiteLLM (table LiteLLM_SpendLogs, or /spend/logs): `request_id,
startTime, spend, prompt_tokens, completion_tokens, model, …`, whose `request_id` is the id of the provider's answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills.files import Source
from limiter.ledger.reconciling.bills.lines import BillLine, Told, count, moment_ms

#: By format: where its fields are.
_OPENROUTER: Final = {
    "request_id": "generation_id", "time": "created_at", "cost": "cost_total", "model": "model_permaslug",
    "input_tokens": "tokens_prompt", "output_tokens": "tokens_completion", "cache_read_tokens": "tokens_cached",
}  # fmt: skip
_LITELLM: Final = {
    "request_id": "request_id", "time": "startTime", "cost": "spend", "model": "model",
    "input_tokens": "prompt_tokens", "output_tokens": "completion_tokens",
}  # fmt: skip
_NEEDED: Final = ("request_id", "time", "cost", "model")


def read_openrouter(source: Source, told: Told) -> Iterator[BillLine]:
    """Read OpenRouter's activity. Raises InvalidArgument for anything else."""
    return _read(source, told, _OPENROUTER, "give the export of OpenRouter's activity")


def read_litellm(source: Source, told: Told) -> Iterator[BillLine]:
    """Read LiteLLM's spend logs. Raises InvalidArgument for anything else."""
    return _read(source, told, _LITELLM, "give LiteLLM's spend logs")


def _read(source: Source, told: Told, fields: dict[str, str], remedy: str) -> Iterator[BillLine]:
    found = source.documents() if source.is_json() else source.rows()
    for place, row in found:
        if missing := [fields[name] for name in _NEEDED if fields[name] not in row]:
            raise InvalidArgument(place, ", ".join(row)[:200], f"{remedy}: {', '.join(missing)} is missing")
        yield _line(row, place, told, fields)


def _line(row: dict[str, Any], place: str, told: Told, fields: dict[str, str]) -> BillLine:
    at_ms = moment_ms(row[fields["time"]], f"{place} {fields['time']}")
    identity = str(row[fields["request_id"]] or "")
    counts: dict[str, Any] = {
        name: count(row.get(fields[name]), f"{place} {fields[name]}")
        for name in ("input_tokens", "output_tokens", "cache_read_tokens")
        if name in fields
    }
    cost = told.usd(row[fields["cost"]] or 0, f"{place} {fields['cost']}")
    return BillLine(
        place, at_ms, at_ms, str(row[fields["model"]] or ""), "call", cost, identity, 1,
        identity=f"{identity} {at_ms} {cost}" if identity else f"{place} {at_ms}", **counts,
    )  # fmt: skip

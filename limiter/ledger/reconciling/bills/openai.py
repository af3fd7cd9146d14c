"""OpenAI: costs and usage of the organization, as the API and the dashboard export them.

Documented at https://platform.openai.com/docs/api-reference/usage (costs: `organization.costs.result`, daily buckets in
UTC, `group_by=line_item`; completions usage: `organization.usage.completions.result`, buckets of 1m, 1h or 1d). The
dashboard's CSV has the same in columns: `start_time, end_time, amount_value, amount_currency, line_item, …` and
`start_time, end_time, num_model_requests, model, input_tokens, …`. Line items read "gpt-4o-2024-08-06, cached input" or
"priority | gpt-5.1, output, long context"; what is no model's has no comma ("web search tool calls").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills.files import Source
from limiter.ledger.reconciling.bills.lines import (
    BillLine,
    Told,
    check_currency,
    count,
    identity_of,
    moment_ms,
    part_of,
)

_MODEL: Final = re.compile(r"(?P<model>[A-Za-z0-9][\w.:\-]*)(?: (?:text|audio|image))?", re.ASCII)
_COUNTS: Final = {
    "calls": "num_model_requests",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "input_cached_tokens",
}
_KNOWN: Final = {
    *("start_time", "end_time", "start_time_iso", "end_time_iso", "object", "model", "line_item", "amount"),
    *("amount_value", "amount_currency", "project_id", "project_name", "organization_id", "organization_name"),
    *("user_id", "user_email", "api_key_id", "api_key_name", "batch", "service_tier", "quantity", *_COUNTS.values()),
}
#: Parts of the counts above; an export has more of them every year.
_PARTS: Final = re.compile(r"(?:input|output)_(?:\w+_)?tokens")


def read(source: Source, told: Told) -> Iterator[BillLine]:
    """Read the lines of one export. Raises InvalidArgument for anything else."""
    if not source.is_json():
        for place, row in source.rows():
            if "start_time" not in row or not {"amount_value", "input_tokens", "num_model_requests"} & row.keys():
                raise InvalidArgument(
                    place, ", ".join(row), "give OpenAI's export of costs or usage (start_time, amount_value, …)"
                )
            yield from _line(row, place, told, row["start_time"], row.get("end_time"))
        return
    for place, page in source.documents():
        buckets = page.get("data", [page] if "results" in page else None)
        if not isinstance(buckets, list):
            raise InvalidArgument(place, ", ".join(page), "give the answers of OpenAI's costs or usage API")
        for number, bucket in enumerate(buckets):
            start, end = bucket.get("start_time"), bucket.get("end_time")
            for result in bucket.get("results", bucket.get("result", ())):
                yield from _line(result, f"{place} data[{number}]", told, start, end)
            told.page(moment_ms(end, place), place, has_more=bool(page.get("has_more")) and number == len(buckets) - 1)


def _line(row: Mapping[str, Any], place: str, told: Told, start: object, end: object) -> Iterator[BillLine]:
    told.unknown_columns.update(name for name in row if name not in _KNOWN and not _PARTS.fullmatch(name))
    amount = row.get("amount") or {}
    value = amount.get("value") if amount else row.get("amount_value")
    start_ms = moment_ms(start, f"{place} start_time")
    end_ms = moment_ms(end, f"{place} end_time") if end else start_ms + 86_400_000
    identity = identity_of({**row, "start_time": start_ms, "end_time": end_ms})
    if "amount" in row or "amount_value" in row:
        if value in (None, ""):
            told.leave_out("days without cost")
            return
        check_currency(amount.get("currency") or row.get("amount_currency"), f"{place} currency")
        item = str(row.get("line_item") or "")
        cost = told.usd(value, f"{place} amount")
        part = part_of(item.partition(",")[2])
        yield BillLine(place, start_ms, end_ms, model_of(item), item, cost, part=part, identity=identity)
        return
    counts: dict[str, Any] = {name: count(row.get(column), f"{place} {column}") for name, column in _COUNTS.items()}
    if not any(counts.values()):
        told.leave_out("buckets without usage")
        return
    model = str(row.get("model") or "")
    yield BillLine(place, start_ms, end_ms, model, "usage", identity=identity, **counts)


def model_of(item: str) -> str:
    """The model that a line item is about; "" if it is about none."""
    head, comma, _ = item.rpartition("|")[2].strip().partition(",")
    found = _MODEL.fullmatch(head)
    if found is None or not (comma or any(letter.isdigit() for letter in head)):
        return ""
    return found["model"]

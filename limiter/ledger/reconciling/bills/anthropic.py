"""Anthropic: usage and cost reports of the Admin API, and the console's CSV.

Documented at https://platform.claude.com/docs/en/api/admin/cost_report (daily; `amount` is a decimal text in cents;
`model`, `token_type` with `group_by[]=description`) and …/usage_report/messages (1m, 1h or 1d; `uncached_input_tokens`,
`cache_creation`, `cache_read_input_tokens`, `output_tokens`). The console's files have
`usage_date_utc, model, token_type, cost_usd, …` and `usage_date_utc, model_version, usage_input_tokens_no_cache, …`,
one line a day or an hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
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

_CENT: Final = Decimal("0.01")
_HOUR_MS: Final = 3_600_000
_KNOWN: Final = {
    *("amount", "currency", "context_window", "cost_type", "description", "inference_geo", "model", "service_tier"),
    *("token_type", "workspace_id", "api_key_id", "speed", "server_tool_use", "account_id", "service_account_id"),
    *("uncached_input_tokens", "cache_creation", "cache_read_input_tokens", "output_tokens"),
    *("usage_date_utc", "workspace", "api_key", "usage_type", "cost_usd", "list_price_usd", "api_key_status"),
    *("model_version", "usage_input_tokens_no_cache", "usage_input_tokens_cache_write_5m", "web_search_count"),
    *("usage_input_tokens_cache_write_1h", "usage_input_tokens_cache_read", "usage_output_tokens"),
}
_WRITTEN: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def read(source: Source, told: Told) -> Iterator[BillLine]:
    """Read the lines of one export. Raises InvalidArgument for anything else."""
    if not source.is_json():
        yield from _console(source, told)
        return
    for place, page in source.documents():
        buckets = page.get("data", [page] if "results" in page else None)
        if not isinstance(buckets, list) or any("starting_at" not in bucket for bucket in buckets):
            raise InvalidArgument(place, ", ".join(page), "give the answers of Anthropic's usage or cost report")
        for number, bucket in enumerate(buckets):
            where = f"{place} data[{number}]"
            span = moment_ms(bucket["starting_at"], where), moment_ms(bucket.get("ending_at"), where)
            for result in bucket.get("results", ()):
                yield _reported(result, where, told, span)
            told.page(span[1], place, has_more=bool(page.get("has_more")) and number == len(buckets) - 1)


def _reported(row: Mapping[str, Any], place: str, told: Told, span: tuple[int, int]) -> BillLine:
    told.unknown_columns.update(row.keys() - _KNOWN)
    identity = identity_of({**row, "span": span})
    model = str(row.get("model") or "")
    if "amount" in row:
        check_currency(row.get("currency"), f"{place} currency")
        cost = told.usd(row["amount"], f"{place} amount", factor=_CENT)
        part = part_of(str(row.get("token_type") or ""))
        return BillLine(place, *span, model, str(row.get("description") or ""), cost, part=part, identity=identity)
    creation = row.get("cache_creation") or {}
    written = sum(count(creation.get(name), place) or 0 for name in _WRITTEN)
    return _usage(
        BillLine(place, *span, model, "usage", identity=identity),
        plain=count(row.get("uncached_input_tokens"), place) or 0,
        written=written,
        read_=count(row.get("cache_read_input_tokens"), place) or 0,
        output=count(row.get("output_tokens"), place) or 0,
    )


def _usage(line: BillLine, *, plain: int, written: int, read_: int, output: int) -> BillLine:
    return line._replace(
        input_tokens=plain + written + read_,
        output_tokens=output,
        cache_read_tokens=read_,
        cache_write_tokens=written,
    )


def _console(source: Source, told: Told) -> Iterator[BillLine]:
    for place, row in source.rows():
        if "usage_date_utc" not in row or not {"cost_usd", "usage_output_tokens"} & row.keys():
            raise InvalidArgument(
                place, ", ".join(row), "give the console's export of costs or usage (usage_date_utc, cost_usd, …)"
            )
        told.unknown_columns.update(row.keys() - _KNOWN)
        date = row["usage_date_utc"]
        start_ms = moment_ms(date, f"{place} usage_date_utc")
        end_ms = start_ms + (_HOUR_MS if len(date) > len("2026-11-01") else 24 * _HOUR_MS)
        identity = identity_of(row)
        if "cost_usd" in row:
            cost = told.usd(row["cost_usd"], f"{place} cost_usd")
            item = " ".join(filter(None, (row.get("model"), row.get("token_type"), row.get("usage_type"))))
            part = part_of(row.get("token_type") or "")
            yield BillLine(place, start_ms, end_ms, row.get("model") or "", item, cost, part=part, identity=identity)
            continue
        kinds = ("5m", "1h")
        written = [count(row.get(f"usage_input_tokens_cache_write_{kind}"), place) or 0 for kind in kinds]
        yield _usage(
            BillLine(place, start_ms, end_ms, row.get("model_version") or "", "usage", identity=identity),
            plain=count(row.get("usage_input_tokens_no_cache"), place) or 0,
            written=sum(written),
            read_=count(row.get("usage_input_tokens_cache_read"), place) or 0,
            output=count(row.get("usage_output_tokens"), place) or 0,
        )

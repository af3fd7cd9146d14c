"""AWS: the lines of Amazon Bedrock in Cost and Usage Reports.

Documented at https://docs.aws.amazon.com/cur/latest/userguide/data-dictionary.html (CUR 1.0, `lineItem/UsageType`)
and https://docs.aws.amazon.com/cur/latest/userguide/table-dictionary-cur2.html (CUR 2.0, `line_item_usage_type`). Usage
types read "USE1-Claude3Sonnet-input-tokens", "USE1-Claude4Sonnet-output-tokens-cross-region-global" and, of models sold
through the marketplace, "USE1-MP:USE1_InputTokenCount-Units" with the model in the product's name ("Claude Sonnet 4.5
(Amazon Bedrock Edition)"). Amounts are the unblended cost; tokens come in thousands or millions, as the pricing unit
says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills.files import Source
from limiter.ledger.reconciling.bills.lines import (
    BillLine,
    Told,
    check_currency,
    count,
    identity_of,
    moment_ms,
    number,
    part_of,
)

_NEEDED: Final = (
    *("line_item_usage_type", "line_item_product_code", "line_item_usage_start_date"),
    "line_item_unblended_cost",
)
_EDITION: Final = re.compile(r"(?P<model>.+?) \(Amazon Bedrock Edition\)")
_NAMES: Final = ("product_servicename", "product_product_name", "product", "line_item_line_item_description")
_REGION: Final = re.compile(r"^[A-Z]{2,4}\d?-(?:MP:)?(?:[A-Z]{2,4}\d?_)?")
_MEASURE: Final = re.compile(
    r"-(?:text-|image-|audio-|video-)?(?:(?:cache-(?:read|write)-)?(?:input|output)-(?:tokens?|token-count|image).*"
    r"|cache-(?:read|write)-(?:input-)?tokens?.*|mantle-.*|custom-model-.*)$",
    re.IGNORECASE,
)
_CHARGED: Final = ("Usage", "DiscountedUsage", "SavingsPlanCoveredUsage")
_SIZES: Final = (
    ("1m", Decimal(1_000_000)),
    ("million", Decimal(1_000_000)),
    ("1k", Decimal(1000)),
    ("1000", Decimal(1000)),
)


def read(source: Source, told: Told) -> Iterator[BillLine]:
    """Read the lines of one export. Raises InvalidArgument for anything else."""
    for place, written in source.rows():
        row = {snake(name): value for name, value in written.items()}
        if missing := [name for name in _NEEDED if name not in row]:
            raise InvalidArgument(
                place, ", ".join(written)[:200], f"give a Cost and Usage Report: {', '.join(missing)}"
            )
        cost = number(row["line_item_unblended_cost"] or "0", f"{place} line_item_unblended_cost")
        edition = next((found for name in _NAMES if (found := _EDITION.search(row.get(name, "")))), None)
        if not row["line_item_product_code"].startswith("AmazonBedrock") and edition is None:
            told.leave_out("lines of other services", cost)
            continue
        kind = row.get("line_item_line_item_type") or "Usage"
        if kind not in _CHARGED and cost >= 0:
            told.leave_out(f"lines of type {kind}", cost)
            continue
        yield _line(row, place, told, edition["model"] if edition else "")


def _line(row: Mapping[str, str], place: str, told: Told, edition: str) -> BillLine:
    check_currency(row.get("line_item_currency_code"), f"{place} line_item_currency_code")
    start_ms = moment_ms(row["line_item_usage_start_date"], f"{place} line_item_usage_start_date")
    ends = row.get("line_item_usage_end_date")
    end_ms = moment_ms(ends, f"{place} line_item_usage_end_date") if ends else start_ms + 3_600_000
    number_, span = row.get("identity_line_item_id"), row.get("identity_time_interval", "")
    usage = row["line_item_usage_type"]
    line = BillLine(
        place, start_ms, end_ms, edition or model_of(usage), usage,
        told.usd(row["line_item_unblended_cost"] or "0", f"{place} line_item_unblended_cost"),
        part=part_of(usage), identity=f"{number_} {span}" if number_ else identity_of(dict(row)),
    )  # fmt: skip
    tokens = count(row.get("line_item_usage_amount"), f"{place} line_item_usage_amount", factor=_size(row, usage))
    if tokens is None or "token" not in usage.lower() or (line.cost or 0) < 0:
        return line
    if line.part == "output":
        return line._replace(output_tokens=tokens)
    read_ = tokens if line.part == "cache_read" else 0
    written = tokens if line.part == "cache_write" else 0
    return line._replace(input_tokens=tokens, cache_read_tokens=read_, cache_write_tokens=written)


def model_of(usage: str) -> str:
    """The model in a usage type; "" if there is none."""
    rest = _REGION.sub("", usage)
    name = _MEASURE.sub("", rest)
    return "" if name == rest else name


def snake(name: str) -> str:
    """A column's name as CUR 2.0 writes it: lineItem/UsageType is line_item_usage_type."""
    if "/" not in name:
        return name.lower()
    return "_".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower() for part in name.split("/"))


def _size(row: Mapping[str, str], usage: str) -> Decimal:
    """How many tokens a unit is: as the pricing unit says, else a thousand; a million for the marketplace."""
    unit = row.get("pricing_unit", "").lower().replace(" ", "")
    for mark, size in _SIZES:
        if unit.startswith(mark):
            return size
    if unit in ("tokens", "token"):
        return Decimal(1)
    return Decimal(1_000_000) if "MP:" in usage else Decimal(1000)

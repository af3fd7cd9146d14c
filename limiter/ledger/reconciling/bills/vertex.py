"""Google: the Cloud Billing export to BigQuery, saved as CSV or as lines of JSON.

Documented at https://cloud.google.com/billing/docs/how-to/export-data-bigquery-tables/detailed-usage. Fields may be
nested (JSON) or named `service.description` or `service_description` (CSV). SKUs read "Gemini 2.5 Flash GA Text Input -
Predictions", "Claude Sonnet 4.5 - Output Tokens", and of the Gemini API "Generate content input token count gemini 2.5
flash text". Costs in another currency are converted at the line's `currency_conversion_rate`; credits stand beside
them. Lines of one SKU and hour are reported several times, each adding to the others: none is a duplicate unless all
its fields are the same, its `export_time` included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills.files import Source
from limiter.ledger.reconciling.bills.lines import BillLine, Told, count, identity_of, moment_ms, number, part_of

_SERVICES: Final = re.compile(
    r"vertex ai|gemini api|generative language|agent platform|cloud ai platform", re.IGNORECASE
)
_NOISE: Final = re.compile(
    r"\b(?:vertex ai|online|batch|predictions?|text|audio|image|video|input|output|thinking|caching|cached|cache|read|"
    r"write|writes|storage|short|long|context|tokens?|count|generate[ _]content|for|ga|global|regional|priority|flex|"
    r"token_count|hits?|\d+m|\d+h|requests?)\b",
    re.IGNORECASE,
)
_MODEL: Final = re.compile(r"\b(?:gemini|claude|llama|mistral|codestral|gemma|jamba|deepseek|qwen)\b", re.IGNORECASE)
_NEEDED: Final = ("service_description", "sku_description", "usage_start_time", "cost")


def read(source: Source, told: Told) -> Iterator[BillLine]:
    """Read the lines of one export. Raises InvalidArgument for anything else."""
    found = source.documents() if source.is_json() else source.rows()
    for place, row in found:
        flat = _flat(row)
        missing = [name for name in _NEEDED if name not in flat]
        if missing:
            raise InvalidArgument(
                place, ", ".join(row), f"export {', '.join(missing)}, too, from Cloud Billing's table in BigQuery"
            )
        if not _SERVICES.search(str(flat["service_description"])):
            told.leave_out("lines of other services", number(flat["cost"], f"{place} cost") / _rate(flat, place))
            continue
        yield from _lines(flat, place, told, _usd(flat, place, told))


def _lines(flat: Mapping[str, Any], place: str, told: Told, usd: Decimal) -> Iterator[BillLine]:
    item = str(flat["sku_description"])
    start_ms = moment_ms(flat["usage_start_time"], f"{place} usage_start_time")
    ends = flat.get("usage_end_time")
    end_ms = moment_ms(ends, f"{place} usage_end_time") if ends else start_ms + 3_600_000
    tokens = _tokens(flat, item, place)
    model = model_of(item)
    line = BillLine(place, start_ms, end_ms, model, item, usd, part=part_of(item), identity=identity_of(dict(flat)))
    if tokens is not None and model:
        line = line._replace(**_counts(line.part, tokens))
    yield line
    for credit in _credits(flat, place):
        amount = told.usd(credit["amount"], f"{place} credits", factor=1 / _rate(flat, place))
        name = str(credit.get("name") or credit.get("type") or "credit")
        yield line._replace(
            item=name, cost=amount, identity=f"{line.identity} {name} {amount}",
            input_tokens=None, output_tokens=None, cache_read_tokens=None,
        )  # fmt: skip


def model_of(sku: str) -> str:
    """The model that a SKU is about; "" if it is about none."""
    if not _MODEL.search(sku):
        return ""
    words = _NOISE.sub(" ", sku.replace("_", " ")).replace("-", " ").split()
    first = next((i for i, word in enumerate(words) if _MODEL.match(word)), 0)
    return "-".join(words[first:]).lower()


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        full = prefix + name.replace(".", "_").lower()
        if isinstance(value, dict):
            found |= _flat(value, f"{full}_")
        else:
            found[full] = value
    return found


def _rate(flat: Mapping[str, Any], place: str) -> Decimal:
    """How much of the bill's currency a dollar is."""
    if str(flat.get("currency") or "USD").upper() == "USD":
        return Decimal(1)
    rate = number(flat.get("currency_conversion_rate") or "0", f"{place} currency_conversion_rate")
    if rate <= 0:
        raise InvalidArgument(f"{place} currency", flat["currency"], "export currency_conversion_rate, too")
    return rate


def _usd(flat: Mapping[str, Any], place: str, told: Told) -> Decimal:
    rate = _rate(flat, place)
    if rate != 1:
        told.note(f"amounts in {flat['currency']} are converted at each line's currency_conversion_rate")
    return told.usd(flat["cost"], f"{place} cost") / rate


def _credits(flat: Mapping[str, Any], place: str) -> list[Any]:
    """The credits of a line: a list, as JSON writes it, or its text in a CSV."""
    given = flat.get("credits") or flat.get("credits_amount") or []
    if isinstance(given, str):
        try:
            given = json.loads(given, parse_float=Decimal)
        except json.JSONDecodeError:
            raise InvalidArgument(f"{place} credits", given, "write them as JSON, or their sum") from None
    found: list[Any] = given if isinstance(given, list) else [given]
    return [one if isinstance(one, dict) else {"amount": one} for one in found if one]


def _tokens(flat: Mapping[str, Any], item: str, place: str) -> int | None:
    unit = str(flat.get("usage_unit") or "")
    amount = flat.get("usage_amount")
    counts = unit.lower() in ("count", "tokens", "token", "requests") and not re.search(
        r"storage|image|video", item, re.IGNORECASE
    )
    return count(amount, f"{place} usage.amount") if counts else None


def _counts(part: str, tokens: int) -> dict[str, Any]:
    if part == "output":
        return {"output_tokens": tokens}
    counts = {"input_tokens": tokens}
    return counts | {"cache_read_tokens": tokens} if part == "cache_read" else counts

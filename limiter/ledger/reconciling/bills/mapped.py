"""Any other export: a mapping file says which column is what.

```yaml
columns:
  time: created            # of a call, or the beginning of a bucket
  end: until               # of a bucket; or `bucket: hour` below
  model: model_name
  cost: amount
  request_id: upstream_id
  input_tokens: prompt
  output_tokens: completion
  currency: cur            # checked to be USD
bucket: day                # minute, hour, day: what one line sums up; left out: a line is a call
cost_in: "0.01"            # what one of `cost` is in USD; cents here
tokens_in: 1000            # what one of the token columns is in tokens
input_includes_cache: true # false: cached tokens are counted beside the input
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import yaml

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

_COUNTS: Final = ("calls", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_COLUMNS: Final = ("time", "end", "model", "cost", "request_id", "item", "currency", *_COUNTS)
_SETTINGS: Final = ("columns", "bucket", "cost_in", "tokens_in", "input_includes_cache")
_WIDTHS: Final = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


class Mapped:
    """Reads exports by a mapping. Raises InvalidArgument for a mapping that says nothing sensible."""

    def __init__(self, path: Path) -> None:
        given = _loaded(path)
        columns = given.get("columns")
        if not isinstance(columns, dict) or not {"time", "model"} <= columns.keys():
            raise InvalidArgument(f"{path.name}: columns", columns, "name at least the columns of time and model")
        for name in (*(given.keys() - set(_SETTINGS)), *(columns.keys() - set(_COLUMNS))):
            known = ", ".join(_COLUMNS if name in columns else _SETTINGS)
            raise InvalidArgument(f"{path.name}: {name}", name, f"there is only {known}")
        if not columns.keys() & {"cost", *_COUNTS}:
            raise InvalidArgument(f"{path.name}: columns", columns, "name the column of the cost, or of counts")
        self._columns: dict[str, str] = {name: str(column) for name, column in columns.items()}
        bucket = given.get("bucket", "")
        if bucket and bucket not in _WIDTHS:
            raise InvalidArgument(f"{path.name}: bucket", bucket, f"write {', '.join(_WIDTHS)}")
        self._width = _WIDTHS.get(bucket, 0)
        self._cost_in = number(given.get("cost_in", 1), f"{path.name}: cost_in")
        self._tokens_in = number(given.get("tokens_in", 1), f"{path.name}: tokens_in")
        self._beside = given.get("input_includes_cache", True) is False

    def read(self, source: Source, told: Told) -> Iterator[BillLine]:
        """Read the lines of one export. Raises InvalidArgument where a column is missing."""
        found = source.documents() if source.is_json() else source.rows()
        for place, row in found:
            if missing := [column for column in self._columns.values() if _at(row, column) is _MISSING]:
                raise InvalidArgument(place, ", ".join(row)[:200], f"the mapping names {', '.join(missing)}")
            yield self._line(row, place, told)

    def _line(self, row: Mapping[str, Any], place: str, told: Told) -> BillLine:
        value = {name: _at(row, column) for name, column in self._columns.items()}
        where = {name: f"{place} {column}" for name, column in self._columns.items()}
        if "currency" in value:
            check_currency(value["currency"], where["currency"])
        start_ms = moment_ms(value["time"], where["time"])
        end_ms = moment_ms(value["end"], where["end"]) if value.get("end") else start_ms + self._width
        counts: dict[str, Any] = {}
        for name in _COUNTS:
            if name in value:
                factor = Decimal(1) if name == "calls" else self._tokens_in
                counts[name] = count(value[name], where[name], factor=factor)
        if self._beside and counts.get("input_tokens") is not None:
            beside = (counts.get("cache_read_tokens") or 0) + (counts.get("cache_write_tokens") or 0)
            counts["input_tokens"] = (counts["input_tokens"] or 0) + beside
        if start_ms == end_ms:
            counts.setdefault("calls", 1)
        cost, item = value.get("cost"), str(value.get("item") or "")
        return BillLine(
            place, start_ms, end_ms, str(value["model"] or ""), item,
            None if cost in (None, "") else told.usd(cost, where["cost"], factor=self._cost_in),
            str(value.get("request_id") or "").strip(), part=part_of(item),
            identity=self._identity(row, value, place), **counts,
        )  # fmt: skip

    def _identity(self, row: Mapping[str, Any], value: Mapping[str, Any], place: str) -> str:
        """Calls without an id may well be alike; each stands for itself."""
        return identity_of(dict(row)) if self._width or value.get("end") or value.get("request_id") else place


_MISSING: Final = object()


def _at(row: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401 - whatever the export holds
    """What stands in a column; in JSON, `usage.input_tokens` leads into objects."""
    if column in row:
        return row[column]
    found: Any = row
    for part in column.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found


def _loaded(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument("--mapping", str(path), f"name a file that can be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidArgument("--mapping", str(path), f"write YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(given, dict):
        raise InvalidArgument("--mapping", str(path), "write `columns:` and what is in them")
    return given

"""Opens exports: CSV, JSON and lines of JSON, gzipped or not; what is cut off is an error, not a shorter bill."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TextIO

from limiter.domain.errors import InvalidArgument

_CUT: Final = "the file is damaged or cut off: export it again"
_GZIP: Final = b"\x1f\x8b"
#: The longest field of a CSV: AWS writes whole lists of tags into one.
_FIELD_MAX: Final = 10_000_000

csv.field_size_limit(_FIELD_MAX)


@dataclass(frozen=True, slots=True)
class Source:
    """An export."""

    path: Path

    @contextmanager
    def open(self) -> Iterator[TextIO]:
        """Open it as text, whatever it is packed in. Raises InvalidArgument for what cannot be read to its end."""
        try:
            with self.path.open("rb") as raw:
                packed = raw.read(2) == _GZIP
                raw.seek(0)
                plain = gzip.GzipFile(fileobj=raw) if packed else raw
                with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
                    yield text
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise InvalidArgument("--file", str(self.path), _CUT) from None
        except UnicodeDecodeError:
            raise InvalidArgument("--file", str(self.path), "name a file in UTF-8, gzipped or not") from None
        except OSError as error:
            raise InvalidArgument(
                "--file", str(self.path), f"name a file that can be read ({error.strerror})"
            ) from None

    def is_json(self) -> bool:
        """Whether it begins as JSON does."""
        with self.open() as text:
            return text.read(4096).lstrip()[:1] in ("{", "[")

    def rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The lines of a CSV (or TSV) by column, each with its place; raises InvalidArgument for a line cut off."""
        with self.open() as text:
            first = text.readline()
            if not first.strip():
                raise InvalidArgument("--file", str(self.path), "the file is empty: name an export")
            delimiter = max(",\t;", key=first.count)
            names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            try:
                for values in reader:
                    place = f"{self.path.name}:{reader.line_num + 1}"
                    if not any(values):
                        continue
                    if len(values) != len(names):
                        raise InvalidArgument(
                            place, f"{len(values)} fields, not the {len(names)} of the first line", _CUT
                        )
                    yield place, dict(zip(names, values, strict=True))
            except csv.Error as error:
                raise InvalidArgument(f"{self.path.name}:{reader.line_num + 1}", str(error), _CUT) from None

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects of a JSON file: of its lines, of its list, or the one; numbers keep every digit."""
        with self.open() as text:
            first = text.readline()
            while first and not first.strip():
                first = text.readline()
            try:
                one = _parsed(first)
            except json.JSONDecodeError:
                yield from self._whole(first + text.read())
                return
            if isinstance(one, list):
                yield from self._flat(one, "1")
                return
            yield from self._flat([one], "1")
            for line, written in enumerate(text, start=2):
                if written.strip():
                    try:
                        yield from self._flat([_parsed(written)], str(line))
                    except json.JSONDecodeError:
                        raise InvalidArgument(f"{self.path.name}:{line}", written[:40], _CUT) from None

    def _whole(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            found = _parsed(text)
        except json.JSONDecodeError as error:
            raise InvalidArgument(f"{self.path.name}:{error.lineno}", text[-40:], _CUT) from None
        yield from self._flat(found if isinstance(found, list) else [found], "1")

    def _flat(self, found: list[Any], line: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, one in enumerate(found):
            place = f"{self.path.name}:{line}" + (f"[{number}]" if len(found) > 1 else "")
            if not isinstance(one, dict):
                raise InvalidArgument(place, one, "expected an object: name an export of the provider")
            yield place, one


def _parsed(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets in brackets without end
        raise json.JSONDecodeError("beyond what an export holds", text, 0) from None

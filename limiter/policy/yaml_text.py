"""YAML text to plain values, strictly: what YAML would guess is refused or left to the fields to judge.

An unquoted scalar is null (null, ~ or nothing), true or false, an int (12), a Decimal (0.10, exactly as written)
or else text: so yes, 1_000, 1:30, 0o17, 007, 1e3 and .inf are text, and a field that wants a number says so.
The names in a mapping are always text, taken as written. A name given twice, tags (!!float) and second documents
are refused; anchors and aliases are understood, and bounded like everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, TypeAlias

import yaml

from limiter.domain.mistakes import Mistake, Place, path
from limiter.policy.mistakes import PolicyInvalid

#: Largest document, in bytes of UTF-8.
DOCUMENT_MAX_BYTES: Final = 8 * 1024 * 1024

#: Most values in a document, those that aliases repeat included.
VALUES_MAX: Final = 2_000_000

#: Deepest nesting; a policy needs nine levels.
DEPTH_MAX: Final = 32

#: Longest number; a longer one is text. Within the 28 digits that Decimal's arithmetic keeps exactly.
NUMBER_MAX_CHARS: Final = 28

INT: Final = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+", re.ASCII)
_WORDS: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

Value: TypeAlias = "bool | int | Decimal | str | list[Value] | dict[str, Value] | None"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it


def read_yaml(text: str) -> tuple[Value, list[Mistake]]:
    """Return the one document in `text`, and the mistakes that do not keep it from being read further.

    Raises PolicyInvalid for text that cannot be read at all.
    """
    try:
        size = len(text.encode())
        if size > DOCUMENT_MAX_BYTES:
            raise PolicyInvalid.at((), f"the document has {size} bytes; the most is {DOCUMENT_MAX_BYTES}")
        return _Reader(text).document()
    except UnicodeEncodeError as error:
        raise PolicyInvalid.at((), f"character {error.start} is no Unicode character; write UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise PolicyInvalid.at((), f"{_where(error)}{_why(error)}") from None
    except yaml.YAMLError as error:
        raise PolicyInvalid.at((), f"not YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Builds the values of one document from the parser's events, so that nothing is built unbounded."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._mistakes: list[Mistake] = []
        self._anchored: dict[str, tuple[Value, int]] = {}
        self._values = 0

    def document(self) -> tuple[Value, list[Mistake]]:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise PolicyInvalid.at((), "the document is empty")
        value = self._value(next(self._events), ())
        next(self._events)  # the document's end
        further = next(self._events)
        if not isinstance(further, yaml.StreamEndEvent):
            raise PolicyInvalid.at((), f"line {_line(further)}: a second document begins; write one only")
        return value, self._mistakes

    def _value(self, event: Any, place: Place) -> Value:  # noqa: ANN401 the stubs know no common type of events
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._values
        self._count(1, event)
        if len(place) > DEPTH_MAX:
            raise PolicyInvalid.at(place[:3], f"line {_line(event)}: nested deeper than {DEPTH_MAX} levels")
        if event.tag is not None:
            self._mistakes.append(
                Mistake(path(place), f"line {_line(event)}: {event.tag!r}: tags are not used; write the plain value")
            )
        value: Value
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._list(place)
        else:
            value = self._mapping(place)
        if event.anchor is not None:
            self._anchored[event.anchor] = (value, self._values - before)
        return value

    def _list(self, place: Place) -> list[Value]:
        items: list[Value] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*place, len(items))))
        return items

    def _mapping(self, place: Place) -> dict[str, Value]:
        entries: dict[str, Value] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise PolicyInvalid.at(place, f"line {_line(event)}: a name must be plain text")
            name: str = event.value
            value = self._value(next(self._events), (*place, name))
            if name in entries:
                message = f"line {_line(event)}: given twice, first in line {lines[name]}; remove one"
                self._mistakes.append(Mistake(path((*place, name)), message))
                continue
            entries[name], lines[name] = value, _line(event)
        return entries

    def _alias(self, event: Any) -> Value:  # noqa: ANN401 as above
        if event.anchor not in self._anchored:
            raise PolicyInvalid.at((), f"line {_line(event)}: *{event.anchor} stands for nothing that ended before it")
        value, size = self._anchored[event.anchor]
        self._count(size, event)
        return value

    def _count(self, values: int, event: Any) -> None:  # noqa: ANN401 as above
        self._values += values
        if self._values > VALUES_MAX:
            raise PolicyInvalid.at((), f"line {_line(event)}: more than {VALUES_MAX} values, aliases written out")


def _scalar(text: str) -> Value:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= NUMBER_MAX_CHARS:
        if INT.fullmatch(text):
            return int(text)
        if DECIMAL.fullmatch(text):
            return Decimal(text)
    return text


def _line(event: Any) -> int:  # noqa: ANN401 as above
    line: int = event.start_mark.line
    return line + 1


def _where(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _why(error: yaml.MarkedYAMLError) -> str:
    return "not YAML: " + ", ".join(part for part in (error.context, error.problem) if part)

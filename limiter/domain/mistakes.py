"""What is wrong with a file: every mistake at once, each with its exact path, the value and a remedy."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from limiter.domain.errors import SHOWN_VALUE_MAX

#: So many mistakes are listed; one more line says that there are others.
MISTAKES_MAX: Final = 200

_PLAIN_PART = re.compile(r"[A-Za-z0-9_@-]{1,128}", re.ASCII)
_OWN: Final = "limiter"

Place = tuple[str | int, ...]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `path` is where it is, such as organizations.acme.limits[0].spend; "": the whole file."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def path(place: Sequence[str | int]) -> str:
    """Write a place: dots between names, [0] for items, ["…"] around a name that is not a plain word."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_PART.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(_shortened(part), ensure_ascii=False)}]"
    return text


def shown(value: object) -> str:
    """Write a value the way YAML does, shortened."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return _shortened(f"{value:f}" if isinstance(value, Decimal) else repr(value))


def refuse(value: object, remedy: str) -> PydanticCustomError:
    """Return the error to raise from a field's validator."""
    return mistaken(f"{shown(value)} is not valid; {remedy}")


def mistaken(message: str) -> PydanticCustomError:
    """Return the error to raise where it would not help to repeat the value."""
    return PydanticCustomError(_OWN, "{message}", {"message": message})


def gather(
    data: object,
    validate: Callable[[Any], _T],
    *,
    further: Iterable[tuple[Place, str]] = (),
    fields: Sequence[str] = (),
    required: Mapping[str, str] = MappingProxyType({}),
) -> _T:
    """Return validate(data), or raise its mistakes together with the `further` ones.

    `fields` are the names that an unknown one may have been meant for; `required` what to write for a missing one.
    """
    lines = [_line(place, message) for place, message in further]
    try:
        valid = validate(data)
    except ValidationError as error:
        own = error.errors(include_url=False)[: MISTAKES_MAX + 1]
        lines = [_line(details["loc"], _message(details, fields, required)) for details in own] + lines
    else:
        if not lines:
            return valid
    raise ValidationError.from_exception_data(_OWN, lines[: MISTAKES_MAX + 1])


def mistakes_in(error: ValidationError, *, under: Place = ()) -> list[Mistake]:
    """Return what pydantic found, each with its path."""
    return [
        Mistake(path((*under, *_place(details["loc"]))), details["msg"]) for details in error.errors(include_url=False)
    ]


def _line(place: Place, message: str) -> InitErrorDetails:
    return {"type": mistaken(message), "loc": place, "input": None}


def _place(place: Place) -> Place:
    """Drop the parts by which pydantic says which of several types is meant, or a mapping's key and not its value."""
    place = tuple(part for part in place if not str(part).startswith(("function-wrap[", "literal[")))
    return place[:-1] if place and place[-1] == "[key]" else place


def _message(details: ErrorDetails, fields: Sequence[str], required: Mapping[str, str]) -> str:
    kind = details["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(details["loc"][-1])[:64], fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the fields here are {', '.join(fields)}"
        return f"unknown field; {hint}"
    if kind == "missing":
        return f"missing; {required.get(str(details['loc'][-1]), 'this field is required')}"
    if kind in ("dict_type", "model_type"):
        return f"{shown(details['input'])} is not valid; write a mapping of names to values ({{}} for an empty one)"
    if kind in ("list_type", "tuple_type"):
        return f"{shown(details['input'])} is not valid; write a list, such as [a, b]"
    return details["msg"]


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_VALUE_MAX else f"{text[:SHOWN_VALUE_MAX]}… ({len(text)} characters)"

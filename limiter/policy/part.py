"""What all parts of a policy have in common: unknown fields are refused and all mistakes are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from limiter.domain.mistakes import Place, gather

#: What to write where a field is missing.
_REQUIRED: Final = {
    "version": "write version: 1",
    "organizations": "name at least one organization, such as organizations: {acme: {}}",
    "id": "give every limit an id; its counter is kept under that name",
}


class Part(BaseModel):
    """A mapping in the file: unknown fields and nulls are refused, all mistakes are reported together."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def together(cls, data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield the mistakes that only several fields show together; fields may be malformed."""
        del data  # most parts have none
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _gather(cls, data: object, handler: Callable[[object], Self]) -> Self:
        if not isinstance(data, dict):
            return gather(data, handler)
        nulls = [name for name, value in data.items() if value is None and name in cls.model_fields]
        further: list[tuple[Place, str]] = [
            ((name,), "null is not valid; give a value or leave it out") for name in nulls
        ]
        given = {name: value for name, value in data.items() if name not in nulls}
        further += cls.together(data)
        return gather(given, handler, further=further, fields=tuple(cls.model_fields), required=_REQUIRED)

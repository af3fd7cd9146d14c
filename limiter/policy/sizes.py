"""What a policy says about how large holds are: the way of sizing, the output held for, the least that a call costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, PlainSerializer, PlainValidator, TypeAdapter, WithJsonSchema

from limiter.domain.calls import COUNT_MAX, OPERATIONS
from limiter.domain.mistakes import Place, gather, mistaken
from limiter.policy.fields import PATTERNS_MAX, CallCost, OutputTokens, Pattern, SomePatterns, choice
from limiter.policy.part import Part

#: Output to hold for by pattern of model names, the most specific first.
OutputDefaults = tuple[tuple[str, int], ...]

#: For models that nobody says anything of.
OUTPUT_DEFAULT: Final = 4096

_EVERY: Final = "*"


def _most_specific_first(entry: tuple[str, int]) -> tuple[bool, int, str]:
    """A name goes before a pattern, and a pattern with more plain characters before one with fewer."""
    pattern = entry[0]
    special = pattern.count("*") + pattern.count("?")
    return special > 0, special - len(pattern), pattern


_OUTPUTS: Final = TypeAdapter(dict[Pattern, OutputTokens])
_ONE_OUTPUT: Final = TypeAdapter(OutputTokens)


def _read_outputs(value: object) -> OutputDefaults:
    if not isinstance(value, dict):
        return ((_EVERY, gather(value, _ONE_OUTPUT.validate_python)),)
    if not value:
        raise mistaken(f"is empty; write a number, or a mapping such as {{{_EVERY!r}: {OUTPUT_DEFAULT}}}")
    if len(value) > PATTERNS_MAX:
        raise mistaken(f"has {len(value)} patterns; the most is {PATTERNS_MAX}")
    return tuple(sorted(gather(value, _OUTPUTS.validate_python).items(), key=_most_specific_first))


def _write_outputs(value: OutputDefaults) -> int | dict[str, int]:
    outputs = dict(value)
    return outputs[_EVERY] if len(outputs) == 1 and _EVERY in outputs else outputs


_COUNT_SCHEMA: Final = {"type": "integer", "minimum": 1, "maximum": COUNT_MAX}

Outputs = Annotated[
    OutputDefaults,
    PlainValidator(_read_outputs),
    PlainSerializer(_write_outputs),
    WithJsonSchema(
        {"anyOf": [_COUNT_SCHEMA, {"type": "object", "additionalProperties": _COUNT_SCHEMA, "minProperties": 1}]}
    ),
]

_Operation = Annotated[
    str,
    PlainValidator(choice({name: name for name in OPERATIONS})),
    WithJsonSchema({"type": "string", "enum": list(OPERATIONS)}),
]


def _some_operations(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise mistaken("is empty; name at least one operation, or leave the field out for every operation")
    return value


class Floor(Part):
    """The least that a call costs, for calls of these models and operations."""

    models: SomePatterns | None = None
    """Models as patterns (* and ?); every model if left out."""
    operations: Annotated[tuple[_Operation, ...], AfterValidator(_some_operations)] | None = None
    """What is asked of the model (chat, images, …); every operation if left out."""
    cost: CallCost
    """USD: no hold and no settlement of such a call is less."""

    @classmethod
    def together(cls, data: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield the mistake of a floor that names nothing."""
        if "models" not in data and "operations" not in data:
            yield (), "names neither models nor operations; for every call write models: ['*']"


def _floors(value: tuple[Floor, ...]) -> tuple[Floor, ...]:
    if len(value) > PATTERNS_MAX:
        raise mistaken(f"has {len(value)} floors; the most is {PATTERNS_MAX}")
    return value


Floors = Annotated[tuple[Floor, ...], AfterValidator(_floors)]

"""Messages of the contract → plain values that stay the same from release to release, for `--format json`.

A field keeps its name. Numbers are integers, enumerations their names, times ISO 8601, what is absent null. Beside
every amount of nano-USD stands the same in USD, as a decimal text: `held_nanousd` and `held_usd`. A duration becomes
milliseconds: `retry_after_ms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.domain.money import format_usd

_AMOUNTS: Final = ("limit_value", "settled", "held", "remaining", "requested", "overage")


def plain(message: Message) -> dict[str, Any]:
    """Return a message as a dictionary that JSON can hold."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        name = field.name
        if field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name:
            name += "_ms"
        found[name] = _value(message, field)
    if found.get("unit") == "nanousd":
        return _beside(found, {name: f"{name}_usd" for name in _AMOUNTS})
    return with_usd(found)


def plain_all(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages as a list that JSON can hold."""
    return [plain(message) for message in messages]


def with_usd(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put the USD beside every amount of nano-USD."""
    amounts = [name for name in facts if name.endswith("_nanousd") and facts[name] is not None]
    return _beside(facts, {name: f"{name.removesuffix('_nanousd')}_usd" for name in amounts})


def _beside(facts: Mapping[str, Any], amounts: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in facts.items():
        found[name] = value
        if name in amounts:
            found[amounts[name]] = format_usd(value)
    return found


def _value(message: Message, field: Any) -> Any:  # noqa: ANN401 - descriptors come in two types
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_single(one, field) for one in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _single(value: Any, field: Any) -> Any:  # noqa: ANN401 - whatever the field holds
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Duration):
        return value.ToMilliseconds()
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return str(value) if known is None else known.name
    return value

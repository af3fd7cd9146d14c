"""Fields of a request, read strictly: what is no count, flag or name is refused with its place and what to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limiter.domain.calls import COUNT_MAX, MODEL_MAX, TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX
from limiter.domain.errors import InvalidArgument
from limiter.pricing.paths import is_name

BODY: Final = "provider_request.body"

#: Longest word of a term such as a size or a quality.
_WORD_MAX: Final = 32

_NOTHING: Final[Mapping[str, Any]] = {}


def count(body: Mapping[str, Any], name: str, largest: int = COUNT_MAX, *, place: str = BODY) -> int | None:
    """Read a count of 1 to `largest`; null is as good as absent, as it is to the providers."""
    value = body.get(name)
    if value is None:
        return None
    # bool is a kind of int in Python, not in JSON.
    if type(value) is not int or not 1 <= value <= largest:
        raise InvalidArgument(f"{place}.{name}", value, f"write a whole number from 1 to {largest}")
    return value


def largest_count(body: Mapping[str, Any], *names: str, place: str = BODY) -> int | None:
    """Read counts that may stand in several fields, of which providers obey one or the other: the largest."""
    found = None
    for name in names:
        if name in body and (value := count(body, name, place=place)) is not None:
            found = value if found is None or value > found else found
    return found


def flag(body: Mapping[str, Any], name: str) -> bool:
    """Read true or false; absent and null are false."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{BODY}.{name}", value, "write true or false")
    return value is True


def inner(body: Mapping[str, Any], *names: str) -> tuple[str, Mapping[str, Any]]:
    """Read an object that may stand under one of `names`: the first that is there, and what it holds.

    The name is the first of all where none is there. Two of them are refused: one program may take the one, and the
    next the other.
    """
    there = [name for name in names if body.get(name) is not None]
    if not there:
        return names[0], _NOTHING
    if len(there) > 1:
        raise InvalidArgument(f"{BODY}.{there[1]}", there[0], "write one of the two")
    value = body[there[0]]
    if not isinstance(value, dict):
        raise InvalidArgument(f"{BODY}.{there[0]}", value, "write a JSON object")
    return there[0], value


def word(body: Mapping[str, Any], name: str) -> str:
    """Read a term that changes a price, such as a size; "" where it is absent, in lower case."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not 1 <= len(value) <= _WORD_MAX or not value.isprintable():
        raise InvalidArgument(f"{BODY}.{name}", value, f"write 1 to {_WORD_MAX} printable characters")
    return value.lower()


def text(body: Mapping[str, Any], name: str) -> str:
    """Read a text; "" where it is absent."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{BODY}.{name}", type(value).__name__, "write a text")
    return value


def model_of(body: Mapping[str, Any], *names: str) -> str:
    """Read the model's name; raises InvalidArgument for one that no one could store."""
    for name in (*names, names[0]):
        if (model := body.get(name)) is not None:
            break
    # isprintable is false of control characters and of half surrogates, which no one could store.
    if not isinstance(model, str) or not is_name(model):
        raise InvalidArgument(f"{BODY}.{name}", model, f"name the model in 1 to {MODEL_MAX} printable characters")
    return model


def tags_of(metadata: object) -> tuple[tuple[str, str], ...]:
    """Read `"tags": ["customer:acme"]`; other metadata, and texts without a colon, are not ours."""
    listed = metadata.get("tags") if isinstance(metadata, dict) else None
    if not isinstance(listed, list):
        return ()
    written = [text for text in listed if isinstance(text, str) and ":" in text]
    return _checked([(name, value) for name, _, value in (text.partition(":") for text in written)], "metadata.tags")


def labels_of(body: Mapping[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    """Read the labels that a provider keeps for its own bill, `{"customer": "acme"}`: they are tags for ours too."""
    labels = body.get(name)
    if not isinstance(labels, dict):
        return ()
    return _checked([(key, value) for key, value in labels.items() if isinstance(value, str) and value], name)


def _checked(tags: list[tuple[str, str]], name: str) -> tuple[tuple[str, str], ...]:
    place = f"{BODY}.{name}"
    for tag, value in tags:
        fits = 1 <= len(tag) <= TAG_NAME_MAX and 1 <= len(value) <= TAG_VALUE_MAX
        if not fits or not (tag + value).isprintable():
            remedy = f"write name:value with up to {TAG_NAME_MAX} and {TAG_VALUE_MAX} printable characters"
            raise InvalidArgument(place, f"{tag}:{value}", remedy)
    if len(tags) > TAGS_MAX:
        raise InvalidArgument(place, len(tags), f"give at most {TAGS_MAX} tags")
    return tuple(tags)

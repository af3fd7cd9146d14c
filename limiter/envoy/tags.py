"""The caller's tags for the books: `x-limiter-tags: customer:acme,feature:assistant`."""

from __future__ import annotations

from functools import lru_cache

from limiter.domain.calls import TAG_NAME, TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX
from limiter.domain.errors import InvalidArgument
from limiter.pricing.reading import CallReading
from limiter.service.calls import Tags


@lru_cache(4096)  # the same few come with most calls; a mistake is not remembered
def parse_tags(text: str, *, header: str) -> Tags:
    """Read the value of the tags header; raises InvalidArgument naming it."""
    tags: dict[str, str] = {}
    for part in text.split(","):
        name, colon, value = part.strip().partition(":")
        value = value.strip()
        if not colon or TAG_NAME.fullmatch(name) is None:
            remedy = f"write name:value,name:value; a name is 1 to {TAG_NAME_MAX} of A-Z a-z 0-9 _ . -"
            raise InvalidArgument(header, part, remedy)
        if not 1 <= len(value) <= TAG_VALUE_MAX or not value.isprintable():
            raise InvalidArgument(header, part, f"a value is 1 to {TAG_VALUE_MAX} printable characters")
        if name in tags:
            raise InvalidArgument(header, name, "give each tag once")
        tags[name] = value
    if len(tags) > TAGS_MAX:
        raise InvalidArgument(header, len(tags), f"use at most {TAGS_MAX} tags")
    return tuple(tags.items())


def check_body_tags(reading: CallReading, given: Tags) -> CallReading:
    """Check the tags of the body as those of the header are, and drop what the header (`given`) says already."""
    for name, _ in reading.tags:
        if TAG_NAME.fullmatch(name) is None:
            remedy = f"name a tag by 1 to {TAG_NAME_MAX} of A-Z a-z 0-9 _ . -"
            raise InvalidArgument("metadata.tags", name, remedy)
    named = {name for name, _ in given}
    return reading._replace(tags=tuple(tag for tag in dict(reading.tags).items() if tag[0] not in named))

"""What a report is asked: how calls are to be grouped, and which ones are meant."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple

from limiter.domain.calls import TAG_NAME
from limiter.domain.errors import InvalidArgument
from limiter.ledger.periods import KINDS

#: Where a call was made and what by, in the order of the books' places.
PLACES: Final = ("organization", "team", "key", "model", "provider", "operation")
#: Tags that most books have: no typing error, even where no call has them.
USUAL_TAGS: Final = ("customer", "feature")

#: A team's name means something within its organization only, a key's within its team.
_WITHIN: Final = {"team": PLACES[:2], "key": PLACES[:3]}
_REMEDY: Final = f"use {', '.join((*PLACES, *KINDS))}, or the name of a tag (tag:NAME where it is one of these words)"


class Dimension(NamedTuple):
    """One way to tell calls apart: a column of the books, a period of time, or a tag."""

    name: str
    is_tag: bool = False

    @property
    def is_time(self) -> bool:
        """Whether it is a kind of period."""
        return not self.is_tag and self.name in KINDS

    @property
    def text(self) -> str:
        """As `--by` takes it, whatever other words there are."""
        return f"tag:{self.name}" if self.is_tag else self.name


@dataclass(frozen=True, slots=True)
class Condition:
    """Calls whose value of a dimension fits one of the patterns; "" fits what has no value, and nothing else does."""

    dimension: Dimension
    patterns: tuple[str, ...]

    def fits(self, values: Collection[str]) -> bool:
        """Whether one of the values is meant; none at all, and an empty one, is only by an empty pattern."""
        if not any(values):
            return "" in self.patterns
        return any(value and self.fits_value(value) for value in values)

    def fits_value(self, value: str) -> bool:
        """Whether this value is meant."""
        return any(_compiled(pattern).fullmatch(value) is not None for pattern in self.patterns if pattern)


@dataclass(frozen=True, slots=True)
class Question:
    """A report to be made: of the calls reserved from `start_ms` to before `end_ms`, and by what."""

    start_ms: int
    end_ms: int
    zone: tzinfo = UTC
    by: tuple[Dimension, ...] = ()
    where: tuple[Condition, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The periods that it is grouped by."""
        return tuple(dimension.name for dimension in self.by if dimension.is_time)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of places that it needs, in the order of PLACES."""
        wanted = {dimension.name for dimension in self.dimensions if not dimension.is_tag}
        wanted |= {name for dimension in self.dimensions for name in _WITHIN.get(dimension.text, ())}
        return tuple(name for name in PLACES if name in wanted)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that it needs."""
        return tuple(dict.fromkeys(dimension.name for dimension in self.dimensions if dimension.is_tag))

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """All that it names."""
        return tuple(dict.fromkeys((*self.by, *(condition.dimension for condition in self.where))))


def dimension(text: str, *, field: str) -> Dimension:
    """Read the name of a column or a period, `tag:NAME`, or any other word: the tag of that name."""
    name = text.strip()
    if name in PLACES or name in KINDS:
        return Dimension(name)
    name = name.removeprefix("tag:")
    if TAG_NAME.fullmatch(name) is None:
        raise InvalidArgument(field, text, _REMEDY)
    return Dimension(name, is_tag=True)


def grouping(texts: Iterable[str], *, field: str) -> tuple[Dimension, ...]:
    """Read names separated by commas, as `dimension` does. A team comes with its organization, a key with both."""
    found: dict[Dimension, None] = {}
    for text in texts:
        for word in text.split(","):
            read = dimension(word, field=field)
            found |= dict.fromkeys(map(Dimension, _WITHIN.get(read.text, ())))
            found[read] = None
    return tuple(found)


def condition(text: str, *, field: str) -> Condition:
    r"""Read NAME=PATTERN,… where * and ? stand for any characters and \ takes the next one as it is."""
    name, equals, patterns = text.partition("=")
    if not equals or not name:
        raise InvalidArgument(field, text, "write NAME=VALUE, such as team=search or tag:feature=assistant")
    read = dimension(name, field=field)
    if read.is_time:
        raise InvalidArgument(field, text, "choose a time with --from and --to, --month or --last")
    return Condition(read, tuple(re.split(r"(?<!\\),", patterns)))


def plain_words(texts: Sequence[str]) -> set[str]:
    """Words that are taken as the names of tags without saying so, and may be mistakes."""
    words = {word.strip().partition("=")[0] for word in texts}
    return {word for word in words if not word.startswith("tag:")} - {*PLACES, *KINDS, *USUAL_TAGS}


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression."""
    shell = re.sub(r"\\(.)", lambda found: f"[{found[1]}]" if found[1] in "*?[" else found[1], pattern)
    return re.compile(fnmatch.translate(shell))

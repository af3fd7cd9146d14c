"""What is wrong with a policy."""

from __future__ import annotations

from collections.abc import Iterable

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.mistakes import MISTAKES_MAX, Mistake, Place, path


class PolicyInvalid(InvalidArgument):
    """A policy that was not accepted. `str(error)` has one line for each of its `mistakes`."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        found = tuple(mistakes)
        self.mistakes = found[:MISTAKES_MAX]
        self.field = "policy"
        self.remedy = "correct the mistakes listed"
        lines = [str(mistake) for mistake in self.mistakes]
        if len(found) > MISTAKES_MAX:
            lines.append("further mistakes are not listed: correct these first")
        LimiterError.__init__(self, "\n".join(lines))

    def named(self, source: str) -> PolicyInvalid:
        """The same mistakes, with the name of the file before each line."""
        same = PolicyInvalid(self.mistakes)
        LimiterError.__init__(same, "\n".join(f"{source}: {line}" for line in str(self).splitlines()))
        return same

    @classmethod
    def at(cls, place: Place, message: str) -> PolicyInvalid:
        """Refuse for a single mistake."""
        return cls([Mistake(path(place), message)])

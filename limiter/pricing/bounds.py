"""The words in which a request's size is told: what it takes in at most, and how the provider may enlarge that."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

#: No other units than tokens.
NO_UNITS: Final[Mapping[str, int]] = MappingProxyType({})


class Bound(NamedTuple):
    """The most that a call takes in, as far as its own request says.

    `units` are other units than tokens (images, audio_seconds), and dearer kinds of these tokens
    (input_audio_tokens, cache_write_1h_tokens), as the price book names them.
    """

    input_tokens: int
    units: Mapping[str, int] = NO_UNITS


class Growth(NamedTuple):
    """How the provider enlarges the input on its side: searches, files by URL, earlier turns kept there.

    The model is called at most `rounds` times more, each time with at most its context window; None: nothing bounds
    that, and `remedy` says what in the request would. `fees` are the units that may be billed beside tokens in those
    rounds (web_searches). `allowance` is what an estimate that is no upper bound adds for it. `reason` names the part
    of the request: "tools.0 (web_search)".
    """

    reason: str
    remedy: str
    rounds: int | None
    fees: Mapping[str, int] = NO_UNITS
    allowance: Bound = Bound(0)


class Size(NamedTuple):
    """How large the input of a request can be.

    `strict` is an upper bound of what is in the request, `safe` a conservative estimate, never above `strict`. What the
    provider adds is in `growth` alone; None: it adds nothing.
    """

    strict: Bound
    safe: Bound
    growth: Growth | None = None

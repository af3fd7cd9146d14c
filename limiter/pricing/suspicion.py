"""Finds counts that make no sense, and reads them as the larger of what they can mean.

A provider's counts decide what is charged, so a contradiction in them must neither be believed silently nor stop the
settlement. Each finding is a short reason for the ledger and the log.
"""

from __future__ import annotations

from math import isfinite
from typing import Final, NamedTuple

from limiter.domain.calls import COUNT_MAX, Usage
from limiter.pricing.units import FIELDS, REGISTRY, specificity

#: How often a provider may at most have run the model for one call, where the request does not tell: rounds of
#: searches, the inputs of one batch of embeddings.
RUNS_MAX: Final = 300

_INPUT: Final = "input_tokens"
_OUTPUT: Final = "output_tokens"
_REASONING: Final = "output_reasoning_tokens"


#: Kinds of input with a price of their own, what is read of them from a cache, and what else they may be.
_MEDIA: Final = tuple(
    (
        f"input_{medium}_tokens",
        f"cache_{medium}_read_tokens",
        (f"cache_{medium}_read_tokens", f"cache_{medium}_write_tokens", f"input_{medium}_tool_tokens"),
    )
    for medium in ("image", "video", "audio")
)


class _Kinds(NamedTuple):
    """Parts of `whole` that exclude each other, so that together they are at most the whole.

    `beside`: where they are more, the whole was counted without them.
    """

    whole: str
    beside: bool


def _kinds_of(part: str) -> tuple[_Kinds, ...]:
    """The sums that `part` belongs to: text, audio and image are kinds of input; read and written of cached input."""
    dimensions = dict(REGISTRY.units[part].dimensions)
    found = []
    for whole in REGISTRY.ancestor_usage_keys(part):
        added = dimensions.keys() - REGISTRY.units[whole].dimensions.keys()
        if whole != part and len(added) == 1:
            found.append(_Kinds(whole, beside=added == {"token_type"} and whole in (_INPUT, _OUTPUT)))
    return tuple(found)


_WHOLES: Final = {part: REGISTRY.ancestor_usage_keys(part) for part in REGISTRY.units}
_KINDS: Final = {part: kinds for part in REGISTRY.units if (kinds := _kinds_of(part))}


def settled_reading(usage: Usage) -> tuple[Usage, tuple[str, ...]]:
    """Return `usage` with every whole at least as large as its parts, and the reasons if it was not.

    Cached tokens that are more than the input, and reasoning that is more than the output, were counted beside it:
    they are added. Negative counts are left as they are; they are refused elsewhere.
    """
    stated = {name: getattr(usage, field) for name, field in FIELDS.items()} | usage.units
    if min(stated.values()) < 0:
        return usage, ()
    counts = dict(stated)
    doubts = level(counts)
    return (usage_of(counts), tuple(doubts)) if counts != stated else (usage, ())


def level(counts: dict[str, int]) -> list[str]:
    """Raise, in `counts` by genai-prices' names, every whole that is smaller than its parts; return the reasons.

    Cached tokens, and those of sound and images, may be the same ones; where they must be, that is added.
    """
    doubts: list[str] = []
    # The most special wholes first: a raised one may exceed its own whole. Every round raises one for good.
    while exceeded := _exceeded(counts):
        kinds, total = max(exceeded.items(), key=lambda item: (specificity(item[0].whole), item[0].whole))
        whole = counts.get(kinds.whole, 0)
        # A whole that nobody counted is the sum of its parts, unless our contract has a field for it.
        if kinds.whole in counts or kinds.whole in FIELDS:
            parts = " and ".join(part for part in counts if counts[part] and kinds in _KINDS.get(part, ()))
            doubts.append(f"{parts} ({total}) exceed {kinds.whole} ({whole})")
        counts[kinds.whole] = total + whole if kinds.beside else total
    if counts.get("cache_read_tokens") and any(counts.get(medium) for medium, _, _ in _MEDIA):
        _overlap(counts)
    return doubts


def _overlap(counts: dict[str, int]) -> None:
    """Count as cached what must be, of images, videos and sound, for them to fit in beside what is cached.

    It is the least that can be cached of them, and so the dearest reading.
    """
    media = [(cached, counts.get(medium, 0) - sum(counts.get(k, 0) for k in kinds)) for medium, cached, kinds in _MEDIA]
    fresh = sum(max(rest, 0) for _, rest in media)
    twice = counts["cache_read_tokens"] + counts.get("cache_write_tokens", 0) + fresh - counts.get(_INPUT, 0)
    unnamed = counts["cache_read_tokens"] - sum(counts.get(cached, 0) for cached, _ in media)
    for cached, rest in media:
        more = min(twice, unnamed, rest)
        if more > 0:
            counts[cached] = counts.get(cached, 0) + more
            twice -= more
            unnamed -= more


def _exceeded(counts: dict[str, int]) -> dict[_Kinds, int]:
    sums: dict[_Kinds, int] = {}
    for part, count in counts.items():
        if count:
            for kinds in _KINDS.get(part, ()):
                sums[kinds] = sums.get(kinds, 0) + count
    return {kinds: total for kinds, total in sums.items() if total > counts.get(kinds.whole, 0)}


def agree(counts: dict[str, int], total: int) -> list[str]:
    """Make `counts` agree with the provider's own total of tokens; return the reasons where they cannot.

    A total that is larger by just the reasoning, or the cached tokens, tells that these were counted beside the
    output, or the input: that is no contradiction. What else it is larger by counts as output, the dearer kind.
    """
    rest = total - counts.get(_INPUT, 0) - counts.get(_OUTPUT, 0)
    reasoning, read, written = (counts.get(name, 0) for name in (_REASONING, "cache_read_tokens", "cache_write_tokens"))
    if rest > 0:
        if rest in (read + written, read, written) and rest != reasoning:
            counts[_INPUT] = counts.get(_INPUT, 0) + rest
            return []
        counts[_OUTPUT] = counts.get(_OUTPUT, 0) + rest
        if rest != reasoning:
            return [f"the total of {total} tokens is {rest} more than input and output"]
    elif rest < 0 and not _is_beside(-rest, counts):
        return [f"the total of {total} tokens is {-rest} less than input and output"]
    return []


def _is_beside(surplus: int, counts: dict[str, int]) -> bool:
    """Whether a total leaves out just one or more kinds that its provider counts beside it."""
    sums = {0}
    for name in (_REASONING, "output_citation_tokens", "cache_read_tokens", "cache_write_tokens", "input_tool_tokens"):
        sums |= {known + counts.get(name, 0) for known in sums}
    return surplus in sums


def mended(name: str, value: object, *, whole: bool) -> tuple[int | None, str]:
    """Return the count that `value` can mean, None if it is no number, and what is wrong with it, "" if nothing.

    `whole`: fractions make no sense; of others, such as seconds, the next whole number counts.
    """
    if isinstance(value, str):
        try:
            number: int | float = int(value)
        except ValueError:
            return None, f"{name} is no number"
        return _bounded(number), f"{name} is a text"
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and isfinite(value))):
        return None, f"{name} is no number"
    if not 0 <= value <= COUNT_MAX:
        return _bounded(value), f"{name} is {'negative' if value < 0 else 'absurd'}"
    count = -int(-value // 1)
    return count, f"{name} is a fraction" if whole and count != value else ""


def beyond(
    usage: Usage,
    *,
    context_window: int | None,
    max_output_tokens: int | None,
    choices: int = 1,
    runs: int = RUNS_MAX,
) -> tuple[str, ...]:
    """Return why `usage` is more than a model can do: () if it is not, or nothing is known of the model.

    `choices`: how many answers were asked for. `runs`: how often the provider may have run the model for this call;
    1 for a chat without anything on the provider's side. Published limits are exceeded in practice: up to twice is
    believed.
    """
    reasons = []
    if context_window is not None and usage.input_tokens > 2 * runs * context_window:
        reasons.append(f"input_tokens ({usage.input_tokens}) are beyond the context window ({context_window})")
    longest = max_output_tokens if max_output_tokens is not None else context_window
    if longest is not None and usage.output_tokens > 2 * runs * max(choices, 1) * longest:
        reasons.append(f"output_tokens ({usage.output_tokens}) are beyond the longest output ({longest})")
    return tuple(reasons)


def usage_of(counts: dict[str, int]) -> Usage:
    """Translate counts by genai-prices' names to our words: fields by name, the rest as units.

    A whole of more than COUNT_MAX is that many of its plain kind: its parts would not fit in.
    """
    for whole in (_INPUT, _OUTPUT):
        if counts.get(whole, 0) > COUNT_MAX:
            counts = {name: n for name, n in counts.items() if whole not in _WHOLES.get(name, ())}
            counts[whole] = COUNT_MAX
    fields = {FIELDS[name]: count for name, count in counts.items() if name in FIELDS}
    return Usage(**fields, units={name: count for name, count in counts.items() if count and name not in FIELDS})


def _bounded(number: float) -> int:
    return int(min(max(number, 0), COUNT_MAX))

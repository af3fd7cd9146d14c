"""What a request says of its conversation: items that the provider keeps, and whether it is to sum up a long one.

OpenAI's Responses take back what an earlier answer put out. Some of it comes with its content, some by its id alone:
what that says is not in the request's body.
"""

from __future__ import annotations

from typing import Any, Final

from limiter.pricing.bounds import Bound, Growth

#: What an estimate allows for one such item: what was thought in a turn, an image, what a search found.
KEPT_TOKENS: Final = 1_000

#: Kinds of items, and the fields that have their content where a request brings it along.
_CONTENT: Final[dict[str, tuple[str, ...]]] = {
    "item_reference": (),
    "reasoning": ("encrypted_content", "content"),
    "image_generation_call": ("result",),
    "file_search_call": ("results",),
    "web_search_call": (),
    "code_interpreter_call": ("outputs",),
}


def kept_items(items: list[Any]) -> Growth | None:
    """Return how much the items of an input that are elsewhere can add to it: at most the context window."""
    kinds = [kind for item in items if type(item) is dict and (kind := _kept(item))]
    if not kinds:
        return None
    named = ", ".join(dict.fromkeys(kinds))
    remedy = "send the items with their content (include: reasoning.encrypted_content), or leave them out"
    return Growth(f"input ({named})", remedy, 0, allowance=Bound(KEPT_TOKENS * len(kinds)))


def _kept(item: dict[str, Any]) -> str:
    """Return the kind of an item whose content is elsewhere; "" of any other."""
    kind = item.get("type")
    if type(kind) is not str or (content := _CONTENT.get(kind)) is None:
        return ""
    return kind if item.get("id") and not any(item.get(name) for name in content) else ""


def compacts(management: object) -> bool:
    """Whether a long conversation is to be summed up first, which takes a run of its own (OpenAI, Anthropic)."""
    edits = management.get("edits") if isinstance(management, dict) else management
    kinds = (edit.get("type") for edit in edits if isinstance(edit, dict)) if isinstance(edits, list) else ()
    return any(str(kind).startswith("compact") for kind in kinds)

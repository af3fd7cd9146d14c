"""What the fields of LiteLLM's price list are in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

#: Prices per token, and the unit that each is for.
_TOKENS: Final[Mapping[str, str]] = {
    "input_cost_per_token": "input_tokens",
    "output_cost_per_token": "output_tokens",
    "cache_read_input_token_cost": "cache_read_tokens",
    "cache_creation_input_token_cost": "cache_write_tokens",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_tokens",
    "output_cost_per_reasoning_token": "output_reasoning_tokens",
    "input_cost_per_audio_token": "input_audio_tokens",
    "output_cost_per_audio_token": "output_audio_tokens",
    "cache_read_input_audio_token_cost": "cache_audio_read_tokens",
    "cache_creation_input_audio_token_cost": "cache_audio_write_tokens",
    "input_cost_per_image_token": "input_image_tokens",
    "output_cost_per_image_token": "output_image_tokens",
    "cache_read_input_image_token_cost": "cache_image_read_tokens",
    "input_cost_per_video_token": "input_video_tokens",
    "output_cost_per_video_token": "output_video_tokens",
    "citation_cost_per_token": "output_citation_tokens",
}

#: Prices of single things.
_THINGS: Final[Mapping[str, str]] = {
    "input_cost_per_character": "input_characters",
    "output_cost_per_character": "output_characters",
    "input_cost_per_image": "input_images",
    "output_cost_per_image": "images",
    "input_cost_per_pixel": "input_pixels",
    "output_cost_per_pixel": "output_pixels",
    "input_cost_per_second": "input_seconds",
    "output_cost_per_second": "output_seconds",
    "input_cost_per_audio_per_second": "audio_seconds",
    "input_cost_per_video_per_second": "input_video_seconds",
    "output_cost_per_video_per_second": "video_seconds",
    "ocr_cost_per_page": "input_document_pages",
    "annotation_cost_per_page": "input_annotated_document_pages",
    "input_cost_per_query": "queries",
    "input_cost_per_request": "requests",
    "input_cost_per_text_message": "input_text_messages",
    "google_maps_grounding_cost_per_query": "map_searches",
}

UNITS: Final[Mapping[str, str]] = {**_TOKENS, **_THINGS}

#: The same price again, in another name or currency, or no price at all.
_NO_PRICE: Final = frozenset(
    {"input_cost_per_token_cache_hit", "input_dbu_cost_per_token", "output_dbu_cost_per_token", "tiered_pricing"}
)

_TERMS: Final[Mapping[str, tuple[str, str]]] = {
    "batches": ("processing", "batch"),
    "flex": ("service_tier", "flex"),
    "priority": ("service_tier", "priority"),
    "ultrafast": ("service_tier", "ultrafast"),
}
_TERM: Final = re.compile(rf"_({'|'.join(_TERMS)})$")
_TIER: Final = re.compile(r"_above_(\d{1,6})k_tokens$")
_RESOLUTION: Final = re.compile(r"(output_cost_per_second|output_cost_per_image)_(\d{3,4}p?|[0-9.]+[kK])$")


class Field(NamedTuple):
    """A price: of which unit, for which terms (None: always), for calls of more input tokens than `above`."""

    unit: str
    term: tuple[str, str] | None = None
    above: int = 0


def read_field(name: str) -> Field | None:
    """Return what a field prices; None: our price files cannot say it."""
    term = None
    if found := _TERM.search(name):
        term, name = _TERMS[found[1]], name[: found.start()]
    above = 0
    if found := _TIER.search(name):
        above, name = int(found[1]) * 1000, name[: found.start()]
    if term is None and (found := _RESOLUTION.fullmatch(name)):
        return Field(UNITS[found[1]], ("resolution", found[2].lower()))
    return Field(UNITS[name], term, above) if name in UNITS else None


def is_price(name: str) -> bool:
    """Whether a field has to do with what a call costs."""
    words = ("cost", "pricing", "multiplier", "free_requests", "provider_specific_entry")
    return name not in _NO_PRICE and any(word in name for word in words)

"""What a caller says: how large a call can become, what it used, and for whom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

#: Largest count of tokens or units in one call.
COUNT_MAX = 10**12

REQUEST_ID_MAX = 256
TAGS_MAX = 16
TAG_NAME_MAX = 64
TAG_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{TAG_NAME_MAX}}}", re.ASCII)
TAG_VALUE_MAX = 256
MODEL_MAX = 256
BODY_MAX_BYTES = 4 * 1024 * 1024

#: What a call asks of a model.
OPERATIONS = (
    "chat",
    "completion",
    "embeddings",
    "images",
    "moderation",
    "rerank",
    "speech",
    "transcription",
    "video",
)


class Outcome(IntEnum):
    """How the provider call ended. The numbers are those of the wire contract."""

    COMPLETED = 1
    ABORTED = 2
    FAILED = 3


_NONE: Mapping[str, int] = MappingProxyType({})


class Estimate(NamedTuple):
    """The most that a call may use. `max_output_tokens` None: the policy's default applies."""

    input_tokens: int = 0
    max_output_tokens: int | None = None
    units: Mapping[str, int] = _NONE


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used. Cached tokens are part of the input, reasoning tokens of the output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    units: dict[str, int] = field(default_factory=dict)

    @property
    def total_tokens(self) -> int:
        """What a token bucket counts."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """The provider's own request, to be read by the limiter. `content_type` "" where nobody told it."""

    host: str
    path: str
    body: bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class ProviderResponse:
    """The provider's own answer, to be read by the limiter."""

    status: int
    content_type: str
    body: bytes

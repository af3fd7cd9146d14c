"""What application code imports: ask before a model is called, settle after it.

::

    from limiter.client import AsyncClient

    async with AsyncClient(api_key="lk-…") as client:
        async with client.reserve(model="gpt-4o", input_tokens=900, max_output_tokens=500) as hold:
            response = await openai.chat.completions.create(…, max_tokens=hold.max_output_tokens)
            hold.settle(response)
"""

from limiter.client.aio import AsyncClient, AsyncHold
from limiter.client.answers import Settlement
from limiter.client.blocking import Client, Hold
from limiter.client.connection import TLS
from limiter.client.errors import (
    AlreadyExists,
    CallFailed,
    DeadlineExceeded,
    HoldEnded,
    HoldNotFound,
    InvalidRequest,
    KeyRefused,
    LimiterClientError,
    LimiterOverloaded,
    LimiterUnavailable,
    ModelRefused,
    NeverFits,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    Refused,
    SpendCeilingReached,
)
from limiter.domain.calls import Outcome, ProviderRequest, Usage
from limiter.domain.limits import LimitKind
from limiter.domain.reservations import Basis, State
from limiter.domain.verdicts import DenialReason, Denied, LimitStatus

__all__ = [
    "TLS",
    "AlreadyExists",
    "AsyncClient",
    "AsyncHold",
    "Basis",
    "CallFailed",
    "Client",
    "DeadlineExceeded",
    "DenialReason",
    "Denied",
    "Hold",
    "HoldEnded",
    "HoldNotFound",
    "InvalidRequest",
    "KeyRefused",
    "LimitKind",
    "LimitStatus",
    "LimiterClientError",
    "LimiterOverloaded",
    "LimiterUnavailable",
    "ModelRefused",
    "NeverFits",
    "NotAuthenticated",
    "NotPermitted",
    "Outcome",
    "ProviderRequest",
    "RateLimited",
    "Refused",
    "Settlement",
    "SpendCeilingReached",
    "State",
    "Usage",
]

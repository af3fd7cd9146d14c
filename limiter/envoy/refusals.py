"""Refusals as the provider itself would write them, for its clients to understand, with what only Limiter knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from limiter.domain.limits import UNITS, LimitKind
from limiter.domain.verdicts import DenialReason, Denied, LimitStatus

#: What an answer says that is no decision; in the place of a reason.
UNAVAILABLE: Final = "UNAVAILABLE"
INVALID: Final = "INVALID_ARGUMENT"
NO_KEY: Final = "KEY_MISSING"
NOT_PRICED: Final = "PATH_UNPRICED"
NOT_OFFERED: Final = "REQUEST_NOT_OFFERED"
TOO_LARGE: Final = "BODY_INCOMPLETE"


class Dialect(Enum):
    """Whose way of writing errors a client understands."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    BEDROCK = "bedrock"
    COHERE = "cohere"


class Refusal(NamedTuple):
    """An answer in place of the provider's. `reason` is a DenialReason's name, or one of the words above."""

    status: int
    reason: str
    message: str
    retry_after_ms: int | None = None
    field: str | None = None
    denied: Denied | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later without anybody changing anything."""
        return self.status in (429, 503)


def of_denied(denied: Denied) -> Refusal:
    """What the limiter refused."""
    reason = denied.reason
    return Refusal(reason.http_status, reason.name, denied.message, retry_after_ms=denied.retry_after_ms, denied=denied)


def dialect_of(host: str, path: str) -> Dialect:
    """The dialect of a path; the provider's own paths decide before its name, as many offer another's interface."""
    if path.endswith(("/messages", "/messages/count_tokens", "/messages/batches")) or host.startswith("api.anthropic."):
        return Dialect.ANTHROPIC
    if path.startswith(("/v2/chat", "/v2/embed", "/v2/rerank")) or host.startswith("api.cohere."):
        return Dialect.COHERE
    if "/model/" in path and path.endswith(_BEDROCK_ENDS):
        return Dialect.BEDROCK
    if "/openai/" not in path and (("/models/" in path and ":" in path) or host.startswith("generativelanguage.")):
        return Dialect.GEMINI
    return Dialect.OPENAI


def body(refusal: Refusal, dialect: Dialect) -> str:
    """The JSON of a refusal."""
    error = _WRITERS[dialect](refusal)
    return json.dumps({**error, "limiter": _facts(refusal)}, ensure_ascii=False, separators=(",", ":"))


def headers(refusal: Refusal, dialect: Dialect) -> list[tuple[str, str]]:
    """The headers that tell a client what it is, whether to try again, and when."""
    found = [("content-type", "application/json")]
    if dialect is Dialect.BEDROCK:  # by which AWS's clients tell one error from another
        found.append(("x-amzn-errortype", _BEDROCK.get(refusal.status, "ValidationException")))
    if refusal.retry_after_ms is not None:
        found.append(("retry-after", str(max(1, -(-refusal.retry_after_ms // 1000)))))
    if not refusal.retryable:
        found.append(("x-should-retry", "false"))
    return found


def _openai(refusal: Refusal) -> dict[str, Any]:
    kind, code = _OPENAI.get(refusal.reason, _OPENAI_BY_STATUS.get(refusal.status, ("invalid_request_error", None)))
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.field, "code": code}}


def _anthropic(refusal: Refusal) -> dict[str, Any]:
    kind = _ANTHROPIC.get(refusal.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def _gemini(refusal: Refusal) -> dict[str, Any]:
    status = _GEMINI.get(refusal.status, "INVALID_ARGUMENT")
    return {"error": {"code": refusal.status, "message": refusal.message, "status": status}}


def _message(refusal: Refusal) -> dict[str, Any]:
    return {"message": refusal.message}


_WRITERS: Final = {
    Dialect.OPENAI: _openai,
    Dialect.ANTHROPIC: _anthropic,
    Dialect.GEMINI: _gemini,
    Dialect.BEDROCK: _message,
    Dialect.COHERE: _message,
}

_BEDROCK_ENDS: Final = ("/converse", "/converse-stream", "/invoke", "/invoke-with-response-stream", "/count-tokens")

#: type and code, as OpenAI has them where it knows the like.
_OPENAI: Final = {
    DenialReason.MODEL_NOT_ALLOWED.name: ("invalid_request_error", "model_not_found"),
    DenialReason.MODEL_UNPRICED.name: ("invalid_request_error", "model_not_found"),
    DenialReason.NEVER_FITS.name: ("invalid_request_error", "rate_limit_exceeded"),
    DenialReason.SPEND_CEILING.name: ("insufficient_quota", "insufficient_quota"),
    DenialReason.SPEND_HELD.name: ("requests", "rate_limit_exceeded"),
    DenialReason.TOKEN_RATE.name: ("tokens", "rate_limit_exceeded"),
}
_OPENAI_BY_STATUS: Final = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_endpoint"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "service_unavailable"),
}
_ANTHROPIC: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "api_error",
}
_BEDROCK: Final = {
    401: "UnrecognizedClientException",
    402: "ServiceQuotaExceededException",
    403: "AccessDeniedException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_GEMINI: Final = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def _facts(refusal: Refusal) -> dict[str, Any]:
    facts: dict[str, Any] = {"reason": refusal.reason, "retryable": refusal.retryable}
    if refusal.retry_after_ms is not None:
        facts["retry_after_ms"] = refusal.retry_after_ms
    denied = refusal.denied
    facts["violations"] = _violations(denied.violations) if denied is not None else []
    if denied is not None and denied.fits_max_output_tokens is not None:
        facts["fits_max_output_tokens"] = denied.fits_max_output_tokens
    return facts


def _violations(violations: Sequence[LimitStatus]) -> list[dict[str, Any]]:
    return [_violation(status) for status in violations]


def _violation(status: LimitStatus) -> dict[str, Any]:
    """The fields of the contract's LimitStatus."""
    limit = status.limit
    facts: dict[str, Any] = {
        "scope": status.scope.name,
        "limit": limit.id,
        "kind": limit.kind.name,
        "unit": UNITS[limit.kind],
        "window": limit.per,
        "limit_value": limit.amount,
        "settled": status.settled,
        "held": status.held,
        "remaining": status.remaining,
        "requested": status.requested,
    }
    if limit.kind in (LimitKind.REQUESTS, LimitKind.TOKENS):
        facts["burst"] = limit.burst
    for name, at_ms in (("resets_at", status.resets_at_ms), ("refills_at", status.refills_at_ms)):
        if at_ms:
            facts[name] = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return facts

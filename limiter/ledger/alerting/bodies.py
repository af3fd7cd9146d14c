"""What is sent: a body and headers as the Standard Webhooks want them, or a message for Slack.

The signed text is `ID.TIMESTAMP.BODY`; see https://github.com/standard-webhooks/standard-webhooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final

from standardwebhooks import Webhook

import limiter
from limiter.domain.money import format_usd
from limiter.ledger.alerting import alerts as alerting
from limiter.ledger.alerting.alerts import Alert, instant
from limiter.ledger.alerting.endpoints import BodyFormat, Endpoint
from limiter.ledger.texts import canonical

#: What an id may look like that receivers get: a full stop would make the signed text ambiguous.
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_:-]{1,128}", re.ASCII)
#: The most that Slack takes as a text is 3,000 characters as they are sent; whether some count twice is not known.
_TEXT_MAX: Final = 1_500
#: What is left of an escaped sign where a text is cut in it.
_HALF: Final = re.compile(r"&[a-z]*\Z")


def body_of(alert: Alert, style: BodyFormat) -> bytes:
    """The body of an alert; the same, byte for byte, whenever it is sent."""
    told: dict[str, Any]
    if style is BodyFormat.SLACK:
        told = _slack(alert)
    else:
        told = {"type": alert.type, "timestamp": instant(alert.at_ms), "data": alert.data}
    return canonical(told).encode(errors="replace")


def headers_of(endpoint: Endpoint, alert: Alert, body: bytes, *, now_ms: int) -> dict[str, str]:
    """The headers of one attempt, signed with every secret of the endpoint."""
    headers = {"content-type": "application/json", "user-agent": f"limiter/{limiter.__version__}"}
    if not endpoint.secrets:
        return headers
    number, moment = message_id(alert), datetime.fromtimestamp(now_ms // 1000, UTC)
    signatures = [Webhook(secret).sign(number, moment, body.decode()) for secret in endpoint.secrets]
    return headers | {
        "webhook-id": number,
        "webhook-timestamp": str(now_ms // 1000),
        "webhook-signature": " ".join(signatures),
    }


def message_id(alert: Alert) -> str:
    """The id that receivers know an alert by: its own, or if that could not be signed safely a digest of it."""
    if _PLAIN_ID.fullmatch(alert.id):
        return alert.id
    return f"{alert.type.replace('.', '_')}_{blake2b(alert.id.encode(), digest_size=12).hexdigest()}"


def sentence(alert: Alert) -> str:
    """What an alert says, for people."""
    tell = _SENTENCES.get(alert.type, _other)
    try:
        return tell(alert.data) or alert.type
    except (KeyError, TypeError, ValueError, ArithmeticError):  # of another version, say
        return _other(alert.data) or alert.type


def _slack(alert: Alert) -> dict[str, Any]:
    text = _escaped(sentence(alert))
    small = f"{alert.type} · {instant(alert.at_ms)} · {alert.id}"
    return {
        "text": text,
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": _escaped(small), "verbatim": True}]},
        ],
    }


def _escaped(text: str) -> str:
    """Text that Slack takes for no markup: <!channel> would ring everybody's bell. What is too long is cut."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped if len(escaped) <= _TEXT_MAX else _HALF.sub("", escaped[: _TEXT_MAX - 1]) + "…"


def _threshold(data: Mapping[str, Any]) -> str:
    percent = format((Decimal(str(data["threshold"])) * 100).normalize(), "f")
    text = f"{data['scope']} has passed {percent} % of its limit {data['limit']}{_ceiling(data)}"
    if "settled_nanousd" in data:
        text += f": {format_usd(data['settled_nanousd'])} USD are spent"
        text += f" and {format_usd(data['held_nanousd'])} USD held" if data.get("held_nanousd") else ""
    return f"{text}{_resets(data)}."


def _refusals(data: Mapping[str, Any]) -> str:
    why = _WHY.get(data["reason"], data["reason"])
    text = f"Calls are refused at the limit {data['limit']}{_ceiling(data)} of {data['scope']}: {why}{_resets(data)}."
    first = f"model {data['model']}" if data.get("model") else ""
    first += f"{' ' if first else ''}for customer {data['customer']}" if data.get("customer") else ""
    return f"{text} The first: {first}." if first else text


def _ceiling(data: Mapping[str, Any]) -> str:
    if "ceiling_nanousd" not in data:
        return ""
    window = data.get("window", "")
    return f" ({format_usd(data['ceiling_nanousd'])} USD{_per(window)})"


def _per(window: str) -> str:
    return {"": "", "total": " in total"}.get(window, f" per {window}")


def _resets(data: Mapping[str, Any]) -> str:
    if not data.get("resets_at"):
        return ""
    start = f"began at {data['window_start']} and " if data.get("window_start") else ""
    return f"; the window {start}ends at {data['resets_at']}"


def _expired(data: Mapping[str, Any]) -> str:
    return (
        f"A hold of {data['key']} expired unsettled and was charged in full: {format_usd(data['amount_nanousd'])} USD"
        f" (model {data['model'] or 'unknown'}). Further ones of this key in this hour are not told."
    )


def _gap(data: Mapping[str, Any]) -> str:
    after, before = ("{epoch}-{seq}".format(**data[name]) for name in ("after", "before"))
    return (
        f"Ledger rows of shard {data['shard']} are missing: none came between {after} and {before};"
        " the books do not have what they said."
    )


def _rolled_back(data: Mapping[str, Any]) -> str:
    return (
        f"The store went back in time: shard {data['shard']} had lost {data['rows']} ledger rows that the books have,"
        f" {format_usd(data['amount_nanousd'])} USD; its counters may allow that much again."
    )


def _test(_: Mapping[str, Any]) -> str:
    return "A test of Limiter: alerts reach this endpoint."


def _other(data: Mapping[str, Any]) -> str:
    """Name by name; amounts in USD only."""
    shown = {name: value for name, value in data.items() if not name.endswith("_nanousd")}
    shown |= {
        f"{name.removesuffix('nanousd')}usd": format_usd(value)
        for name, value in data.items()
        if name.endswith("_nanousd") and isinstance(value, int)
    }
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in sorted(shown.items()))


def _drift(data: Mapping[str, Any]) -> str:
    begin, end = (instant(data[name])[:10] for name in ("from_ms", "to_ms"))
    ours, theirs = format_usd(data["ours_nanousd"]), format_usd(data["theirs_nanousd"])
    reasons = [f"{name} {format_usd(nanousd)} USD" for name, nanousd in (data.get("explained") or {}).items()]
    return (
        f"The books and the bill of {data['provider']} differ by {format_usd(abs(data['drift_nanousd']))} USD from"
        f" {begin} to {end}: ours {ours} USD, theirs {theirs} USD{'. Found: ' if reasons else ''}{', '.join(reasons)}."
    )


_WHY: Final = {
    "SPEND_CEILING": "the spend ceiling is reached",
    "SPEND_HELD": "open calls hold the rest of the budget",
    "REQUEST_RATE": "too many requests",
    "TOKEN_RATE": "too many tokens",
    "CONCURRENCY": "too many calls at once",
    "NEVER_FITS": "calls are larger than the limit can ever grant",
}

_SENTENCES: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    alerting.THRESHOLD: _threshold,
    alerting.REFUSALS: _refusals,
    alerting.EXPIRED: _expired,
    alerting.DRIFT: _drift,
    alerting.GAP: _gap,
    alerting.ROLLED_BACK: _rolled_back,
    alerting.TEST: _test,
}

"""ext_authz: Envoy asks before a request goes to the provider."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import structlog

from limiter.domain.calls import ProviderRequest
from limiter.domain.errors import InvalidArgument, LimiterError, Unavailable
from limiter.domain.reservations import ReservationName
from limiter.domain.verdicts import Denied, Granted, LimitStatus
from limiter.envoy import answers, refusals
from limiter.envoy.bodies import BodyUnreadable, open_body
from limiter.envoy.credentials import Credentials
from limiter.envoy.deliveries import REQUEST_ID, Deliveries
from limiter.envoy.hooks import Hooks
from limiter.envoy.options import EnvoyOptions, PartialBody
from limiter.envoy.principals import SECRET_HEADERS, SECRET_PARAMETER, NoPrincipal, asks_by_query, principal
from limiter.envoy.rate_limit_headers import rate_limit_headers
from limiter.envoy.refusals import Refusal
from limiter.envoy.requests import HttpRequest, read_check
from limiter.envoy.settling import Settling
from limiter.envoy.tags import check_body_tags, parse_tags
from limiter.envoy.v3 import ext_authz_pb2
from limiter.pricing.encodings import is_encoded
from limiter.pricing.hosts import Endpoint, endpoint, is_free
from limiter.pricing.reading import CallReading, read_request
from limiter.service.calls import Principal, ReserveCall
from limiter.service.service import Service

#: Requests that ask for nothing that costs; but a GET with an upgrade opens a socket, over which anything may go.
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

_OURS: Final = "x-limiter-"
_RETRY_MS: Final = 1_000

#: The part of the time that Envoy allows which is kept for the way of the answer.
_FOR_THE_WAY: Final = 0.1
_NO_FINGERPRINT: Final = bytes(16)
_ENCODING: Final = "accept-encoding"
_MODELS: Final = "/v1/models"

#: What some servers take for a slash: a path may lead elsewhere there.
_HIDDEN_SLASH: Final = re.compile("%2f|%5c", re.IGNORECASE)

#: How forms with files begin.
_FORM: Final = b"--"

#: Whose account is charged at the provider is not the client's to say.
_ACCOUNT_HEADERS: Final = ("openai-organization", "openai-project")

#: By these some servers take one method for another.
_OVERRIDES: Final = ("x-http-method-override", "x-http-method", "x-method-override")

_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """The adapter itself refuses."""

    def __init__(self, status: int, reason: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, reason, message, field=field)


class _Asked(NamedTuple):
    """A request in the service's words.

    `reading` None: its body says nothing. `body_tags`: the body has tags. `plain`: it is not compressed.
    """

    call: ReserveCall
    reading: CallReading | None = None
    body_tags: bool = False
    plain: bool = True


class Authorization:
    """`envoy.service.auth.v3.Authorization` on one listener; `trusted` as that is marked."""

    def __init__(
        self,
        service: Service,
        *,
        options: EnvoyOptions,
        credentials: Credentials,
        hooks: Hooks,
        trusted: bool,
        settling: Settling,
        deliveries: Deliveries,
    ) -> None:
        self._service = service
        self._settling = settling
        self._deliveries = deliveries
        self._options = options
        self._credentials = credentials
        self._hooks = hooks
        self._trusted = trusted
        self._seconds = service.metrics.call_seconds
        identity = (options.principal.header,) if options.principal.header is not None else ()
        self._removed = tuple(
            dict.fromkeys((options.tags_header, options.cost_header, answers.RESERVATION_HEADER, *identity))
        )

    async def check(self, request: ext_authz_pb2.CheckRequest, context: Any) -> ext_authz_pb2.CheckResponse:  # noqa: ANN401 - two engines
        """Decide on a request. Whatever goes wrong here is an error, which Envoy's failure mode is for; no denial."""
        began = time.perf_counter()
        http = read_check(request)
        refusal, code = None, "OK"
        try:
            response = await self._decide(request, http, context)
        except _Refused as error:
            refusal = error.refusal
        except NoPrincipal as error:
            refusal = Refusal(401, refusals.NO_KEY, str(error))
        except BodyUnreadable as error:
            refusal = Refusal(error.status, refusals.INVALID, str(error))
        except InvalidArgument as error:
            refusal = _of_mistake(error)
        except LimiterError as error:
            refusal, code = Refusal(503, refusals.UNAVAILABLE, str(error), _RETRY_MS), type(error).__name__.upper()
        except Exception:  # noqa: BLE001 - the last one to see it; a gRPC error would hide what a client is told
            _log.exception("check_failed")
            message = "the limiter could not decide; try again"
            refusal, code = Refusal(503, refusals.UNAVAILABLE, message, _RETRY_MS), "INTERNAL"
        if refusal is not None:
            response = answers.refused(refusal, refusals.dialect_of(http.host, http.path))
        self._seconds["Check", code].observe(time.perf_counter() - began)
        return response

    async def _decide(
        self,
        request: ext_authz_pb2.CheckRequest,
        http: HttpRequest,
        context: Any,  # noqa: ANN401 - two engines
    ) -> ext_authz_pb2.CheckResponse:
        asked = await self._asked(request, http)
        call = asked.call
        remaining_s = self._hooks.remaining_s(context)
        call.deadline = None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
        verdict = await self._service.reserve(call)
        if isinstance(verdict, Denied):
            told = await self._rates((*verdict.limits, *verdict.violations))
            dialect = refusals.dialect_of(http.host, http.path)
            return answers.refused(refusals.of_denied(verdict), dialect, tell=told)
        if call.consume:
            return self._allowed(http, verdict, await self._rates(verdict.limits))
        name = ReservationName.parse(verdict.reservation)
        self._settling.opened(name)
        self._hooks.on_unwritten(context, lambda: self._give_back(name))
        try:
            response = self._allowed(http, verdict, await self._rates(verdict.limits))
            answers.note_grant(response, verdict, call.provider)
            if asked.reading is not None:
                answers.note_body(response, asked.reading, verdict, tags=asked.body_tags, plain=asked.plain)
            self._check_in_time(context, remaining_s)
            self._deliveries.sent(http.headers.get(REQUEST_ID, ""), name)
        except Exception:
            self._give_back(name)  # an error is written in its place, so the hook would not see it
            raise
        return response

    def _give_back(self, name: ReservationName) -> None:
        self._settling.closed(name)
        self._service.give_back(name)

    def _check_in_time(self, context: Any, allowed_s: float | None) -> None:  # noqa: ANN401 - two engines
        """Raise Unavailable if Envoy may have given up: it counts from a moment before the call came here."""
        if allowed_s is not None and (self._hooks.remaining_s(context) or 0.0) <= _FOR_THE_WAY * allowed_s:
            raise Unavailable("the decision came too late")

    async def _rates(self, statuses: Sequence[LimitStatus]) -> list[tuple[str, str]]:
        return rate_limit_headers(statuses, now_ms=await self._service.now_ms()) if statuses else []

    async def _asked(self, request: ext_authz_pb2.CheckRequest, http: HttpRequest) -> _Asked:
        """What the request asks for. The body of a stranger is not looked at: to read a large one takes a while."""
        options = self._options
        metadata = request.attributes.metadata_context
        asks = principal(http, metadata, options.principal, trusted=self._trusted)
        header = http.headers.get(options.tags_header, "")
        call = ReserveCall(
            principal=asks,
            request_id="",  # our own: the client's cannot make one call's hold pay for another
            model="",
            provider="",
            size=None,
            tags=parse_tags(header, header=options.tags_header) if header else (),
            ttl_ms=None,
            dry_run=False,
            all_limits=False,
            consume=False,
            fingerprint=_NO_FINGERPRINT,
            deadline=None,
        )
        if not await self._service.knows(asks):
            call.consume = True
            return _Asked(call)
        self._check_credential(http, asks)
        if _costs_nothing(http, options):
            call.consume = True
            return _Asked(call)
        where = _endpoint(http)
        if http.is_cut:
            if not isinstance(options.partial_body, PartialBody) or not where.is_known:
                message = "the request is too large: its body did not reach the limiter whole"
                raise _Refused(413, refusals.TOO_LARGE, message)
            # What the body asks for cannot be known: no model, so no limits of models either.
            call.size, call.model, call.provider = options.partial_body.hold_usd, where.model, where.provider
            return _Asked(call)
        encoding = http.headers.get("content-encoding", "")
        plain, body = not is_encoded(encoding), open_body(http.body, encoding)
        content_type = http.headers.get("content-type", "") if body.startswith(_FORM) else ""
        reading = read_request(ProviderRequest(http.host, http.path, body, content_type))
        if reading.in_background:
            message = "background: nobody would tell what the call has used; leave it out, or stream the answer"
            raise _Refused(400, refusals.INVALID, message, field="background")
        body_tags = bool(reading.tags)
        if body_tags:
            reading = check_body_tags(reading, call.tags)
        if not plain and self._changes(reading, body_tags=body_tags):
            message = (
                "the request must be completed, and is compressed; send it plain, or with the most output it may get"
            )
            raise _Refused(415, refusals.INVALID, message)
        call.size, call.provider = reading, reading.provider
        call.caps_output = plain and self._options.request_changes.max_output_tokens
        return _Asked(call, reading, body_tags, plain)

    def _changes(self, reading: CallReading, *, body_tags: bool) -> bool:
        """Whether ext_proc would write into the body."""
        changes = self._options.request_changes
        unbounded = reading.max_output_tokens is None and reading.output_field
        return bool(
            (changes.max_output_tokens and unbounded) or (changes.include_usage and reading.usage_unasked) or body_tags
        )

    def _check_credential(self, http: HttpRequest, asks: Principal) -> None:
        """Never hand the caller's key, which is Limiter's, to the provider, unless the operator says it is both."""
        if asks.key is None and not self._options.forward_client_keys and self._credentials.for_host(http.host) is None:
            host = http.host
            _log.error("check.no_credential", host=host)
            raise Unavailable(f"there is no key for {host}: the operator must add it to upstream_credentials")

    def _allowed(
        self, http: HttpRequest, verdict: Granted, rates: list[tuple[str, str]]
    ) -> ext_authz_pb2.CheckResponse:
        credential = self._credentials.for_host(http.host)
        removed = self._removed
        remove = [*removed, *(name for name in http.headers if name.startswith(_OURS) and name not in removed)]
        # The settlement reads the answer, and Envoy's own reader of streams reads plain ones only.
        remove.append(_ENCODING)
        parameters: tuple[str, ...] = ()
        remove += [name for name in _OVERRIDES if name in http.headers]
        if credential is not None:
            remove += [name for name in _ACCOUNT_HEADERS if name in http.headers]
            remove += [name for name in SECRET_HEADERS if name != credential.header and name in http.headers]
            parameters = (SECRET_PARAMETER,) if http.query and asks_by_query(http) else ()
        tell = [*rates, (answers.RESERVATION_HEADER, verdict.reservation)]
        return answers.allowed(credential=credential, remove=remove, remove_parameters=parameters, tell=tell)


def _costs_nothing(http: HttpRequest, options: EnvoyOptions) -> bool:
    """Whether only rate limits count. Raises _Refused for a look into the provider's account that is not offered."""
    if http.method not in _READING or "upgrade" in http.headers:
        return http.path in options.free_paths or is_free(http.host, http.path)
    listing = http.method == "GET" and (http.path == _MODELS or http.path.startswith(f"{_MODELS}/"))
    listing = listing and _HIDDEN_SLASH.search(http.path) is None
    if options.other_requests == "refuse" or (options.other_requests == "models" and not listing):
        message = f"{http.method} {http.path} is not offered here (other_requests)"
        raise _Refused(403, refusals.NOT_OFFERED, message)
    return True


def _endpoint(http: HttpRequest) -> Endpoint:
    try:
        return endpoint(http.host, http.path)
    except InvalidArgument:
        message = f"{http.method} {http.path} at {http.host} has no price here, so nobody could say what it may cost"
        raise _Refused(403, refusals.NOT_PRICED, message) from None


def _of_mistake(error: InvalidArgument) -> Refusal:
    """What is wrong with the request, in the words of who sent it."""
    if error.field == "api_key":
        return Refusal(401, refusals.NO_KEY, "the API key is not one that Limiter could have made")
    field = error.field.removeprefix("provider_request.").removeprefix("body.")
    return Refusal(400, refusals.INVALID, str(error).removeprefix("provider_request."), field=field)

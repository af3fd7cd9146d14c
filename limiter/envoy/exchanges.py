"""One HTTP call as ext_proc sees it: what to answer to each of Envoy's messages, and how the call ended."""

from __future__ import annotations

from typing import Final

import structlog

from limiter.domain.calls import BODY_MAX_BYTES, Outcome, ProviderResponse
from limiter.domain.errors import InvalidArgument
from limiter.envoy import refusals
from limiter.envoy.grants import Grant, read_grant, read_token_count
from limiter.envoy.headers import count_in, header_text, set_header
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.refusals import Dialect, Refusal
from limiter.envoy.rewriting import rewritten
from limiter.envoy.settling import Ending, Released, of_reading, of_usage
from limiter.envoy.v3 import ext_proc_pb2 as pb
from limiter.pricing.answers import ResponseReading, is_used_as_asked, read_response, read_stream, usage_so_far
from limiter.pricing.encodings import decoded
from limiter.pricing.streams import StreamReader, is_stream, media_type
from limiter.service.calls import BrokenOff

#: Larger answers are not buffered for a cost header: they could not be read anyway.
BUFFERED_MAX_BYTES: Final = BODY_MAX_BYTES

#: Up to here an answer is sure to fit into Envoy's buffers. A larger one, or one that does not tell, would hang (Envoy
#: 1.40.0) or become an error in mode BUFFERED; with BUFFERED_PARTIAL its beginning comes here, and the client gets all.
_FITS_BYTES: Final = 512 * 1024

#: Of the bytes of a stream that cannot be read, at most this share was text.
_STREAM_BYTES_PER_TEXT: Final = 5

#: Envoy's own answer where the provider took too long: unlike any other 5xx, it may have been at work.
_GATEWAY_TIMEOUT: Final = 504
_FROM_UPSTREAM: Final = "x-envoy-upstream-service-time"

#: The headers that are looked at here, all of answers. Envoy need not send others: see forward_rules in deploy/envoy/.
HEADERS: Final = (":status", "content-type", "content-encoding", "content-length", _FROM_UPSTREAM)

#: The modes in which a request's body is to come, or will if it is asked for, in one piece.
_WHOLE: Final = (pb.ProcessingMode.NONE, pb.ProcessingMode.BUFFERED)

_log = structlog.get_logger(__name__)


class Exchange:
    """The state of one call. `ending` is how it ended, once that is known; it is handed out once.

    `reads_streams`: nobody else settles here, so streams are read, and calls that break off are settled.
    """

    def __init__(self, options: EnvoyOptions, *, reads_streams: bool) -> None:
        self._options = options
        self._reads_streams = reads_streams
        self._configured: pb.ProtocolConfiguration | None = None
        self._body_comes_whole = False
        self.grant: Grant | None = None
        self._status = 0
        self._content_type = ""
        self._encoding = ""
        self._stream: StreamReader | None = None
        self._pieces: bytearray | None = None  # of JSON that comes as a stream
        self._passed = 0
        self._whole = False
        self._buffered = False
        self._ended = False
        self._timed_out = False
        self._is_envoys = False
        self._length: int | None = None
        self._refused = False
        self._trailing: Ending | None = None

    # ------------------------------------------------------------------ the request

    def begin(self, message: pb.ProcessingRequest) -> None:
        """Take from a message what each of them may carry."""
        if message.HasField("protocol_config"):
            self._configured = message.protocol_config
        if self.grant is None:
            self.grant = read_grant(message.metadata_context)

    def request_headers(self, headers: pb.HttpHeaders) -> pb.ProcessingResponse:
        """Ask for the body where something must be written into it."""
        response = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
        if self._wants_body() and not headers.end_of_stream:
            configured = self._configured or pb.ProtocolConfiguration()
            self._body_comes_whole = configured.request_body_mode in _WHOLE
            if configured.request_body_mode == pb.ProcessingMode.NONE:
                # An override stands for the whole of the mode: what is not to change is said again.
                response.mode_override.request_body_mode = pb.ProcessingMode.BUFFERED
                response.mode_override.response_body_mode = configured.response_body_mode
                response.mode_override.response_header_mode = pb.ProcessingMode.SEND
        return response

    def request_body(self, body: pb.HttpBody) -> pb.ProcessingResponse:
        """Write what the hold asks for into a whole body; where trailers follow, it is not the end of the stream."""
        response = pb.ProcessingResponse(request_body=pb.BodyResponse())
        grant, changes = self.grant, self._options.request_changes
        if grant is None:
            return response
        new = None
        if body.end_of_stream or self._body_comes_whole:
            new = rewritten(
                body.body,
                grant,
                include_usage=changes.include_usage,
                max_output_tokens=changes.max_output_tokens,
            )
        if new is not None:
            response.request_body.response.body_mutation.body = new
            # Envoy refuses a body whose length is not the one in the headers.
            set_header(response.request_body.response.header_mutation, "content-length", str(len(new)))
        elif self._wants_bound() and body.end_of_stream:
            return self._refuse("the request could not be bounded to what its hold pays for; name a maximum output")
        return response

    def _refuse(self, message: str) -> pb.ProcessingResponse:
        """Answer in the provider's place: nothing may be spent that is not held."""
        self._refused = True
        response = pb.ProcessingResponse()
        answer = response.immediate_response
        answer.status.code = 400
        answer.body = refusals.body(Refusal(400, refusals.INVALID, message), Dialect.OPENAI).encode()
        set_header(answer.headers, "content-type", "application/json")
        return response

    def _wants_body(self) -> bool:
        grant, changes = self.grant, self._options.request_changes
        if grant is None:
            return False
        return self._wants_bound() or grant.body_tags or (changes.include_usage and grant.include_usage)

    def _wants_bound(self) -> bool:
        grant = self.grant
        return bool(
            grant is not None
            and self._options.request_changes.max_output_tokens
            and grant.max_output_field
            and grant.max_output_tokens
        )

    # ------------------------------------------------------------------ the answer

    def response_headers(self, headers: pb.HttpHeaders) -> pb.ProcessingResponse:
        """Decide by the answer's headers how the rest of it is to be seen."""
        response = pb.ProcessingResponse(response_headers=pb.HeadersResponse())
        named = {header.key.lower(): header_text(header) for header in headers.headers.headers}
        # Nobody else tells the cost. Whether the provider did is not known here: Envoy sends no header but HEADERS.
        response.response_headers.response.header_mutation.remove_headers.append(self._options.cost_header)
        status = named.get(":status", "")
        self._status = int(status) if status.isascii() and status.isdigit() else 0
        self._content_type = named.get("content-type", "")
        self._encoding = named.get("content-encoding", "")
        self._length = count_in(named.get("content-length", ""))
        self._whole = headers.end_of_stream
        mode = pb.ProcessingMode.NONE
        if self.grant is not None and not headers.end_of_stream and 200 <= self._status < 300:
            mode = self._mode()
        self._is_envoys = _FROM_UPSTREAM not in named
        self._timed_out = self._status == _GATEWAY_TIMEOUT and self._is_envoys
        configured = self._configured
        if configured is None or configured.response_body_mode != mode:
            response.mode_override.response_body_mode = mode
            response.mode_override.response_header_mode = pb.ProcessingMode.SEND
        return response

    def _mode(self) -> pb.ProcessingMode.BodySendMode:
        length, kind = self._length, media_type(self._content_type)
        is_json = kind == "application/json" or kind.endswith("+json")
        if is_stream(kind):
            if self._reads_streams:
                self._stream = StreamReader(kind, encoding=self._encoding)
        elif is_json and length is None and self.grant is not None and self.grant.stream:
            # A stream in all but its name, such as Gemini's list: its client shall not wait for the end of it.
            if self._reads_streams:
                self._pieces = bytearray()
        elif is_json and length is not None and length > BUFFERED_MAX_BYTES:
            _log.warning("ext_proc.answer_too_large", bytes=length)
        else:
            self._buffered = is_json
        if self._stream is not None or self._pieces is not None:
            return pb.ProcessingMode.STREAMED
        if not self._buffered:
            return pb.ProcessingMode.NONE
        fits = length is not None and length <= _FITS_BYTES
        return pb.ProcessingMode.BUFFERED if fits else pb.ProcessingMode.BUFFERED_PARTIAL

    def response_part(self, body: pb.HttpBody) -> None:
        """Take a part of a stream, or the whole of an answer that is none; an answer to Envoy need not wait for it."""
        self._passed += len(body.body)
        self._whole = self._whole or body.end_of_stream
        if self._stream is not None:
            self._stream.feed(body.body)
        elif self._pieces is not None and self._passed <= BUFFERED_MAX_BYTES:
            self._pieces += body.body

    def response_trailers(self, message: pb.ProcessingRequest) -> None:
        """Take the trailers: all of the answer has passed, and Envoy's own reader may have told its usage."""
        self._whole = True
        count = read_token_count(message.metadata_context)
        if count is not None and count.usage is not None and count.complete and self.grant is not None:
            self._trailing = of_usage(self.grant.name, count.usage, count.model)

    @property
    def has_seen_enough(self) -> bool:
        """Whether nothing that comes after the answer's headers matters here."""
        return not self._reads_streams and not self._buffered

    @property
    def is_buffered(self) -> bool:
        """Whether the answer comes whole, in one part."""
        return self._buffered

    # ------------------------------------------------------------------ the end

    def of_buffered(self, body: bytes) -> Ending | None:
        """How a call with a buffered answer ended; None: that is the access log's to say."""
        if self.grant is None or self._ended:
            return None
        self._ended = True
        ending = self._read(self.grant, body)
        if ending is not None or (not self._whole and not self._reads_streams):
            return ending
        return BrokenOff(self.grant.name, output_bytes=len(body), outcome=Outcome.COMPLETED)

    def _read(self, grant: Grant, body: bytes) -> Ending | None:
        """How a call ended by its answer, if that can be read."""
        plain = decoded(body, self._encoding)
        if plain is None:
            _log.warning("ext_proc.encoding_unreadable", encoding=self._encoding[:40])
            return None
        try:
            response = ProviderResponse(self._status, self._content_type, plain)
            reading = read_response(provider=grant.provider, response=response)
        except InvalidArgument as error:
            reason = str(error) if self._whole else "it is not whole, or too large for Envoy's buffer"
            _log.warning("ext_proc.answer_unreadable", reservation=str(grant.name), reason=reason)
            return None
        return of_reading(grant.name, reading, output_bytes=len(plain))

    def at_close(self) -> Ending | None:
        """How the call ended, now that Envoy sends no more; None: nothing to do, or the access log's to say.

        Envoy resets its stream after a good end as well: whether the end of the answer or its final usage was seen is
        the only test.
        """
        grant = self.grant
        if grant is None or self._ended:
            return None
        self._ended = True
        if self._refused:
            return Released(grant.name, "the request was not sent")
        if self._status >= 300 and not self._timed_out:
            own = self._status >= 500 and self._is_envoys
            return None if own else Released(grant.name, f"the answer was {self._status}")
        return self._trailing or self._of_answer(grant)

    def _of_answer(self, grant: Grant) -> Ending | None:
        if self._stream is not None:
            return self._of_stream(grant, self._stream)
        if self._pieces is not None:
            outcome = Outcome.COMPLETED if self._whole else Outcome.ABORTED
            passed = self._passed // _STREAM_BYTES_PER_TEXT
            return self._read(grant, bytes(self._pieces)) or BrokenOff(grant.name, output_bytes=passed, outcome=outcome)
        if not self._status or (not self._reads_streams and not self._whole):
            return None  # the access log knows whether the provider was reached
        # An answer that is not looked into (no text at all, empty, too large), or none that came whole.
        passed_by = 200 <= self._status < 300 and not self._buffered
        if passed_by and is_used_as_asked(self._content_type):
            return of_reading(grant.name, ResponseReading("", None, "", as_asked=True))
        outcome = Outcome.COMPLETED if passed_by else Outcome.ABORTED
        # What was not looked into, or had not come yet, the provider may have written all the same.
        output_bytes = max(self._passed, self._length or 0)
        unseen = output_bytes == 0 and not self._whole and not grant.stream
        return BrokenOff(grant.name, output_bytes=output_bytes, outcome=outcome, unseen=unseen)

    def _of_stream(self, grant: Grant, stream: StreamReader) -> Ending:
        if self._whole:
            stream.finish()
        if stream.unreadable:
            _log.warning("ext_proc.encoding_unreadable", encoding=self._encoding[:40])
        unseen = stream.unreadable or stream.skipped > 0
        passed = self._passed // _STREAM_BYTES_PER_TEXT if unseen else stream.output_bytes
        try:
            reading = read_stream(stream, provider=grant.provider)
        except InvalidArgument as error:
            _log.warning("ext_proc.answer_unreadable", reservation=str(grant.name), reason=str(error))
            return BrokenOff(grant.name, output_bytes=passed, outcome=Outcome.COMPLETED)
        if reading.usage is not None:
            return of_reading(grant.name, reading)
        complete = self._whole or stream.ended
        return BrokenOff(
            grant.name,
            usage_seen=usage_so_far(stream, provider=grant.provider),
            output_bytes=passed,
            model=reading.model,
            provider_request_id=reading.provider_request_id,
            outcome=Outcome.COMPLETED if complete else Outcome.ABORTED,
        )

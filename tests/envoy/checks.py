"""The ext_authz side of a sidecar on a fake store, asked as Envoy asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.json_format import MessageToDict

from limiter.envoy.credentials import Credentials
from limiter.envoy.hooks import Hooks
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.services import AUTHORIZATION, handlers
from limiter.envoy.v3 import ext_authz_pb2 as pb
from limiter.policy.yaml_text import read_yaml
from limiter.rpc.context import on_unwritten, remaining_s
from limiter.rpc.engines import Engine
from limiter.rpc.guard import Guard
from limiter.rpc.listeners import Listener
from limiter.rpc.server import Server
from tests.rules.desk import Limiter

POLICY = """
    version: 1
    organizations:
      acme:
        teams:
          search:
            keys:
              bot:
                limits: []
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 100}
MESSAGES = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
CHAT_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/messages"
OPENAI, ANTHROPIC, GOOGLE = "api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com"


class Answer(NamedTuple):
    """What Envoy would make of a CheckResponse. `kind`: ok, denied or error."""

    kind: str
    status: int
    headers: dict[str, str]  # to the client
    upstream: dict[str, str]
    removed: set[str]
    removed_parameters: list[str]
    metadata: dict[str, Any]
    body: Any

    @property
    def reservation(self) -> str:
        return self.headers["x-limiter-reservation"]


def read_answer(response: pb.CheckResponse) -> Answer:
    """Read an answer as Envoy does: the status decides, then which response there is."""
    metadata = MessageToDict(response.dynamic_metadata)
    if response.status.code == 0:
        ok = response.ok_response
        told, upstream = _headers(ok.response_headers_to_add), _headers(ok.headers)
        removed = set(ok.headers_to_remove)
        return Answer("ok", 200, told, upstream, removed, list(ok.query_parameters_to_remove), metadata, None)
    kind = response.WhichOneof("http_response")
    assert kind in ("denied_response", "error_response")
    answer = getattr(response, kind)
    body = json.loads(answer.body)
    headers = _headers(answer.headers)
    return Answer(kind.partition("_")[0], answer.status.code, headers, {}, set(), [], metadata, body)


def _headers(options: Any) -> dict[str, str]:  # noqa: ANN401 - a repeated field
    return {option.header.key: option.header.value for option in options}


def check_request(
    body: object = CHAT,
    *,
    path: str = CHAT_PATH,
    host: str = OPENAI,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    secret: str = "",
    size: int | None = None,
    route: Mapping[str, str] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> pb.CheckRequest:
    """Ask as Envoy does, with pack_as_bytes; a `body` that is no bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = pb.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.raw_body = method, path, host, raw
    http.size = len(raw) if size is None else size
    http.headers.update({":authority": host, ":path": path, ":method": method, "content-length": str(len(raw))})
    if secret:
        http.headers["authorization"] = f"Bearer {secret}"
    http.headers.update(headers or {})
    request.attributes.context_extensions.update(route or {})
    for namespace, fields in (metadata or {}).items():
        request.attributes.metadata_context.filter_metadata[namespace].update(fields)
    return request


class Front:
    """A sidecar that answers Envoy: one listener for anybody, one that is trusted."""

    def __init__(self, limiter: Limiter, engine: Engine) -> None:
        self.limiter = limiter
        self._engine = engine
        self._servers: list[Server] = []
        self._channels: list[grpc.aio.Channel] = []
        self._calls: list[Any] = []

    async def start(self, options: str = "{}") -> None:
        """Serve with these options; unless they say otherwise, the caller's key is the provider's too."""
        tree: Any = read_yaml(options)[0]
        parsed = EnvoyOptions.model_validate({"forward_client_keys": True} | tree)
        credentials = Credentials(parsed.upstream_credentials)

        def register(listener: Listener, guard: Guard) -> None:
            found = handlers(
                self.limiter.service,
                options=parsed,
                credentials=credentials,
                hooks=Hooks(on_unwritten, remaining_s, asyncio.Event()),
                trusted=listener.trusted,
            )
            for name, methods in found.items():
                guard.add_registered_method_handlers(name, methods)

        listeners = (Listener("127.0.0.1:0"), Listener("127.0.0.1:0", trusted=True))
        server = Server(listeners, register, engine=self._engine)
        await server.start()
        self._servers.append(server)
        self._calls = []
        for address in server.bound_addresses:
            channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            self._channels.append(channel)
            self._calls.append(
                channel.unary_unary(
                    f"/{AUTHORIZATION}/Check",
                    request_serializer=pb.CheckRequest.SerializeToString,
                    response_deserializer=pb.CheckResponse.FromString,
                )
            )

    async def key(self, policy: str = POLICY, key: str = "acme/search/bot") -> str:
        """Apply a policy and mint a key; answers its secret."""
        await self.limiter.apply(policy)
        return await self.limiter.mint(key)

    def send(self, request: pb.CheckRequest, *, trusted: bool = False, timeout_s: float | None = 10.0) -> Any:  # noqa: ANN401 - a call
        """Begin a call."""
        return self._calls[trusted](request, timeout=timeout_s)

    async def check(self, body: object = CHAT, *, trusted: bool = False, **told: Any) -> Answer:  # noqa: ANN401 - as check_request
        """Ask, and read the answer."""
        return read_answer(await self.send(check_request(body, **told), trusted=trusted))

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for server in self._servers:
            await server.drain(0)

"""The Admin service: translate, ask the administration, translate back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import ReservationName
from limiter.domain.rows import Position, Row
from limiter.domain.scopes import Scope
from limiter.policy.document import parse_limits, parse_policy
from limiter.rpc import admin_answers as to
from limiter.rpc import answers, requests
from limiter.service.administration import PAGE_MAX
from limiter.service.keyring import OVERLAP_MS
from limiter.service.service import Service
from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc

_OVERLAP_MAX_MS = 90 * 86_400_000
_ROWS_AT_ONCE = 500
_FOLLOW_EVERY_S = 0.25
_LATEST_MAX = 100_000
_PAGE = 100
_SCOPES_MAX = 1_000
_TOKEN_DIGITS_MAX = 18

#: How far each shard was read.
_Positions = dict[int, Position | None]


class AdminServicer(limiter_pb2_grpc.AdminServicer):
    """Answers on a listener of its own. `draining` is set when the server is about to stop."""

    def __init__(self, service: Service, draining: asyncio.Event) -> None:
        self._administration = service.administration
        self._keyring = service.keyring
        self._draining = draining

    async def ApplyPolicy(self, request: pb.ApplyPolicyRequest, context: Any) -> pb.ApplyPolicyResponse:
        """Validate a policy and put it in force."""
        policy = await asyncio.to_thread(parse_policy, request.policy_yaml)
        return to.applied(await self._administration.apply(policy, dry_run=request.dry_run))

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Any) -> pb.GetPolicyResponse:
        """The policy in force."""
        text, versions = await self._administration.policy(request.organization)
        return pb.GetPolicyResponse(policy_yaml=text, versions=versions)

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        """Mint a key."""
        view, secret = await self._keyring.create(
            Scope.parse_key(request.key, field="key"),
            limits=parse_limits(request.limits_yaml) if request.limits_yaml else None,
            expires_ms=_expiry(request),
        )
        return pb.CreateKeyResponse(key=to.key(view), secret=secret)

    async def ImportKey(self, request: pb.ImportKeyRequest, context: Any) -> pb.CreateKeyResponse:
        """Register a secret that exists elsewhere."""
        if not request.secret:
            raise InvalidArgument("secret", "", "send the secret that the key is to be known by")
        view, _ = await self._keyring.create(
            Scope.parse_key(request.key, field="key"),
            limits=parse_limits(request.limits_yaml) if request.limits_yaml else None,
            expires_ms=_expiry(request),
            secret=request.secret,
        )
        return pb.CreateKeyResponse(key=to.key(view))

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        """Mint a further secret."""
        overlap_ms = OVERLAP_MS
        if request.HasField("overlap"):
            overlap_ms = requests.duration_ms(request.overlap, field="overlap", longest_ms=_OVERLAP_MAX_MS)
        view, secret = await self._keyring.rotate(Scope.parse_key(request.key, field="key"), overlap_ms=overlap_ms)
        return pb.CreateKeyResponse(key=to.key(view), secret=secret)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: Any) -> pb.Key:
        """Enable or disable a key, set its expiry or its limits."""
        expires_ms = 0 if request.clear_expiry else _expiry(request) or None
        view = await self._keyring.update(
            Scope.parse_key(request.key, field="key"),
            enabled=request.enabled if request.HasField("enabled") else None,
            expires_ms=expires_ms,
            limits=parse_limits(request.limits_yaml) if request.limits_yaml else None,
            clear_limits=request.HasField("limits_yaml") and not request.limits_yaml,
        )
        return to.key(view)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        """Keys that have a secret, sorted by name, a page at a time."""
        size = _page_size(request.page_size)
        views = [view async for view in self._keyring.under(_scope(request.scope))]
        views = sorted((view for view in views if view.key.path > request.page_token), key=lambda view: view.key)
        page = views[:size]
        return pb.ListKeysResponse(
            keys=[to.key(view) for view in page], next_page_token=page[-1].key.path if len(views) > size else ""
        )

    async def GetReservation(self, request: pb.GetReservationRequest, context: Any) -> pb.Reservation:
        """One reservation, open or ended."""
        return to.reservation(await self._administration.reservation(ReservationName.parse(request.reservation)))

    async def ListReservations(
        self,
        request: pb.ListReservationsRequest,
        context: Any,
    ) -> pb.ListReservationsResponse:
        """Open reservations, those that expire first first. The page token is `organization position`."""
        scope, size = _scope(request.scope), _page_size(request.page_size)
        names = [scope.organization] if scope is not None else await self._administration.organizations()
        current, _, after = request.page_token.partition(" ")
        if after and not (after.isascii() and after.isdecimal() and len(after) <= _TOKEN_DIGITS_MAX):
            raise InvalidArgument("page_token", request.page_token, "pass the token of the page before, as it came")
        for name in [name for name in names if name >= current]:
            records, following = await self._administration.open_reservations(
                name, after=after if name == current else "", count=size
            )
            found = [to.reservation(record) for record in records]
            found = [one for one in found if scope is None or f"{one.key}/".startswith(f"{scope.path}/")]
            later = [other for other in names if other > name]
            token = f"{name} {following}" if following else f"{later[0]} 0" if later else ""
            if found or not token:
                return pb.ListReservationsResponse(reservations=found, next_page_token=token)
            if following:
                return pb.ListReservationsResponse(next_page_token=token)
        return pb.ListReservationsResponse()

    async def ForceRelease(self, request: pb.ReleaseRequest, context: Any) -> pb.SettleResponse:
        """End an open hold with nothing spent."""
        settled = await self._administration.force_release(
            ReservationName.parse(request.reservation), reason=requests.reason_text(request.reason)
        )
        return answers.settle_response(settled)

    async def ListScopes(self, request: pb.ListScopesRequest, context: Any) -> pb.ListScopesResponse:
        """The present counters of a scope and of what stands under it."""
        response = pb.ListScopesResponse()
        for view in await self._administration.scopes(_scope(request.scope)):
            message = response.scopes.add(scope=view.scope.path, refused=view.refused)
            for status in view.limits:
                answers.add_status(message.limits, status)
        return response

    async def AdjustReservation(self, request: pb.AdjustReservationRequest, context: Any) -> pb.SettleResponse:
        """Correct what an ended call cost."""
        adjusted = await self._administration.adjust(
            ReservationName.parse(request.reservation),
            cost=request.cost_nanousd,
            reason=requests.reason_text(request.reason),
            by=requests.reason_text(request.by, field="by"),
        )
        return answers.settle_response(adjusted)

    async def ReadCounters(self, request: pb.ReadCountersRequest, context: Any) -> pb.ReadCountersResponse:
        """The spend counters of scopes, and the ledger row up to which they count."""
        scopes = [Scope.parse(text) for text in request.scopes]
        if not 1 <= len(scopes) <= _SCOPES_MAX or len({scope.organization for scope in scopes}) != 1:
            raise InvalidArgument("scopes", len(scopes), f"name 1 to {_SCOPES_MAX} scopes of one organization")
        shard, position, counters = await self._administration.counters(scopes[0].organization, scopes)
        return to.counters(shard, position, counters)

    async def ReadLedger(self, request: pb.ReadLedgerRequest, context: Any) -> AsyncIterator[pb.LedgerRow]:
        """Ledger rows shard by shard, and new ones as they come."""
        scope = _scope(request.scope)
        if request.last < 0:
            raise InvalidArgument("last", request.last, "use 0 for all rows, or how many of each shard")
        positions: _Positions = {}
        for shard in await self._administration.shards(scope):
            async for row in self._latest(shard, request.last, positions):
                if _concerns(row, scope):
                    yield to.ledger_row(row)
        while True:
            for shard in await self._administration.shards(scope):
                async for row in self._newer(shard, positions):
                    if _concerns(row, scope):
                        yield to.ledger_row(row)
            if not request.follow or self._draining.is_set():
                return
            await asyncio.sleep(_FOLLOW_EVERY_S)

    async def _latest(self, shard: int, count: int, positions: _Positions) -> AsyncIterator[Row]:
        if count:
            for row in await self._administration.last_rows(shard, count=min(count, _LATEST_MAX)):
                positions[shard] = row.position
                yield row

    async def _newer(self, shard: int, positions: _Positions) -> AsyncIterator[Row]:
        while True:
            rows = await self._administration.rows(shard, after=positions.get(shard), count=_ROWS_AT_ONCE)
            for row in rows:
                positions[shard] = row.position
                yield row
            if len(rows) < _ROWS_AT_ONCE:
                return


def _concerns(row: Row, scope: Scope | None) -> bool:
    """Whether a row belongs to a scope: by the key of its call, or by its organization."""
    if scope is None:
        return True
    if not row.member.startswith(f"{scope.organization}/"):
        return False
    return not scope.team or f"{to.call_of(row).get('key', '')}/".startswith(f"{scope.path}/")


def _scope(text: str) -> Scope | None:
    return Scope.parse(text) if text else None


def _page_size(size: int) -> int:
    if not 0 <= size <= PAGE_MAX:
        raise InvalidArgument("page_size", size, f"use 1 to {PAGE_MAX}; 0 for {_PAGE}")
    return size or _PAGE


def _expiry(request: Any) -> int:
    return requests.instant_ms(request.expires_at, field="expires_at") if request.HasField("expires_at") else 0

"""Compiles what the policy and the price book say of one key and model into a plan, and remembers it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import Sizing
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.domain.windows import window_bounds
from limiter.domain.zones import zone
from limiter.policy.matching import KeyPolicy, Settings, limit_applies, resolve
from limiter.policy.sizes import OUTPUT_DEFAULT, Floor
from limiter.pricing.book import PriceBook
from limiter.pricing.model_price import ModelPrice
from limiter.service.directory import Directory, KeyRecord, KnownKey
from limiter.service.memory import Memory
from limiter.store.port import Plan, PlanLimit, PlanScope, Store

_PLANS_REMEMBERED = 100_000

Scopes = tuple[tuple[Scope, tuple[Limit, ...]], ...]


class Question(NamedTuple):
    """What a plan is compiled for. `cost_known`: the caller names the cost, so no price is needed."""

    key: Scope
    model: str
    provider: str
    cost_known: bool = False
    context: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, eq=False)
class CallPlan:
    """Everything about a key and model that does not depend on the single call.

    `model` is the asked model after aliases. `price` is None where the model is free, unpriced or the
    cost is the caller's. `context`: the terms that it asks for. `allowed_tags`: names that callers may use (None: any).
    `ledger_head` begins the JSON of the call in the ledger. `sizings` are the amounts that its limits take, the largest
    first; `ways` what has to be reckoned for them, STRICT before SAFE. `default_output` and `floors` are the model's.
    """

    plan: Plan
    settings: Settings
    model: str
    provider: str
    price: ModelPrice | None
    free: bool
    context: Mapping[str, str]
    tags: Mapping[str, str]
    allowed_tags: frozenset[str] | None
    key_expires_ms: int
    ledger_head: str
    sizings: tuple[Sizing, ...] = (Sizing.SAFE,)
    ways: tuple[Sizing, ...] = (Sizing.SAFE,)
    default_output: int = OUTPUT_DEFAULT
    floors: tuple[Floor, ...] = ()
    is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        """Note whether every limit takes the same amount, by what is reckoned alone: most plans are so."""
        self.is_plain = len(self.sizings) == 1 and self.sizings == self.ways and not self.floors

    def floor(self, operation: str) -> int:
        """The least that a call of the model costs which asks for that, in nano-USD; 0: there is no floor."""
        if not self.floors:
            return 0
        found = (floor.cost for floor in self.floors if floor.operations is None or operation in floor.operations)
        return max(found, default=0)


class StoreClock:
    """The store's time between its answers, carried on by this machine's monotonic clock."""

    def __init__(self) -> None:
        self._at_ms = 0
        self._heard_s = 0.0
        self._asking = asyncio.Lock()

    def hear(self, now_ms: int) -> None:
        """Take over the time of an answer."""
        self._at_ms, self._heard_s = now_ms, time.monotonic()

    async def now_ms(self, store: Store) -> int:
        """About what the store's clock says; asked only if it never answered."""
        if self._at_ms == 0:
            async with self._asking:  # once, however many calls come first
                if self._at_ms == 0:
                    self.hear(await store.time_ms())
        return self._at_ms + int((time.monotonic() - self._heard_s) * 1000)


class Plans:
    """Compiles and remembers plans."""

    def __init__(self, store: Store, directory: Directory, prices: PriceBook, clock: StoreClock) -> None:
        self._store = store
        self._directory = directory
        self._prices = prices
        self._clock = clock
        self._plans: Memory[Question, CallPlan] = Memory(_PLANS_REMEMBERED)

    def known(self, question: Question) -> CallPlan | None:
        """The plan that is remembered, whether or not it is out of date."""
        return self._plans.get(question)

    def lasting(self, question: Question) -> CallPlan | None:
        """The plan that is remembered, if its price never ends: the way of most calls, and no coroutine."""
        plan = self._plans.get(question)
        return plan if plan is not None and (plan.price is None or plan.price.valid_until_ms is None) else None

    def forget(self, question: Question) -> None:
        """The plan is out of date."""
        self._plans.forget(question)

    async def get(self, question: Question) -> CallPlan | None:
        """The plan of a key and model; None: the organization has no policy."""
        known = self._plans.get(question)
        if known is not None:
            until = known.price.valid_until_ms if known.price is not None else None
            if until is None or await self._clock.now_ms(self._store) < until:
                return known
        organization = await self._directory.organization(question.key.organization)
        if organization is None:
            return None
        key = await self._directory.key(question.key)
        own_limits = key.record.limits if key.record is not None else None
        policy = resolve(organization.policy, key=question.key, own_limits=own_limits)
        now_ms = await self._clock.now_ms(self._store)
        plan = self._compile(question, policy, key, version=organization.version, now_ms=now_ms)
        self._plans.put(question, plan)
        return plan

    def _compile(self, question: Question, policy: KeyPolicy, key: KnownKey, *, version: int, now_ms: int) -> CallPlan:
        model = policy.model_for(question.model)
        free = policy.is_free(model)
        price = None
        if not free and model:
            price = self._prices.find(
                provider=question.provider, model=model, at_ms=now_ms, context=dict(question.context)
            )
        unpriced = not (price or free or question.cost_known or not model)
        record = key.record
        settings = _same_settings(policy.settings)
        sizings = _sizings(policy.scopes, model, settings.estimate)
        return CallPlan(
            plan=Plan(
                organization=question.key.organization,
                version=version,
                key=question.key,
                key_revision=key.revision,
                denial=denial_of(policy, record, model, unpriced=unpriced),
                scopes=plan_scopes(
                    policy.scopes,
                    model=model,
                    zone_name=policy.zone,
                    now_ms=now_ms,
                    amounts={None: sizings.index(settings.estimate) if settings.estimate in sizings else 0}
                    | {sizing: at for at, sizing in enumerate(sizings)},
                ),
            ),
            settings=settings,
            model=model,
            provider=price.provider if price is not None else question.provider,
            price=price,
            free=free,
            context=dict(question.context),
            tags=policy.tags,
            allowed_tags=None if policy.allowed_tags is None else frozenset(policy.allowed_tags),
            key_expires_ms=record.expires_ms if record is not None else 0,
            ledger_head=_ledger_head(question, model, price, settings, free=free),
            sizings=sizings,
            ways=_ways(sizings, settings.estimate),
            default_output=settings.default_output(model),
            floors=() if free else settings.floors_for(model),
        )


def _sizings(scopes: Scopes, model: str, usual: Sizing) -> tuple[Sizing, ...]:
    """By what the holds of a model are sized, the largest first: by what its spend limits say, else as usual."""
    limits = (limit for _, limits in scopes for limit in limits if limit.kind is LimitKind.SPEND)
    return tuple(sorted({limit.sizing or usual for limit in limits if limit_applies(limit, model)} or {usual}))


def _ways(sizings: tuple[Sizing, ...], usual: Sizing) -> tuple[Sizing, ...]:
    """Of STRICT and SAFE, those that the amounts of a hold, or its tokens, are reckoned by."""
    return tuple(sorted({min(sizing, Sizing.SAFE) for sizing in (*sizings, usual)}))


def plan_scopes(
    scopes: Scopes,
    *,
    model: str | None,
    zone_name: str,
    now_ms: int,
    amounts: Mapping[Sizing | None, int] = MappingProxyType({}),
) -> tuple[PlanScope, ...]:
    """The limits of scopes with their windows; `model` None: all of them apply.

    `amounts`: which of a hold's amounts a spend limit takes by its way of sizing, None: as the settings say.
    """
    tz = zone(zone_name)

    def entry(limit: Limit) -> PlanLimit:
        applies = model is None or limit_applies(limit, model)
        if limit.kind is not LimitKind.SPEND:
            return PlanLimit(limit, applies)
        return PlanLimit(limit, applies, window_bounds(limit.per, now_ms, tz), amounts.get(limit.sizing, 0))

    return tuple(PlanScope(scope, _same_limits(tuple(map(entry, limits)))) for scope, limits in scopes)


@lru_cache(maxsize=4096)
def _same_limits(limits: tuple[PlanLimit, ...]) -> tuple[PlanLimit, ...]:
    """The same object for the same limits: thousands of keys may have them, and one copy stays in the caches."""
    return limits


@lru_cache(maxsize=4096)
def _same_settings(settings: Settings) -> Settings:
    """The same object for the same settings."""
    return settings


def denial_of(policy: KeyPolicy, record: KeyRecord | None, model: str, *, unpriced: bool) -> int:
    """The reason for which the policy itself refuses, by precedence; 0: none."""
    if record is None and not policy.declared:
        return DenialReason.KEY_UNKNOWN
    if not policy.enabled or (record is not None and (not record.enabled or (record.declared and not policy.declared))):
        return DenialReason.KEY_DISABLED
    if model and not policy.allows(model):
        return DenialReason.MODEL_NOT_ALLOWED
    return DenialReason.MODEL_UNPRICED if unpriced else 0


def _ledger_head(question: Question, model: str, price: ModelPrice | None, settings: Settings, *, free: bool) -> str:
    facts: dict[str, object] = {"key": question.key.path, "model": question.model}
    if model != question.model:
        facts["alias_of"] = model
    if price is not None:
        facts |= {"provider": price.provider, "priced_as": price.model, "price_version": price.price_version}
    elif question.provider:
        facts["provider"] = question.provider
    if free:
        facts["free"] = True
    if question.context:
        facts["context"] = dict(question.context)
    if settings.max_cost_per_call_nanousd < CALL_MAX_NANOUSD:
        facts["max_cost_nanousd"] = settings.max_cost_per_call_nanousd
    return json.dumps(facts)[:-1]

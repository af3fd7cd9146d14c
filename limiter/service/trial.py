"""Tries policies and prices on calls of the past: the plans, holds and costs of the service, without key and store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from limiter.domain.calls import ProviderResponse
from limiter.domain.reservations import Sizing
from limiter.policy.matching import KeyPolicy
from limiter.pricing.book import PriceBook
from limiter.service.booking import Reckoning
from limiter.service.calls import BookCall, Principal
from limiter.service.desk import Desk
from limiter.service.plans import CallPlan
from limiter.service.reckoning import Reckoner
from limiter.store.port import Plan


class _Prices(NamedTuple):
    """All of a desk that booking a charge needs."""

    prices: PriceBook


@dataclass(frozen=True, slots=True)
class Trial:
    """Prices as of `at_ms`, what a policy says of a key, and the way of sizing that is tried."""

    prices: PriceBook
    policy: KeyPolicy
    sizing: Sizing
    at_ms: int

    def plan(self, *, provider: str, model: str, context: Mapping[str, str]) -> CallPlan:
        """Return the plan of a model, sized in one way whatever the limits of the policy say; aliases are applied."""
        model = self.policy.model_for(model)
        free = self.policy.is_free(model)
        settings = replace(self.policy.settings, estimate=self.sizing)
        price = None
        if not free:
            price = self.prices.find(provider=provider, model=model, at_ms=self.at_ms, context=context)
        return CallPlan(
            plan=Plan(organization="", version=0, key=None, key_revision=0, denial=0, scopes=()),
            settings=settings,
            model=model,
            provider=price.provider if price is not None else provider,
            price=price,
            free=free,
            context=context,
            tags={},
            allowed_tags=None,
            key_expires_ms=0,
            ledger_head="",
            sizings=(self.sizing,),
            ways=(min(self.sizing, Sizing.SAFE),),
            default_output=settings.default_output(model),
            floors=() if free else settings.floors_for(model),
        )

    def charge(self, plan: CallPlan, response: ProviderResponse) -> Reckoning:
        """Return what the answer is charged under the plan where there was no hold.

        Raises InvalidArgument for an answer that cannot be read, that tells no usage, or that no single call can cost.
        """
        call = BookCall(
            principal=Principal(),
            request_id="",
            model=plan.model,
            provider=plan.provider,
            actual=response,
            tags=(),
            occurred_ms=self.at_ms,
            provider_request_id="",
            fingerprint=b"",
        )
        return Reckoner(cast("Desk", _Prices(self.prices))).of_charge(call, plan, "")

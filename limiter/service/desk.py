"""What all verbs of the service share: the store, what is remembered, and who watches."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as json_string
from typing import NamedTuple

from limiter.domain.calls import TAGS_MAX
from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope
from limiter.observability.metrics import Metrics
from limiter.pricing.book import PriceBook
from limiter.service.calls import Principal, Tags
from limiter.service.directory import Directory, KnownKey
from limiter.service.facts import NO_FACTS, Facts
from limiter.service.learning import Learned
from limiter.service.memory import Memory
from limiter.service.plans import CallPlan, Plans, Question, StoreClock
from limiter.service.refusals import Refusals
from limiter.service.secrets import Pepper, check_secret
from limiter.store.port import Code, Store

#: How long ended holds are kept for idempotency and correction.
RETENTION_SETTLED_MS = 3_600_000
RETENTION_EXPIRED_MS = 7 * 86_400_000

_GRANTS_REMEMBERED = 100_000
_IDENTITIES_REMEMBERED = 100_000

#: What a script may call out of date.
STALE_SUBJECTS = {Code.STALE_VERSION: "policy", Code.STALE_KEY: "key", Code.STALE_WINDOW: "window"}

#: A plan may be out of date in its policy, its key and its windows at once.
TRIES = 4


class Remembered(NamedTuple):
    """A grant that was given here."""

    plan: CallPlan
    reserved_ms: int
    held: int
    facts: Facts


class Desk:
    """What all verbs of the service share: the store, what is remembered, and who watches."""

    def __init__(self, store: Store, pepper: Pepper, prices: PriceBook, metrics: Metrics) -> None:
        self.store = store
        self.pepper = pepper
        self.prices = prices
        self.metrics = metrics
        self.clock = StoreClock()
        self.directory = Directory(store)
        self.plans = Plans(store, self.directory, prices, self.clock)
        self.refusals = Refusals(store)
        self.learned = Learned()
        self._identities: Memory[bytes, tuple[Scope, KnownKey, int]] = Memory(_IDENTITIES_REMEMBERED)
        #: What was granted here, so that settling a usage need not ask the store for its model.
        self.granted: Memory[ReservationName, Remembered] = Memory(_GRANTS_REMEMBERED)

    def known_identity(self, principal: Principal) -> tuple[Scope, int] | None:
        """What `identify` would answer, if it did before and the key's record is the same: most calls end here."""
        if principal.key is not None:
            return principal.key, 0
        known = self._identities.get(self.pepper.alias(check_secret(principal.api_key, field="api_key")))
        if known is None or self.directory.known_key(known[0]) is not known[1]:
            return None
        return known[0], known[2]

    async def identify(self, principal: Principal) -> tuple[Scope, int] | None:
        """The key that asks and until when its secret is valid (ms, 0: no end); None: nobody knows it."""
        if principal.key is not None:
            return principal.key, 0
        secret = self.pepper.digests(check_secret(principal.api_key, field="api_key"))
        found = await self.directory.owner(secret)
        if found is None:
            return None
        key, record = found
        not_after_ms = _valid_until(record, secret)
        if not_after_ms is None:
            self.directory.forget_key(key)
            record = await self.directory.key(key)
            not_after_ms = _valid_until(record, secret)
        if not_after_ms is None:
            self.directory.disown(secret)
            return None
        self._identities.put(self.pepper.alias(principal.api_key), (key, record, not_after_ms))
        return key, not_after_ms

    async def forget_if_stale(self, question: Question, plan: CallPlan, refusal: LimiterError) -> None:
        """Forget a plan that the store calls out of date; raise what it refused by itself if it is not."""
        reply = (await self.store.inspect([plan.plan]))[0]
        if reply.code not in STALE_SUBJECTS:
            raise refusal
        self.refresh(question, reply.code, reply.now_ms)

    def refresh(self, question: Question, code: int, now_ms: int) -> None:
        """Forget what a script called out of date."""
        self.clock.hear(now_ms)
        stale = self.plans.known(question)
        self.plans.forget(question)
        self.metrics.stale_plans[STALE_SUBJECTS[Code(code)]].inc()
        if code == Code.STALE_VERSION:
            version = None if stale is None else stale.plan.version
            self.directory.forget_organization(question.key.organization, up_to_version=version)
        elif code == Code.STALE_KEY:
            self.directory.forget_key(question.key)


def _valid_until(known: KnownKey, digests: tuple[str, ...]) -> int | None:
    """Until when a secret is valid (ms, 0: no end); None: it is not one of the key's any more."""
    if known.record is not None:
        for secret in known.record.secrets:
            if secret.digest in digests:
                return secret.not_after_ms
    return None


def _check_allowed(tags: Tags, plan: CallPlan) -> None:
    """Refuse a tag that the key's callers may not give; one that the policy fixes is overruled anyway."""
    allowed = plan.allowed_tags or ()
    for name, _ in tags:
        if name not in allowed and name not in plan.tags:
            remedy = f"this key's calls may carry the tags {', '.join(sorted(allowed)) or '(none)'} (allowed_tags)"
            raise InvalidArgument("tags", name, remedy)


def ledger_call(plan: CallPlan, request_id: str, tags: Tags, facts: Facts = NO_FACTS) -> bytes:
    """The call as the ledger keeps it (JSON). Tags fixed by the policy win over what the caller says.

    Raises InvalidArgument for a tag that the policy does not allow, and for too many of them.
    """
    text = f'{plan.ledger_head}, "request_id": {json_string(request_id)}'
    if facts is not NO_FACTS:
        text += facts.text()
    if tags or plan.tags:
        if plan.allowed_tags is not None:
            _check_allowed(tags, plan)
        if plan.tags:
            tags = tuple(tag for tag in tags if tag[0] not in plan.tags) + tuple(plan.tags.items())
        if len(tags) > TAGS_MAX:
            raise InvalidArgument("tags", len(tags), f"use at most {TAGS_MAX} tags")
        pairs = ", ".join([f"[{json_string(name)}, {json_string(value)}]" for name, value in tags])
        text += f', "tags": [{pairs}]'
    return f"{text}}}".encode()

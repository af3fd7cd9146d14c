"""Every store key, its shape and how long it lives: the data dictionary.

==============================  ======  ==================================================  ====================
key                             type    content                                             lives
==============================  ======  ==================================================  ====================
``lim1:{S}:org:ORG``            hash    version, document, key:TEAM/KEY,                    while configured
                                        scope[:TEAM[/KEY]], refused:[TEAM[/KEY]]:LIMIT,
                                        overage:[TEAM[/KEY]]:COUNTER,
                                        opening:[TEAM[/KEY]]:COUNTER,
                                        began, noted, left:TEAM/KEY
``lim1:{S}:openings:ORG``       hash    [TEAM[/KEY]]:COUNTER of new limits, to be opened    8 days, or until their
                                                                                            window ends
``lim1:{S}:hold:ORG:ID``        string  a hold's record                                     open: until it ends;
                                                                                            ended: retention
``lim1:{S}:due``                zset    ORG/ID of open holds by expiry                      while there are holds
``lim1:{S}:ledger``             stream  rows                                                trimmed behind the books
``lim1:{S}:epoch``              string  the first half of row ids                           as the ledger
``lim1:{S}:learned:ORG``        string  what calls of ORG cost (limiter.service.learned)    30 days from change
``lim1:{S}:learner``            string  the sidecar that learns from the shard's rows       10 s, renewed
``lim1:digest:V:HEX``           string  ORG/TEAM/KEY that a secret belongs to               while the secret does
``lim1:orgs``                   set     organizations that have a policy                    for ever
``lim1:openings``               hash    organizations that may have limits to be opened     while they may
``lim1:meta``                   hash    shards; fingerprints of the peppers                 for ever
==============================  ======  ==================================================  ====================

S is the organization's shard and the hash tag, so that all keys of one script are in one slot. Ids
cannot hold a colon, slash or brace (see limiter.domain.scopes), so that no id can reach another's key.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope

PREFIX = "lim1:"
SHARDS = 256

ORGS = PREFIX + "orgs"
META = PREFIX + "meta"
OPENINGS = PREFIX + "openings"

VERSION_FIELD = b"version"
DOCUMENT_FIELD = b"document"
KEY_FIELD_PREFIX = b"key:"


def shard_of(organization: str) -> int:
    """The shard of an organization; fixed for the life of a store."""
    return home(organization).shard


class Home(NamedTuple):
    """Where all of an organization is: its shard, its hash, and how the keys of its holds begin."""

    shard: int
    key: str
    hold_prefix: str


@lru_cache(maxsize=65536)
def home(organization: str) -> Home:
    """Where an organization is."""
    shard = crc32(organization.encode()) % SHARDS
    tag = f"{PREFIX}{{{shard}}}:"
    return Home(shard, f"{tag}org:{organization}", f"{tag}hold:{organization}:")


def organization_key(organization: str) -> str:
    """The hash of an organization."""
    return home(organization).key


def hold_key(name: ReservationName) -> str:
    """The record of a hold."""
    return home(name.organization).hold_prefix + name.id


@lru_cache(maxsize=SHARDS)
def shard_keys(shard: int) -> tuple[str, str, str]:
    """Due index, ledger and epoch of a shard."""
    tag = f"{PREFIX}{{{shard}}}:"
    return tag + "due", tag + "ledger", tag + "epoch"


def learned_key(organization: str) -> str:
    """What was learned of an organization's calls."""
    return f"{PREFIX}{{{shard_of(organization)}}}:learned:{organization}"


def learner_key(shard: int) -> str:
    """Who learns from the rows of a shard at the moment."""
    return f"{PREFIX}{{{shard}}}:learner"


def openings_key(organization: str) -> str:
    """The limits of an organization that are to be opened."""
    return f"{PREFIX}{{{shard_of(organization)}}}:openings:{organization}"


def digest_key(digest: str) -> str:
    """Where the owner of a secret's digest (`version:hex`) is found."""
    return f"{PREFIX}digest:{digest}"


def key_field(key: Scope) -> bytes:
    """The field of a key's record in its organization's hash."""
    return KEY_FIELD_PREFIX + f"{key.team}/{key.key}".encode()


def left_field(key: Scope) -> bytes:
    """The field that says that the policy named a key once, and then no more."""
    return f"left:{key.team}/{key.key}".encode()


def scope_field(scope: Scope) -> bytes:
    """The field of a scope's counters in its organization's hash."""
    if not scope.team:
        return b"scope"
    return b"scope:" + f"{scope.team}/{scope.key}".rstrip("/").encode()


def refused_field(scope: Scope, limit: str) -> bytes:
    """The field that counts what a limit refused."""
    return f"refused:{scope.team}/{scope.key}".rstrip("/").encode() + f":{limit}".encode()


def overage_field(scope: Scope, counter: str) -> bytes:
    """The field that sums what was charged above what a spend limit's counter held."""
    return f"overage:{scope.team}/{scope.key}".rstrip("/").encode() + f":{counter}".encode()


def opening_name(scope: Scope, counter: str) -> bytes:
    """What a counter's opening is called among those of its organization."""
    return f"{scope.team}/{scope.key}".rstrip("/").encode() + f":{counter}".encode()


def opening_field(scope: Scope, counter: str) -> bytes:
    """The field that says what a spend limit's counter was opened with."""
    return b"opening:" + opening_name(scope, counter)


@lru_cache(maxsize=16384)
def scope_of_field(organization: str, field: str) -> Scope:
    """The scope that a counter field belongs to; the reverse of scope_field."""
    _, _, path = field.partition(":")
    team, _, key = path.partition("/")
    return Scope(organization, team, key)


def name_of_member(member: str) -> ReservationName:
    """The hold that a member of a due index names."""
    organization, _, hold_id = member.partition("/")
    return ReservationName(organization, hold_id)

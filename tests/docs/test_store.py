"""docs/store.md is the store's data dictionary: its keys, formats and scripts are those of the code."""

from __future__ import annotations

import re
from typing import Final

from limiter.domain.reservations import ReservationName
from limiter.domain.rows import RowKind
from limiter.domain.scopes import Scope
from limiter.store import keys
from limiter.store.scripts import VERBS
from tests.docs.pages import page, table_of

PAGE: Final = "docs/store.md"
LUA: Final = "limiter/store/lua"


def test_every_key_is_in_the_dictionary() -> None:
    shard = keys.shard_of("ORG")
    made = [
        keys.organization_key("ORG"),
        keys.openings_key("ORG"),
        keys.hold_key(ReservationName("ORG", "0" * 32)),
        *keys.shard_keys(shard),
        keys.learned_key("ORG"),
        keys.learner_key(shard),
        keys.digest_key("V:HEX"),
        keys.ORGS,
        keys.OPENINGS,
        keys.META,
    ]
    shown = [row["key"].replace("{S}", f"{{{shard}}}").replace("ORG:ID", f"ORG:{'0' * 32}") for row in _keys()]
    assert shown == made


def _keys() -> tuple[dict[str, str], ...]:
    return table_of(PAGE, "key", "type").rows


def test_the_page_says_what_the_keys_of_the_code_say() -> None:
    told = dict(re.findall(r"^``(lim1:\S+)`` +(string|hash|zset|stream|set) ", keys.__doc__ or "", re.MULTILINE))
    assert told == {row["key"]: row["type"] for row in _keys()}


def test_every_field_of_an_organization_is_in_the_dictionary() -> None:
    key = Scope("acme", "TEAM", "KEY")
    fields = [keys.VERSION_FIELD, keys.DOCUMENT_FIELD, keys.key_field(key), *map(keys.scope_field, key.lineage())]
    fields += [keys.refused_field(key, "LIMIT"), keys.overage_field(key, "COUNTER")]
    fields += [keys.opening_field(key, "COUNTER"), b"began", b"noted", keys.left_field(key)]
    assert table_of(PAGE, "key", "type").rows[0]["content"] == ", ".join(field.decode() for field in fields)


def test_the_counters_are_laid_out_as_the_scripts_say() -> None:
    head = page(f"{LUA}/_scopes.lua")
    for row in table_of(PAGE, "kind", "seven integers").rows:
        assert re.search(rf"^-- +{row['kind']} +{re.escape(row['seven integers'])}$", head, re.MULTILINE), row["kind"]
        assert len(row["seven integers"].split(",")) == int(re.findall(r"WIDTH = (\d+)", head)[0])


def test_an_overage_is_as_the_scripts_write_it() -> None:
    (packed,) = re.findall(r"^local OVERAGE = '<(\S+)'", page(f"{LUA}/_overage.lua"), re.MULTILINE)
    (described,) = re.findall(r"^## Overage of a spend limit\n\n(.*?)\.\n", page(PAGE), re.MULTILINE | re.DOTALL)
    assert "".join(re.findall(r"\b\S+ (B|I8|i8)`", described)) == packed


def test_openings_and_their_notes_are_as_the_scripts_write_them() -> None:
    (packed,) = re.findall(r"^local OPENING = '<(\S+)'", page(f"{LUA}/open.lua"), re.MULTILINE)
    (noted,) = re.findall(r"struct\.pack\('<(\S+)', 1, now, epoch, seq, order\)", page(f"{LUA}/replace.lua"))
    (section,) = re.findall(r"^## Opening of a spend limit\n(.*?)\n## ", page(PAGE), re.MULTILINE | re.DOTALL)
    described = re.findall(r"^(`format B`.*?)\.$", section, re.MULTILINE)
    assert ["".join(re.findall(r"\b\S+ (B|I8|i8)`", line)) for line in described] == [packed, noted]


def test_the_head_of_a_record_is_that_of_the_scripts() -> None:
    text = page(f"{LUA}/_holds.lua")
    (head,) = re.findall(r"^local HEAD = '<(\S+)'", text, re.MULTILINE)
    (names,) = re.findall(r"^  local (format, .*?) = struct\.unpack\(HEAD", text, re.MULTILINE | re.DOTALL)
    rows = table_of(PAGE, "part of the head").rows
    assert "".join(row["format"] for row in rows) == head
    assert [row["part of the head"] for row in rows] == re.split(r",\s+", names)


def test_a_row_is_as_the_scripts_write_it() -> None:
    (row,) = re.findall(r"^local ROW = '<(\S+)'", page(f"{LUA}/_holds.lua"), re.MULTILINE)
    (described,) = re.findall(r"^## A ledger row\n\n(.*?) of what follows", page(PAGE), re.MULTILINE | re.DOTALL)
    formats = re.findall(r"\b(?:\S+) (B|I4|I8|i8|s)`", described)
    assert "".join(formats) == row
    assert all(f"{kind.value} {kind.name}" in page(PAGE) for kind in RowKind)


def test_every_script_is_in_the_dictionary() -> None:
    listed = {row["script"]: row["may write when out of memory"] == "yes" for row in table_of(PAGE, "script").rows}
    assert listed == {verb: "allow-oom" in flags for verb, flags in VERBS.items()}

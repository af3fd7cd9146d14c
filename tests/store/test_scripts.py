"""The contract of the Lua files: what each says of itself, where it writes, and that its numbers are Python's."""

from __future__ import annotations

import re
from enum import IntEnum
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest
from redis import Redis

from limiter.domain.limits import LimitKind
from limiter.domain.money import CALL_MAX_NANOUSD, NANOUSD_PER_USD
from limiter.domain.reservations import Basis, OnExpiry, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.domain.verdicts import DenialReason
from limiter.store.encoding import _ENFORCED, _LESSER_MODE, _RULE, _SHADOW, LESSER
from limiter.store.port import Code, Why
from limiter.store.replies import _DUE_WAITING, _REPEATED
from limiter.store.scripts import PARTS, VERBS, library
from tests.servers import StoreServer

FOLDER: Final = Path(str(files("limiter.store") / "lua"))
SOURCES: Final = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.lua"))}
SECTIONS: Final = ("KEYS", "ARGV", "RETURNS", "WRITES", "COST")
READS: Final = {"TIME", "GET", "MGET", "HGET", "HMGET", "EXISTS", "ZCOUNT", "ZRANGEBYSCORE"} | {
    "XLEN", "XRANGE", "XREVRANGE", "XINFO"
}  # fmt: skip
LINES_MAX: Final = 150

WRITE_MARK = "\n-- write\n"


def code_of(source: str) -> str:
    """The text without comments."""
    return re.sub(r"--[^\n]*", "", source)


def commands(source: str) -> set[str]:
    """The Redis commands that a text calls."""
    return set(re.findall(r"redis\.p?call\('(\w+)'", code_of(source)))


def header(verb: str) -> str:
    """The comment that a verb's file begins with."""
    lines = SOURCES[verb].split("\n")
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines[:end])


def test_every_file_is_a_verb_or_a_part_of_one() -> None:
    assert set(SOURCES) == {*VERBS, *PARTS}
    assert all(part.startswith("_") for part in PARTS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_what_it_takes_answers_writes_and_costs(verb: str) -> None:
    text = header(verb)
    assert text.startswith(f"{verb.capitalize()}: ")
    found = re.findall(r"^([A-Z]{4,})  \S", text, re.MULTILINE)
    assert tuple(found) == SECTIONS
    assert "O(" in text.partition("\nCOST")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_says_it_writes_nothing_may_not_write_and_the_others_mark_where(verb: str) -> None:
    writes_nothing = "\nWRITES  nothing\n" in header(verb)
    assert writes_nothing == (VERBS[verb] == "no-writes")
    assert SOURCES[verb].count(WRITE_MARK) == (0 if writes_nothing else 1)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_writes_above_its_mark(verb: str) -> None:
    above = SOURCES[verb].partition(WRITE_MARK)[0]
    assert commands(above) <= READS
    assert "write_batch(" not in code_of(above)
    assert "end_holds(" not in code_of(above)


def test_of_the_parts_only_write_batch_writes() -> None:
    for name, source in SOURCES.items():
        if name.startswith("_"):
            before, _, after = source.partition("\nlocal function write_batch(")
            inside, _, behind = after.partition("\nend\n")
            assert commands(before + behind) <= READS, name
            assert name == "_holds" or not inside


def test_no_command_is_hidden_from_these_tests() -> None:
    text = code_of(library().source)
    calls = len(re.findall(r"redis\.call\('[A-Z]+'", text))
    assert len(re.findall(r"\bredis\b", text)) == calls + 1  # redis.register_function


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_can_be_read_at_once(name: str) -> None:
    lines = SOURCES[name].rstrip("\n").split("\n")
    assert len(lines) <= LINES_MAX
    assert max(len(line) for line in lines) <= 120


def test_a_sweep_that_finds_nothing_leaves_nothing_in_the_memory_of_the_scripts(valkey: StoreServer) -> None:
    def look(client: Redis, *, first_ms: int, times: int) -> int:
        pipeline = client.pipeline(transaction=False)
        for now_ms in range(first_ms, first_ms + times):
            pipeline.fcall(library().functions["due"], 1, "{nobody}:due", str(now_ms), "1")
        assert not any(pipeline.execute())
        return int(client.info("memory")["used_memory_vm_functions"])

    with valkey.client() as client:
        client.function_load(library().source, replace=True)
        before = look(client, first_ms=1, times=5_000)
        after = look(client, first_ms=10_000, times=20_000)
    assert after - before < 500_000  # an entry for each would be 2 MB


def test_the_names_change_with_the_text() -> None:
    name = library().name
    assert library().source.startswith(f"#!lua name={name}\n")
    assert library().functions == {verb: f"{verb}_{name}" for verb in VERBS}


def constants() -> dict[str, int]:
    """Every constant integer of the Lua files by name; the same name must mean the same number everywhere."""
    found: dict[str, int] = {}
    for source in SOURCES.values():
        for names, values in re.findall(r"^local ([A-Z_]+(?:, [A-Z_]+)*) =\s+(\d+(?:, \d+)*)", source, re.MULTILINE):
            for name, value in zip(names.split(", "), values.split(", "), strict=True):
                assert found.setdefault(name, int(value)) == int(value), name
    return found


def named(enum: type[IntEnum | RowFlag], prefix: str = "", **renamed: str) -> dict[str, int]:
    """An enum's members as the Lua files name them."""
    return {renamed.get(member.name or "", prefix + (member.name or "")): int(member) for member in enum}


def test_the_numbers_in_lua_are_those_in_python() -> None:
    python = {
        **named(LimitKind),
        **named(State),
        **named(Basis, EXPIRED="BY_EXPIRY", RELEASED="BY_RELEASE", ESTIMATED="BY_ESTIMATE", USAGE="BY_USAGE"),
        **named(RowFlag, "F_"),
        **named(RowKind, "ROW_"),
        **named(DenialReason, CONCURRENCY="NO_SLOT"),
        **named(Why),
        **named(Code),
        "BOOKED": 0,
        "CHARGE_ON_EXPIRY": int(OnExpiry.CHARGE),
        "ENFORCED": _ENFORCED,
        "SHADOW": _SHADOW,
        "LESSER_MODE": _LESSER_MODE,
        "LESSER": LESSER,
        "REPEATED": _REPEATED,
        "DUE_WAITING": _DUE_WAITING,
        "NANO": NANOUSD_PER_USD,
        "RULE": _RULE.size // 8,
        "WIDTH": 7,
        "CLOCK_SLACK_MS": 60_000,
        "LAYOUTS_MAX": 1000,
        "OPEN_HOLD": 0,
        "ROW_USD_MAX": CALL_MAX_NANOUSD // NANOUSD_PER_USD // 1_000_000 * 1_000_000,
    }
    lua = constants()
    assert lua == {name: python[name] for name in lua}
    # What Lua must know by name: all kinds, states, bases, row kinds and reasons.
    for enum in (named(LimitKind), named(State), named(RowKind, "ROW_"), named(Why)):
        assert set(enum) <= set(lua)


def test_stale_answers_have_the_codes_that_python_knows() -> None:
    (table,) = re.findall(r"^local STALE = \{(.*)\}$", SOURCES["_prelude"], re.MULTILINE)
    stale = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", table)}
    assert stale == {
        "version": Code.STALE_VERSION,
        "key": Code.STALE_KEY,
        "window": Code.STALE_WINDOW,
        "clock": Code.CLOCK_BEHIND,
    }

"""The Lua scripts: loaded once, each made of the parts it needs, called by digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_PLAN = ("_prelude", "_scopes", "_holds", "_plans", "_deciding")
_END = ("_prelude", "_scopes", "_holds", "_ending")

#: The parts before each verb's own file, and its flags. Only what ends or books spend may write while
#: the store is out of memory: it frees more than it takes, and spent money must not be lost.
VERBS = {
    "reserve": ((*_PLAN, "_warning"), ""),
    "charge": ((*_PLAN, "_warning"), "allow-oom"),
    "settle": (_END, "allow-oom"),
    "release": (_END, "allow-oom"),
    "expire": (_END, "allow-oom"),
    "extend": (("_prelude", "_scopes", "_holds"), "allow-oom"),
    "inspect": (_PLAN, "no-writes"),
    "append": (("_prelude", "_scopes", "_holds"), "allow-oom"),
    "replace": ((), ""),
}


@dataclass(frozen=True, slots=True)
class Script:
    """One verb: its whole source and the digest that EVALSHA takes."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Return the script of a verb."""
    parts, flags = VERBS[name]
    folder = files("limiter.store") / "lua"
    shebang = f"#!lua flags={flags}\n" if flags else "#!lua\n"
    texts = [(folder / f"{part}.lua").read_text("utf-8") for part in (*parts, name)]
    source = shebang + "\n".join(texts)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

"""The project's own pages and files: short enough, whole, and about the project alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, cells, own_files, page
from tests.test_architecture import FUNCTION_LINES_MAX, LUA_LINES_MAX, MODULE_LINES_MAX

README_LINES_MAX: Final = 250

#: Where one machine keeps its files, and where packages come from. In parts, so that this file passes too.
_FOREIGN: Final = re.compile(
    "|".join(("/" + "work/", "/" + "root/", "/" + r"home/[a-z]", "py" + r"pi\.", "python" + "hosted", "index" + "-url"))
)
_LINK: Final = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")

OWN_PAGES: Final = sorted(
    [*(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")), "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
)


def test_the_readme_is_short() -> None:
    assert page("README.md").count("\n") < README_LINES_MAX


def test_no_file_speaks_of_one_machine_or_of_a_registry() -> None:
    found = []
    for path in own_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if _FOREIGN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.mark.parametrize("name", OWN_PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target, heading in _LINK.findall(page(name)):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if heading:
            assert heading in _anchors(path), f"{name}: {target}#{heading}"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", OWN_PAGES)
def test_a_page_has_one_title_and_whole_tables(name: str) -> None:
    text = page(name)
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", outside, re.MULTILINE)) == 1
    width = 0
    for number, line in enumerate(outside.splitlines(), 1):
        here = len(cells(line)) if line.startswith("|") else 0
        assert not width or not here or here == width, f"{name}: row {number} has {here} cells, not {width}: {line}"
        width = here


def test_the_bounds_in_contributing_are_those_of_the_test() -> None:
    text = page("CONTRIBUTING.md")
    bounds = (
        f"at most {MODULE_LINES_MAX} lines, functions {FUNCTION_LINES_MAX} (25 is usual), Lua files {LUA_LINES_MAX}"
    )
    assert bounds in text


def test_contributing_names_every_layer() -> None:
    folders = {path.name for path in (ROOT / "limiter").iterdir() if (path / "__init__.py").exists()}
    listed = set(re.findall(r"^\| `(\w+)` \|", page("CONTRIBUTING.md"), re.MULTILINE))
    assert folders <= listed

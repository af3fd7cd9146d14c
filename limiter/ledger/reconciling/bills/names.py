"""One name for a model that a bill and the books write differently.

The rule: letter case, paths (`models/`, `accounts/…/`), a fine-tuning's `ft:` and what follows the base model,
Bedrock's region and vendor (`us.anthropic.`) and version (`-v1:0`), and what stands between words do not matter; a
date or `-latest` at the end is taken off; Claude's words may stand in any order (claude-sonnet-4-5 on the API,
Claude4.5Sonnet on AWS). Dated versions of one model are therefore compared as one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_PLACE: Final = re.compile(r"^(?:(?:us|us-gov|eu|apac|ap|au|jp|ca|sa|global)\.)?(?:[a-z0-9]{2,}\.)(?=[a-z])")
_DATE: Final = re.compile(
    r"[-@ ](?:\d{4}-\d{2}-\d{2}|\d{8}|(?:preview-|exp-)?\d{2}-\d{2,4}|\d{4}|\d{3}|\d{6}|latest|default|preview|exp)$"
)
_VERSION: Final = re.compile(r"[- ]v\d+$")
_WORD: Final = re.compile(r"[a-z]+|\d+")
_BETWEEN: Final = re.compile(r"(?<=\d) (?=\d)")
_EXACT_DOTS: Final = re.compile(r"\d\.\d")


@lru_cache(maxsize=4096)
def key_of(model: str) -> str:
    """What all spellings of a model have in common; "" for no name."""
    name = model.strip().lower()
    if name.startswith(("ft:", "ft-")):
        name = name[3:].partition(":")[0]
    name = name.rsplit("/", 1)[-1]
    if "." in name and not _EXACT_DOTS.search(name.partition("-")[0]):
        name = _PLACE.sub("", name, count=1)
    name = name.partition(":")[0]
    while name != (shorter := _VERSION.sub("", _DATE.sub("", name))):
        name = shorter
    words = _WORD.findall(name)
    if "claude" in words:
        return ".".join(sorted(words))
    return _BETWEEN.sub(".", " ".join(words)).replace(" ", "") or name

"""What is known of families of models, whoever serves them: what stands before a prompt, and how images are counted.

A pair is (strict, safe): a bound, and an estimate above what was seen in recorded calls. Families are told by the
model's name; of one that is not known, the largest of all is assumed for the bound.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

Pair = tuple[int, int]


class Family(NamedTuple):
    """One family. Everything but the images is in tokens.

    `preamble` stands before every prompt, `tools` explains the use of tools besides, `form` that of a response format;
    `built_in` is one tool that the provider defines and the caller runs. `rule` names how images are counted (see
    :mod:`limiter.pricing.images`), `largest` is the most for one image of any size, `usual` an estimate where its
    size is not known. `page` is one page of a PDF, `second` one second of sound, and of film.
    """

    preamble: Pair = (512, 128)
    tools: Pair = (2_000, 800)
    form: Pair = (2_000, 400)
    built_in: Pair = (2_500, 1_500)
    rule: str = "any"
    largest: int = 50_000
    usual: int = 3_000
    page: int = 5_000
    second: Pair = (40, 35)
    film: int = 300


_OTHER: Final = Family()

#: Tool preambles of Anthropic: 313 to 530 tokens (its guide "Tool use", "Pricing"), more for models of 2026. Images
#: ("Vision"): at most 1,568 tokens, from Opus 4.7 on 4,784. Pages ("PDF support"): 1,500 to 3,000 tokens of text, and
#: an image.
_CLAUDE: Final = Family((512, 32), (2_000, 1_000), (2_000, 300), (2_500, 1_500), "claude", 5_000, 4_784, 4_800)
_CLAUDE_OLDER: Final = _CLAUDE._replace(tools=(2_000, 680), largest=2_000, usual=1_600)

#: OpenAI's guide "Images and vision": tiles (base, each), at most eight; or patches of 32 pixels with a factor. The
#: factors are rounded up, as the price calculator and the guide differ.
_GPT: Final = Family((512, 64), (2_000, 280), (2_000, 200), (2_500, 700), "tiles 85 170", 12_500, 1_500, 2_600)

_FAMILIES: Final = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"claude-?(instant|v?[123]|(opus|sonnet|haiku)-(3|4(?![.-][789])))", _CLAUDE_OLDER),
        (r"claude", _CLAUDE),
        (r"gpt-oss", _GPT._replace(preamble=(512, 128), largest=50_000)),
        (r"gpt-4o-mini", _GPT._replace(rule="tiles 2833 5667", largest=50_000, usual=48_169)),
        (r"nano", _GPT._replace(rule="patches 2.5 1536", largest=25_000, usual=3_840)),
        (r"(gpt|^o\d|/o\d).*mini", _GPT._replace(rule="patches 1.72 1536", largest=17_500, usual=2_642)),
        (r"gpt-5[.-]?[4-9]|gpt-[6-9]", _GPT._replace(rule="patches 1.25 2500", usual=3_125)),
        (r"gpt-5", _GPT._replace(rule="tiles 85 170", largest=5_000)),
        (r"gpt|chatgpt|^o\d|/o\d|codex|davinci|text-embedding", _GPT._replace(largest=5_000)),
        # Google's guides "Understand and count tokens" and "Media resolution": tiles of 258 tokens; Gemini 3 up to
        # 2,240 an image; a second of sound 32 tokens, of film 258 for its picture besides; a page 258 to 560.
        (
            r"gemini|gemma|imagen",
            Family((512, 24), (2_000, 300), (2_000, 120), rule="gemini", largest=8_300, usual=4_200, page=1_200),
        ),
        (r"llama-?4", Family((512, 64), (2_000, 850), rule="llama", largest=3_000, usual=2_500)),
        (r"nova", Family((512, 64), (2_000, 1_000), rule="nova", largest=50_000, usual=3_000, film=600)),
        # The prompt that Cohere puts before every chat is not billed, but told.
        (r"command", Family((3_000, 2_000), (3_000, 1_600))),
        (r"grok", Family((2_000, 900), (2_000, 600), rule="any", largest=5_000, usual=2_000)),
        (
            r"mistral|pixtral|magistral|ministral|codestral|devstral",
            Family((512, 32), (2_000, 200), rule="mistral", largest=8_000, usual=4_300),
        ),
        (r"deepseek", Family((512, 128), (2_000, 450))),
        (r"embed|rerank|bge-|titan", Family((512, 16), (0, 0), (0, 0))),
    )
)


@lru_cache(4096)
def family_of(model: str) -> Family:
    """Return the family of `model`, by its name alone."""
    name = model.lower()
    return next((family for pattern, family in _FAMILIES if pattern.search(name)), _OTHER)

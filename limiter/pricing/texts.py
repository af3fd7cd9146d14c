"""How many tokens a text may be, by what it is written with: never exact, meant to be a little too many.

Every kind of byte has a weight, above what byte-pair tokenizers in use (of OpenAI, Anthropic, Google, Meta, Mistral,
Qwen, DeepSeek) make of text with many of them: prose and code in words cost little, digits and what looks random much,
scripts that vocabularies know badly almost a token per byte. One pass over all bytes finds the many that are plain, so
that only the others need a closer look.
"""

from __future__ import annotations

from typing import Final

_LOWER: Final = b"abcdefghijklmnopqrstuvwxyz"
_UPPER: Final = _LOWER.upper()
_DIGITS: Final = b"0123456789"
#: Blanks and controls other than the space: some vocabularies know none of them in rows.
_CONTROLS: Final = bytes((*range(32), 127))
_PUNCTUATION: Final = bytes(set(range(33, 127)) - {*_LOWER, *_UPPER, *_DIGITS})

#: Hundredths of a token for each such byte.
_LOWER_WEIGHT: Final = 42
_SPACE_WEIGHT: Final = 25
_UPPER_WEIGHT: Final = 90
_DIGIT_WEIGHT: Final = 100
_CONTROL_WEIGHT: Final = 100
_PUNCTUATION_WEIGHT: Final = 75
#: A digit breaks what stands beside it into pieces, up to one for each digit (hexadecimal, tables of numbers).
_BESIDE_DIGIT_WEIGHT: Final = 75
#: Letters beyond this many to a blank or mark are no words: identifiers, base32, random text.
_WORD: Final = 9
_LONG_WORD_WEIGHT: Final = 22

#: Hundredths of a token for a character outside of ASCII, by the first byte of its UTF-8: the scripts in words, with
#: the characters that vocabularies know least in view where scripts share a first byte.
_SCRIPTS: Final = (
    (110, (0xC2, 0xC3)),  # Latin-1
    (150, (0xC4, 0xC5)),  # Latin Extended-A
    (200, (0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD)),  # rarer Latin, phonetics, accents of their own
    (120, (0xCE, 0xCF)),  # Greek
    (95, (0xD0, 0xD1)),  # Cyrillic
    (200, (0xD2, 0xD3, 0xD4, 0xD5)),  # rarer Cyrillic, Armenian
    (130, (0xD6, 0xD7, 0xD8, 0xD9)),  # Hebrew, Arabic
    (160, (0xDA, 0xDB)),  # Persian, Urdu and other Arabic
    (200, (0xDC, 0xDD, 0xDE, 0xDF)),  # Syriac, Thaana, N'Ko
    (240, (0xE0,)),  # India's scripts, Thai, Lao
    (300, (0xE1,)),  # Tibetan's neighbours: Burmese, Georgian, Ethiopic, Khmer (Vietnamese: below)
    (250, (0xE2,)),  # punctuation, symbols, boxes
    (150, (0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB, 0xEC, 0xED)),  # Chinese, Japanese, Korean
    (200, (0xEE, 0xEF)),  # full-width forms, Arabic forms, private use
    (400, (0xF0, 0xF1, 0xF2, 0xF3, 0xF4)),  # emoji, rare ideographs
)
#: Vietnamese has most of its letters here, and they are known better than their neighbours.
_VIETNAMESE: Final = (b"\xe1\xba", b"\xe1\xbb")
_VIETNAMESE_LESS: Final = 150

_CLASS_OF: Final = bytes(
    next((number for number, (_, leads) in enumerate(_SCRIPTS) if byte in leads), 255) for byte in range(256)
)

_WEIGHTS: Final = tuple(weight for weight, _ in _SCRIPTS)
_HIGH: Final = bytes(range(128, 256))
#: What is no first byte of a character outside of ASCII.
_NO_LEAD: Final = bytes(byte for byte in range(256) if _CLASS_OF[byte] == 255)


def text_tokens(text: str) -> int:
    """Return about how many tokens `text` is at most; never more than its bytes in UTF-8."""
    data = text.encode("utf-8", "surrogatepass")
    size = plain = len(data)
    hundredths = foreign = 0
    if not text.isascii():
        hundredths = _foreign(data)
        data = data.translate(None, _HIGH)
        plain = len(data)
        foreign = size - plain
    rest = data.translate(None, _LOWER)
    lower = plain - len(rest)
    spaces = rest.count(b" ")
    left = rest.translate(None, b" ")
    rest = left.translate(None, _PUNCTUATION)
    marks = len(left) - len(rest)
    left = rest.translate(None, _UPPER)
    upper = len(rest) - len(left)
    controls = len(left.translate(None, _DIGITS))
    digits = len(left) - controls
    hundredths += (
        lower * _LOWER_WEIGHT
        + spaces * _SPACE_WEIGHT
        + marks * _PUNCTUATION_WEIGHT
        + upper * _UPPER_WEIGHT
        + digits * _DIGIT_WEIGHT
        + min(digits, size - digits) * _BESIDE_DIGIT_WEIGHT
        + controls * _CONTROL_WEIGHT
    )
    long = lower + upper - _WORD * (spaces + controls + marks + foreign)
    if long > 0:
        hundredths += long * _LONG_WORD_WEIGHT
    return min(size, -(-hundredths // 100))


def decomposed_bytes(text: str) -> int:
    """Return how many bytes `text` may grow by where a tokenizer first brings it into a normal form (Qwen's: NFC).

    Musical symbols grow most: four bytes become twelve. Letters of Tibetan and pointed ones of Hebrew become six bytes
    of three. Of others that grow, each makes at most a token more than it has bytes. The text is not brought into that
    form to measure it, as the time for that grows with the square of the accents on one letter.
    """
    data = text.encode("utf-8", "surrogatepass")
    return sum(grown * data.count(lead) for first, grown, leads in _GROWING if first in data for lead in leads)


#: First byte, by how many bytes a character may grow, and with what such characters begin.
_GROWING: Final = (
    (b"\xf0", 8, (b"\xf0\x9d\x85", b"\xf0\x9d\x86", b"\xf0\x9d\x87")),
    (b"\xe0", 3, (b"\xe0\xbd", b"\xe0\xbe")),
    (b"\xe0", 1, (b"\xe0\xa7", b"\xe0\xa8", b"\xe0\xa9", b"\xe0\xad")),
    (b"\xe2", 1, (b"\xe2\xab",)),
    (b"\xef", 3, (b"\xef\xab", b"\xef\xac")),
    (b"\xcd", 1, (b"\xcd\x84",)),
)


def _foreign(data: bytes) -> int:
    """Hundredths of a token of what is outside of ASCII in a text in UTF-8."""
    classes = data.translate(_CLASS_OF, _NO_LEAD)
    hundredths = 0
    for number, weight in enumerate(_WEIGHTS):
        hundredths += classes.count(number) * weight
    if b"\xe1" in data:
        hundredths -= sum(data.count(lead) for lead in _VIETNAMESE) * _VIETNAMESE_LESS
    return hundredths

"""How many tokens an image is: its size by its own first bytes, its tokens by what the provider publishes."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable, Mapping
from typing import Final

from limiter.pricing.families import Family

#: Base64 characters that hold the size of a PNG, GIF or WebP image.
_HEAD: Final = 64
#: How far into a JPEG its size is looked for: thumbnails and colour profiles may stand before it.
_JPEG_HEADS: Final = (4_096, 131_072, 1_048_576)
_SEGMENTS_MAX: Final = 256

#: Sizes by the header are what the provider sees; its arithmetic differs a little from what it publishes.
_MARGIN: Final = 1.15
_TAGS: Final = 24  # the marks around an image


def image_tokens(family: Family, data: str, *, low: bool = False) -> tuple[int, int]:
    """Return the tokens of an image in base64, at most and as estimated; "": it is elsewhere, of unknown size.

    `low` is what OpenAI calls `detail: low`: the size does not matter then.
    """
    rule = family.rule.split()
    kind, numbers = rule[0], [float(number) for number in rule[1:]]
    if low and kind == "tiles":
        return family.largest, int(numbers[0] * _MARGIN) + _TAGS
    if low and kind == "patches":
        return family.largest, int(256 * numbers[0]) + _TAGS
    size = pixels(data) if data else None
    if size is None:
        return family.largest, min(family.usual, family.largest)
    tokens = int(_RULES[kind](*size, *numbers) * _MARGIN) + _TAGS
    return family.largest, min(tokens, family.largest)


def _claude(width: int, height: int) -> float:
    """Anthropic, "Vision": patches of 28 pixels (formerly width × height / 750), shrunk to at most 4,784 of them."""
    patches = math.ceil(width / 28) * math.ceil(height / 28)
    return min(max(patches, width * height / 750), 4_784 / _MARGIN)


def _tiles(width: int, height: int, base: float, each: float) -> float:
    """OpenAI, "Images and vision": fitted into 2,048², the shorter side to 768, then tiles of 512."""
    shrink = min(1.0, 2_048 / max(width, height))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    scale = 768 / min(width, height)  # smaller ones are said not to be enlarged, and have been seen to be
    width, height = min(2_048, math.ceil(width * scale)), min(2_048, math.ceil(height * scale))
    return base + each * math.ceil(width / 512) * math.ceil(height / 512)


def _patches(width: int, height: int, factor: float, most: float) -> float:
    """OpenAI, "Images and vision": patches of 32 pixels, shrunk to at most so many."""
    return factor * min(math.ceil(width / 32) * math.ceil(height / 32), most)


def _gemini(width: int, height: int) -> float:
    """Google, "Understand and count tokens": 258 for each tile; Gemini 3, "Media resolution": 1,120 unless said."""
    shrink = min(1.0, 3_072 / max(width, height))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    if max(width, height) <= 384:
        return 1_120
    unit = min(max(min(width, height) / 1.5, 256), 768)
    return max(1_120, 258 * math.ceil(width / unit) * math.ceil(height / unit))


def _llama(width: int, height: int) -> float:
    """Llama 4's processor: tiles of 336 pixels, 145 tokens each, at most 16 and the whole."""
    return 145.0 * (min(16, math.ceil(width / 336) * math.ceil(height / 336)) + 1)


def _nova(width: int, height: int) -> float:
    """Amazon, "Image understanding" of Nova: 2,600 tokens for 1,300 × 1,300; 1,816 were told for 540 × 360."""
    return max(2_200, width * height / 480)


def _mistral(width: int, height: int) -> float:
    """Mistral's processors: shrunk to 1,540, patches of 14 in pairs, a mark for each row; older: 1,024 and 16."""
    shrink = min(1.0, 1_540 / max(width, height))
    across, down = math.ceil(width * shrink / 16), math.ceil(height * shrink / 16)
    return min(across * (down + 1), 4_300)


def _any(width: int, height: int) -> float:
    """The dearest of common ones: patches of 28 pixels without a bound that is known."""
    return max(300, math.ceil(width / 28) * (math.ceil(height / 28) + 1))


_RULES: Final[Mapping[str, Callable[..., float]]] = {
    "claude": _claude,
    "tiles": _tiles,
    "patches": _patches,
    "gemini": _gemini,
    "llama": _llama,
    "nova": _nova,
    "mistral": _mistral,
    "any": _any,
}


def pixels(data: str) -> tuple[int, int] | None:
    """Return width and height of a PNG, GIF, WebP or JPEG image in base64; None: its head does not tell."""
    head = decoded(data[:_HEAD])
    size: tuple[int, int] | None = None
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        size = struct.unpack_from(">II", head, 16)
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        size = struct.unpack_from("<HH", head, 6)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = _webp(head)
    elif head[:2] == b"\xff\xd8":
        size = next((found for reach in _JPEG_HEADS if (found := _jpeg(decoded(data[:reach])))), None)
    return size if size is not None and min(size) > 0 and max(size) <= 1 << 20 else None


def decoded(data: str) -> bytes:
    """Decode base64 of either alphabet, as far as it goes; b"" for what is none."""
    try:
        written = data.encode("ascii").translate(_STANDARD)
        return base64.b64decode(written[: len(written) & ~3])
    except (UnicodeEncodeError, binascii.Error):
        return b""


_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _webp(head: bytes) -> tuple[int, int] | None:
    if head[12:16] == b"VP8X" and len(head) >= 30:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L" and len(head) >= 25:
        packed = int.from_bytes(head[21:25], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    if head[12:16] == b"VP8 " and len(head) >= 30:
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Follow the segments to the frame's header."""
    at = 2
    for _ in range(_SEGMENTS_MAX):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker == 0xFF:  # filling
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None

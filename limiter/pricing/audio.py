"""How long a recording is: by its own header where that is plain, else bounded by its bytes."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

#: The lowest rate at which sound is written in the formats that providers take: Opus from 6 kbit/s (RFC 6716, 2.1.1);
#: MP3 from 8 kbit/s (ISO/IEC 13818-3), AAC and Vorbis in between.
STRICT_BYTES_PER_SECOND: Final = 6_000 // 8

#: What recordings of speech usually have at least: voice messages are Opus at 16 kbit/s, and calls and podcasts more.
SAFE_BYTES_PER_SECOND: Final = 16_000 // 8

#: Formats of WAV whose bytes are samples: PCM, floats, A-law, µ-law.
_PLAIN_FORMATS: Final = frozenset({1, 3, 6, 7})

#: The header that names the format elsewhere: in the first two bytes of a name of sixteen, behind eight more.
_NAMED_ELSEWHERE: Final = 0xFFFE

#: FLAC names its samples in the first block; silence is written in next to none.
_FLAC: Final = b"fLaC"


class Length(NamedTuple):
    """Seconds, rounded up: at most, and as estimated."""

    strict: int
    safe: int


def audio_length(data: bytes) -> Length:
    """Return how long `data` can be; at least a second."""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE" and (rate := _wav_rate(data)):
        exact = _seconds(len(data), rate)
        return Length(exact, exact)
    told = _flac_seconds(data) if data.startswith(_FLAC) else 0
    return Length(
        max(_seconds(len(data), STRICT_BYTES_PER_SECOND), told), told or _seconds(len(data), SAFE_BYTES_PER_SECOND)
    )


def _seconds(size: int, rate: int) -> int:
    return max(1, -(-size // rate))


def _wav_rate(data: bytes) -> int:
    """Bytes per second of a WAV file, by its samples as they are played; 0 where bytes do not tell its length."""
    at = 12
    while at + 24 <= len(data) and at < 4_096:
        chunk, size = struct.unpack_from("<4sI", data, at)
        if chunk == b"fmt " and size >= 16:
            kind, channels, samples, _, block, bits = struct.unpack_from("<HHIIHH", data, at + 8)
            if kind == _NAMED_ELSEWHERE and size >= 40:
                kind = int.from_bytes(data[at + 32 : at + 34], "little")
            # Players go by the one or the other: the slower of the two plays longer.
            return samples * min(block, channels * -(-bits // 8)) if kind in _PLAIN_FORMATS else 0
        at += 8 + size + (size & 1)
    return 0


def _flac_seconds(data: bytes) -> int:
    """Seconds by the first block of a FLAC file; 0: it does not tell."""
    if len(data) < 26:
        return 0
    packed = int.from_bytes(data[18:26])
    rate, samples = packed >> 44, packed & 0xFFFFFFFFF
    return -(-samples // rate) if rate else 0

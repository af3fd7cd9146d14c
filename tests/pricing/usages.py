"""Usages that no provider could contradict."""

from __future__ import annotations

from random import Random

from limiter.domain.calls import Usage

#: 2026-11-18 20:26:40 UTC.
NOW_MS = 1_795_033_600_000


def random_usage(random: Random, *, input_tokens: int) -> Usage:
    """A usage of every kind of token, each counted once, with its wholes including it."""
    cached_audio, cached_image, audio, image, video, read, written, hourly = (
        random.randint(0, input_tokens // 24) for _ in range(8)
    )
    reasoning, citation, spoken, drawn, filmed = (random.choice((0, random.randint(0, 9_000))) for _ in range(5))
    pages = random.randint(0, 40)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=reasoning + citation + spoken + drawn + filmed + random.randint(0, 20_000),
        cache_read_tokens=read + cached_audio + cached_image,
        cache_write_tokens=written + hourly,
        reasoning_tokens=reasoning,
        units={
            "cache_write_1h_tokens": hourly,
            "cache_audio_read_tokens": cached_audio,
            "cache_image_read_tokens": cached_image,
            "input_audio_tokens": audio + cached_audio,
            "input_image_tokens": image + cached_image,
            "input_video_tokens": video,
            "output_citation_tokens": citation,
            "output_audio_tokens": spoken,
            "output_image_tokens": drawn,
            "output_video_tokens": filmed,
            "web_searches": random.randint(0, 5),
            "storage_searches": random.randint(0, 5),
            "audio_seconds": random.randint(0, 40),
            "input_characters": random.randint(0, 4_000),
            "input_text_messages": random.randint(0, 9),
            "input_document_pages": pages,
            "input_annotated_document_pages": random.randint(0, pages),
        },
    )

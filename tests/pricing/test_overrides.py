"""A file of one's own wins over genai-prices, is read digit by digit, and every mistake in it is named."""

from __future__ import annotations

import hashlib
from pathlib import Path
from textwrap import dedent

import pytest

from limiter.domain.calls import Usage
from limiter.domain.errors import LimiterError
from limiter.pricing.book import ModelPrice, PriceBook
from limiter.pricing.overrides import PricesInvalid
from tests.pricing.usages import NOW_MS

DAY_MS = 86_400_000
#: 2026-12-01, 0:00 UTC.
DECEMBER_MS = 1_796_083_200_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.yaml"


def find(file: Path, text: str, *, model: str, provider: str = "", at_ms: int = NOW_MS) -> ModelPrice | None:
    file.write_text(dedent(text))
    return PriceBook.load(file).find(provider=provider, model=model, at_ms=at_ms)


EVERYTHING = """\
    version: 1
    models:
      - provider: openai
        match: "my-model*"
        input_per_million: "2.50"
        output_per_million: "10"
        cache_read_per_million: "0.25"
        cache_write_per_million: "3.125"
        reasoning_per_million: "12"
        per_request: "0.005"
        units: {images: "0.04", audio_seconds: 0.0001}
        context_window: 128000
        max_output_tokens: 16384
        from: 2026-01-01
        source: "https://example.com/pricing"
    """


def test_an_entry_prices_every_part_of_a_call(file: Path) -> None:
    price = find(file, EVERYTHING, provider="openai", model="My-Model-7b")
    assert price is not None
    usage = Usage(1_000, 500, 400, 100, 200, {"images": 2, "audio_seconds": 30})
    tokens = 500 * 2_500 + 400 * 250 + 100 * 3_125 + 300 * 10_000 + 200 * 12_000
    assert price.charge_nanousd(usage) == tokens + 5_000_000 + 2 * 40_000_000 + 30 * 100_000
    assert price.hold_nanousd(input_tokens=1_000, max_output_tokens=500, units={"images": 2}) == (
        1_000 * 3_125 + 500 * 12_000 + 5_000_000 + 80_000_000
    )
    assert (price.context_window, price.max_output_tokens) == (128_000, 16_384)
    assert (price.provider, price.model) == ("openai", "My-Model-7b")
    assert price.unpriced_units({"images": 1, "videos": 1}) == ["videos"]
    assert price.for_ledger() == {
        "match": "my-model*",
        "source": "https://example.com/pricing",
        "input_per_million": "2.5",
        "output_per_million": "10",
        "cache_read_per_million": "0.25",
        "cache_write_per_million": "3.125",
        "reasoning_per_million": "12",
        "per_request": "0.005",
        "units": {"audio_seconds": "0.0001", "images": "0.04"},
    }


def test_the_version_of_the_book_names_the_file_by_its_digest(file: Path) -> None:
    file.write_text(dedent(EVERYTHING))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert PriceBook.load(file).version == f"{PriceBook.load().version}+overrides sha256:{digest[:8]}"


@pytest.mark.parametrize("written", ["0.1234567890123456", '"0.1234567890123456"', "000.1234567890123456"])
def test_amounts_keep_every_digit_quoted_or_not(file: Path, written: str) -> None:
    price = find(file, f"version: 1\nmodels: [{{match: m, per_request: {written}}}]", model="m")
    assert price is not None
    assert price.for_ledger()["per_request"] == "0.1234567890123456"


def test_an_entry_wins_over_genai_prices_as_a_whole(file: Path) -> None:
    price = find(file, 'version: 1\nmodels: [{match: gpt-4o, input_per_million: "1"}]', model="gpt-4o")
    assert price is not None
    assert price.charge_nanousd(Usage(1_000, 1_000, 900)) == 1_000_000
    assert price.unpriced_units({"web_searches": 1, "output_tokens": 1}) == ["web_searches", "output_tokens"]


def test_an_entry_of_another_provider_does_not_match(file: Path) -> None:
    text = 'version: 1\nmodels: [{provider: acme, match: "gpt-*", input_per_million: "1"}]'
    theirs = find(file, text, provider="acme", model="gpt-4o")
    assert theirs is not None
    assert theirs.charge_nanousd(Usage(1_000)) == 1_000_000
    openai = find(file, text, provider="openai", model="gpt-4o")
    assert openai is not None
    assert openai.charge_nanousd(Usage(1_000)) == 2_500_000
    assert find(file, text, provider="acme", model="other") is None


def test_the_last_entry_that_has_begun_counts(file: Path) -> None:
    text = """\
        version: 1
        models:
          - {match: gpt-4o, input_per_million: "1"}
          - {match: "gpt-*", input_per_million: "7", from: 2026-12-01}
        """
    before = find(file, text, model="gpt-4o")
    assert before is not None
    assert before.charge_nanousd(Usage(1_000)) == 1_000_000
    assert before.valid_until_ms == DECEMBER_MS - DAY_MS
    eve = find(file, text, model="gpt-4o", at_ms=DECEMBER_MS - 1)
    assert eve is not None
    assert eve.hold_nanousd(input_tokens=1_000, max_output_tokens=0, units={}) == 7_000_000
    assert eve.charge_nanousd(Usage(1_000)) == 1_000_000
    after = find(file, text, model="gpt-4o", at_ms=DECEMBER_MS)
    assert after is not None
    assert after.charge_nanousd(Usage(1_000)) == 7_000_000
    # Nothing else is known of this one, so it has no price before it begins.
    assert find(file, text, model="gpt-made-up", at_ms=DECEMBER_MS - 1) is None
    assert find(file, text, model="gpt-made-up", at_ms=DECEMBER_MS) is not None


def test_an_hour_has_a_price_per_second_of_any_precision(file: Path) -> None:
    price = find(file, 'version: 1\nmodels: [{match: m, units: {audio_seconds: "0.000000000000000001"}}]', model="m")
    assert price is not None
    assert price.charge_nanousd(Usage(units={"audio_seconds": 10**9})) == 1
    assert price.hold_nanousd(input_tokens=0, max_output_tokens=0, units={"audio_seconds": 1}) == 1


def test_tiers_change_the_price_of_the_whole_call(file: Path) -> None:
    text = """\
        version: 1
        models:
          - match: m
            input_per_million: "1"
            output_per_million: "10"
            above_1000: {input_per_million: "2"}
            above_5000: {output_per_million: "30"}
        """
    price = find(file, text, model="m")
    assert price is not None
    assert price.charge_nanousd(Usage(1_000, 10)) == 1_000 * 1_000 + 10 * 10_000
    assert price.charge_nanousd(Usage(1_001, 10)) == 1_001 * 2_000 + 10 * 10_000
    assert price.charge_nanousd(Usage(5_001, 10)) == 5_001 * 2_000 + 10 * 30_000
    assert price.hold_nanousd(input_tokens=5_001, max_output_tokens=10, units={}) == 5_001 * 2_000 + 10 * 30_000
    assert price.for_ledger()["above_5000"] == {"input_per_million": "2", "output_per_million": "30"}


def test_the_same_file_may_be_json(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(
        '{"version": 1, "date": "2026-11-23", "models": '
        '[{"match": "m", "per_request": 0.1234567890123456, "from": "2026-01-01"}]}'
    )
    price = PriceBook.load(file).find(provider="", model="m", at_ms=NOW_MS)
    assert price is not None
    assert price.for_ledger()["per_request"] == "0.1234567890123456"
    file.write_text('{"version": 1, "version": 1, "models": []}')
    with pytest.raises(PricesInvalid, match="'version' is given twice"):
        PriceBook.load(file)


NO = "is not valid;"
RESERVED = "it has a field of its own (input_per_million, …, per_request)"
DAY = "write a day, such as 2026-01-01, without a time"
MOMENT = "datetime.datetime(2026, 1, 1, 10, 0)"
AMOUNT = 'write a decimal number of USD, such as "2.50", at most 9 digits before the point and 18 after it'
COUNT = "write a whole number from 1 to 1000000000000"
TEXT = "write a text of 1 to 512 characters, quoted if it looks like a number"
KNOWN = (
    "known are provider, match, input_per_million, output_per_million, cache_read_per_million, "
    "cache_write_per_million, reasoning_per_million, per_request, units, when, adds, held_units, above_<tokens>, "
    "context_window, max_output_tokens, from, source"
)

KNOWN_OF_A_TIER = (
    "known are input_per_million, output_per_million, cache_read_per_million, cache_write_per_million, "
    "reasoning_per_million, per_request, units"
)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("match: m, input_per_million: free", f"models[0].input_per_million: 'free' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: -1", f"models[0].input_per_million: '-1' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: 0x10", f"models[0].input_per_million: '0x10' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: 1_000.0", f"models[0].input_per_million: '1_000.0' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: 1:30", f"models[0].input_per_million: '1:30' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: .inf", f"models[0].input_per_million: '.inf' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: 1.0e+3", f"models[0].input_per_million: '1.0e+3' is not valid; {AMOUNT}"),
        ("match: m, input_per_million: [1]", f"models[0].input_per_million: ['1'] is not valid; {AMOUNT}"),
        ("match: m, input_per_million: true", f"models[0].input_per_million: True is not valid; {AMOUNT}"),
        ('match: m, per_request: "٣"', f"models[0].per_request: '٣' is not valid; {AMOUNT}"),
        ("match: m, per_request: 1, context_window: 0", f"models[0].context_window: '0' is not valid; {COUNT}"),
        ("match: m, per_request: 1, max_output_tokens: 1.5", f"models[0].max_output_tokens: '1.5' {NO} {COUNT}"),
        ("match: m, per_request: 1, from: soon", f"models[0].from: 'soon' is not valid; {DAY}"),
        ("match: m, per_request: 1, from: 2026-01-01 10:00:00", f"models[0].from: {MOMENT} is not valid; {DAY}"),
        (
            "match: m, units: {Images: 1}",
            "models[0].units.Images: 'Images' is not valid; use 1 to 64 of a-z, 0-9 and _, beginning with a letter",
        ),
        (
            "match: m, units: {input_tokens: 1}",
            f"models[0].units.input_tokens: 'input_tokens' {NO} {RESERVED}",
        ),
        ("match: m, units: {images: cheap}", f"models[0].units.images: 'cheap' is not valid; {AMOUNT}"),
        ("match: m, units: [images]", "models[0].units: ['images'] is not valid; Input should be a valid dictionary"),
        ("match: 7, per_request: 1", f"models[0].match: '7' is not valid; {TEXT}"),
        ('match: "", per_request: 1', f"models[0].match: '' is not valid; {TEXT}"),
        ("per_request: 1", "models[0].match: is missing"),
        ("match: m", "models[0]: no price is given; write 0 for what is free"),
        ("match: m, above_9: {per_request: 1}", "models[0]: no price is given; write 0 for what is free"),
        (
            "match: m, per_request: 1, above_9: {units: {images: 1}}",
            "models[0]: above_9 prices images, which the entry itself does not; price it there, too",
        ),
        ("match: m, per_request: 1, above_9: {per_request: x}", f"models[0].above_9.per_request: 'x' {NO} {AMOUNT}"),
        (
            "match: m, per_request: 1, above_9: {source: x}",
            f"models[0].above_9.source: unknown field; {KNOWN_OF_A_TIER}",
        ),
        (
            "match: m, per_request: 1, when: {Size: L}",
            "models[0].when.Size: 'Size' is not valid; use 1 to 64 of a-z, 0-9 and _, beginning with a letter",
        ),
        ("match: m, per_request: 1, when: {size: 7}", f"models[0].when.size: '7' {NO} {TEXT}"),
        ("match: m, input_per_milion: 1", f"models[0].input_per_milion: unknown field; {KNOWN}"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_path_and_remedy(file: Path, entry: str, message: str) -> None:
    file.write_text(f"version: 1\nmodels: [{{{entry}}}]")
    with pytest.raises(PricesInvalid) as caught:
        PriceBook.load(file)
    assert caught.value.mistakes == (message,)
    assert str(caught.value) == f"{file}: {message}"
    assert isinstance(caught.value, LimiterError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write a mapping with version and models"),
        ("- 1", "write a mapping with version and models"),
        ("version: 1", "models: is missing"),
        ("version: 1\nmodels: 3", "models: '3' is not valid; Input should be a valid tuple"),
        ("version: 2\nmodels: []", "version: '2' is not valid; this release reads version 1"),
        (
            "version: 1\nmodels: []\nmodel: []",
            "model: unknown field; known are version, date, source, licence, models",
        ),
        (
            "version: 1\nmodels: [{match: m, per_request: 1, when: {s: L}}, {match: m, per_request: 1, when: {s: l}}]",
            "models[1]: repeats models[0]; keep one of them",
        ),
        (
            "version: 1\nmodels: [{match: M, per_request: 1}, {match: m, per_request: 2}]",
            "models[1]: repeats models[0]; keep one of them",
        ),
    ],
)
def test_a_mistake_in_the_document_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(PricesInvalid) as caught:
        PriceBook.load(file)
    assert caught.value.mistakes == (message,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version: 1\nmodels: [{match: m, per_request: 1, per_request: 2}]", "'per_request' is given twice"),
        (b"version: 1\nversion: 1\nmodels: []", "'version' is given twice"),
        (b"version: [1", "line 1"),
        (b"version: \xff", "invalid (start byte|leading UTF-8)"),
        (b"version: 1\nmodels: [{[1]: 2}]", "unhashable key"),
        (b"version: 1\nmodels: !!python/object:os.system {}", "could not determine a constructor"),
        (b"version: 1\nmodels: [{match: m, per_request: 1, from: 2026-02-30}]", "day is out of range"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(PricesInvalid, match=message):
        PriceBook.load(file)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(PricesInvalid, match="No such file"):
        PriceBook.load(file)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    file.write_text("version: 1\nmodels: [{match: m, per_request: x}, {match: 1, per_request: 1, colour: red}]")
    with pytest.raises(PricesInvalid) as caught:
        PriceBook.load(file)
    paths = [mistake.partition(": ")[0] for mistake in caught.value.mistakes]
    assert paths == ["models[0].per_request", "models[1].match", "models[1].colour"]

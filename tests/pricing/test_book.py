"""The book finds a model by provider, name and time."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from limiter.pricing import book as book_module
from limiter.pricing.book import PriceBook
from limiter.pricing.names import Names
from tests.pricing.usages import NOW_MS


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-4o", ("openai", "gpt-4o")),
        ("OpenAI", "GPT-4o", ("openai", "gpt-4o")),
        ("", "gpt-4o", ("openai", "gpt-4o")),
        ("", "openai/gpt-4o", ("openai", "gpt-4o")),
        ("", "claude-sonnet-4-5-20250929", ("anthropic", "claude-sonnet-4-5")),
        ("azure", "gpt-4o", ("azure", "gpt-4o")),
        ("openrouter", "openai/gpt-4o", ("openrouter", "openai/gpt-4o")),
        # Written otherwise than in the list.
        ("openrouter", "anthropic/claude-sonnet-4-5", ("openrouter", "anthropic/claude-sonnet-4.5")),
        ("cerebras", "llama3.3-70b", ("cerebras", "llama-3.3-70b")),
        ("openai", "gpt_4_1", ("openai", "gpt-4.1")),
        # One alone offers it.
        ("", "llama-3.3-70b-versatile", ("groq", "llama-3.3-70b-versatile")),
        ("", "amazon.nova-lite-v1:0", ("aws", "amazon.nova-lite-v1:0")),
        ("", "deepinfra/Qwen/Qwen3-32B", ("deepinfra", "deepinfra/Qwen/Qwen3-32B")),
    ],
)
def test_a_model_is_found_by_provider_and_name(
    book: PriceBook, provider: str, model: str, expected: tuple[str, str]
) -> None:
    price = book.find(provider=provider, model=model, at_ms=NOW_MS)
    assert price is not None
    assert (price.provider, price.model) == expected
    assert price.price_version == book.version
    assert re.fullmatch(
        rf"genai-prices {version('genai-prices')}\+litellm \d{{4}}-\d\d-\d\d\+tools \d{{4}}-\d\d-\d\d", book.version
    )


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("", ""),
        ("", "no-such-model"),
        ("openai", "no-such-model"),
        ("no-such-provider", "gpt-4o"),
        ("", "no-such/gpt-4o"),
        ("openai", "gpt-4o" + "x" * 5_000),
        # Another spelling of no name: 4.1 is not 41, and a part of a name is none.
        ("openai", "gpt-41"),
        ("cerebras", "llama-3.3-70b-fast"),
        ("openrouter", "openai/gpt-4o:free"),
        ("openrouter", "openai/gpt-4o:online"),
        # Somebody else's name is not taken for the maker's.
        ("no-such-provider", "sora-2"),
        ("", "no-such/sora-2"),
        # It stands in the price book without any price.
        ("cerebras", "qwen-3-coder-480b"),
    ],
)
def test_what_has_no_price_is_not_found(book: PriceBook, provider: str, model: str) -> None:
    assert book.find(provider=provider, model=model, at_ms=NOW_MS) is None


def test_what_several_lend_and_nobody_here_makes_has_no_price_without_a_provider(book: PriceBook) -> None:
    model = "meta-llama/Llama-3.3-70B-Instruct"
    assert book.find(provider="", model=model, at_ms=NOW_MS) is None
    lenders = book.match("", model).lenders
    assert {"deepinfra", "nebius", "novita"} <= {*lenders}
    prices = [book.find(provider=lender, model=model, at_ms=NOW_MS) for lender in ("deepinfra", "novita")]
    assert all(prices)
    assert book.match("deepinfra", model).lenders == ()


def test_a_spelling_that_may_be_one_of_two_names_is_neither() -> None:
    names = Names([("acme", "m-1.5"), ("acme", "m1_5"), ("acme", "n.2"), ("other", "n-2")])
    assert names.other_spelling("m-1-5", providers=["acme"]) == ""
    assert names.other_spelling("N2", providers=["acme"]) == "n.2"
    assert names.other_spelling("n2", providers=["nobody"]) == ""


def test_a_book_that_is_warm_reads_no_file(book: PriceBook, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = PriceBook.load()
    fresh.warm()

    def refuse(path: Path) -> bytes:
        raise AssertionError(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for provider, model in (("openai", "gpt-4o"), ("", "dall-e-3"), ("", "no-such-model")):
        found = fresh.find(provider=provider, model=model, at_ms=NOW_MS)
        known = book.find(provider=provider, model=model, at_ms=NOW_MS)
        assert (found and found.for_ledger()) == (known and known.for_ledger())


def test_a_price_is_compiled_once_while_it_is_valid(book: PriceBook) -> None:
    price = book.find(provider="deepseek", model="deepseek-chat", at_ms=NOW_MS)
    assert price is not None
    assert price.valid_until_ms is not None
    assert book.find(provider="deepseek", model="deepseek-chat", at_ms=NOW_MS + 1) is price
    later = book.find(provider="deepseek", model="deepseek-chat", at_ms=price.valid_until_ms)
    assert later is not None
    assert later.for_ledger() != price.for_ledger()
    # A correction looks back.
    again = book.find(provider="deepseek", model="deepseek-chat", at_ms=NOW_MS)
    assert again is not None
    assert again.for_ledger() == price.for_ledger()


def test_what_is_remembered_of_names_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "_REMEMBERED_MAX", 10)
    book = PriceBook.load()
    for number in range(25):
        assert book.find(provider="", model=f"made-up-{number}", at_ms=NOW_MS) is None
    assert len(book._remembered) == 10


def test_the_ledger_gets_the_prices_as_exact_decimals(book: PriceBook) -> None:
    price = book.find(provider="anthropic", model="claude-sonnet-4-5", at_ms=NOW_MS)
    assert price is not None
    ledger = price.for_ledger()
    assert ledger["input_per_million"] == "3"
    assert ledger["cache_write_per_million"] == "3.75"
    assert ledger["units"] == {"cache_write_1h_tokens": "0.000006", "web_searches": "0.01"}
    assert ledger["above_200000"] == {
        "input_per_million": "6",
        "output_per_million": "22.5",
        "cache_read_per_million": "0.6",
        "cache_write_per_million": "7.5",
        "units": {"cache_write_1h_tokens": "0.000012", "web_searches": "0.01"},
    }
    assert json.loads(json.dumps(ledger)) == ledger
    assert price.for_ledger() is ledger
    hourly = book.find(provider="groq", model="whisper-large-v3", at_ms=NOW_MS)
    assert hourly is not None
    assert hourly.for_ledger() == {"units": {"audio_seconds": "0.111/3600", "input_audio_seconds": "0.111/3600"}}

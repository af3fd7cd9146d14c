"""Text is estimated by what it is written with: above what tokenizers in use make of it, and never above its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.pricing.texts import decomposed_bytes, text_tokens

#: Text, and what the dearest of nine tokenizers in use made of a long text of that kind, per hundred bytes.
SCRIPTS = [
    ("The quick brown fox jumps over the lazy dog, and nobody minds at all. ", 24),
    ("def total(rows: list[Row]) -> int:\n    return sum(row.count for row in rows)\n", 30),
    ('{"role":"assistant","kind":"message","index":"first","done":"yes"},', 40),
    ("Der schnelle Fuchs überquert mühelos die schöne Straße. ", 34),
    ("Příliš žluťoučký kůň úpěl ďábelské ódy. ", 47),
    ("Съешь же ещё этих мягких французских булок. ", 33),
    ("Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ", 57),
    ("نص حكيم له سر قاطع وذو شأن عظيم مكتوب. ", 51),
    ("דג סקרן שט בים מאוכזב ולפתע מצא חברה. ", 55),
    ("ऋषियों को सताने वाले दुष्ट राक्षसों के राजा। ", 44),
    ("天地玄黄宇宙洪荒日月盈昃辰宿列张。", 45),
    ("いろはにほへとちりぬるを、わかよたれそ。", 37),
    ("키스의 고유조건은 입술끼리 만나야 한다. ", 44),
    ("🎉👍🏽🥳", 99),
    ("4fa0c1d29b7e", 90),
    ("8371952046", 99),
    ("7 1 3 9 ", 99),
    ("aGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0", 81),
    ("qzvkxjwpfhgmbtrld", 59),
    ("\r\n", 99),
]


@pytest.mark.parametrize(("text", "per_hundred"), SCRIPTS)
def test_a_text_is_estimated_above_what_tokenizers_make_of_its_script(text: str, per_hundred: int) -> None:
    long = text * 50
    assert per_hundred * len(long.encode()) <= 100 * text_tokens(long) + 100
    assert text_tokens(long) <= len(long.encode())


def test_english_costs_less_than_half_a_token_per_byte() -> None:
    text = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 20
    assert text_tokens(text) < 0.45 * len(text)


@given(st.text())
def test_the_estimate_of_a_text_is_never_above_its_bytes(text: str) -> None:
    assert 0 <= text_tokens(text) <= len(text.encode())


@given(st.text(), st.text())
def test_more_text_never_lowers_the_estimate_much(text: str, more: str) -> None:
    # Blanks and marks break long words, and cost as much as they save.
    assert text_tokens(text + more) >= text_tokens(text) - 2 * len(more.encode())


@pytest.mark.parametrize(
    ("letter", "more"),
    [("\U0001d160", 8), ("\u0f43", 3), ("\u0f93", 3), ("\ufb2c", 2), ("\ufacf", 1), ("\u09dc", 1), ("\u0344", 1)],
)
def test_letters_that_a_tokenizer_takes_apart_are_counted_by_their_pieces(letter: str, more: int) -> None:
    assert decomposed_bytes(f"a {letter * 50}") >= 50 * more


def test_text_that_stays_as_it_is_grows_by_nothing() -> None:
    assert decomposed_bytes("Où est-elle ? 你好，世界。 Привет 안녕하세요 สวัสดี 🎉") == 0  # noqa: RUF001 - a text of many scripts

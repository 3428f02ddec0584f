"""Readings of a text in which a person is searched for: how many there are, since each costs as much as the text."""

import re

import pytest

from verify.data.likeness import HUMPED
from verify.data.text_readings import identifiers_within, readings, word_sequences

SENTENCE = "L{0}homme d{0}affaires n{0}\u00e9tait pas l{0}ami qu{0}il croyait. "


@pytest.mark.parametrize("apostrophe", list("'\u2019\u2018\u02bc`\u00b4"))
@pytest.mark.parametrize("times", [1, 20])
def test_apostrophes_add_no_readings(apostrophe: str, times: int) -> None:
    """Every elided word was once read again with its neighbours, which made a French text eight times as slow to search."""
    assert len(list(word_sequences(SENTENCE.format(apostrophe) * times))) <= 2


@pytest.mark.parametrize("text", ["NoraVelt\u2019s dog", "O\u2019NoraVelt", "the d\u2019NoraVelt house", "l'ami NoraVelt92"])
def test_a_word_with_an_apostrophe_is_still_divided(text: str) -> None:
    """Names are found in a divided word with an apostrophe, as in one without."""
    assert any("velt" in word and word.startswith("velt") for words in word_sequences(text) for word in words)


@pytest.mark.parametrize(
    "text",
    [
        "annaSchmidt",
        "a9",
        "9a",
        "A9",
        "AB",
        "Ab",
        "aB",
        "a B",
        "a-9",
        "é",
        "x\u00df",
        "[0",
        "@A",
        "/0",
        "z0",
        "",
        "ab cd 12",
        "a_B",
    ],
)
def test_what_may_be_divided_is_recognized(text: str) -> None:
    """The fast pattern says what the plain one says: a capital after a small letter, a digit after a letter, or more than ASCII."""
    assert bool(HUMPED.search(text)) == bool(re.search(r"[a-z][A-Z]|[A-Za-z][0-9]|[^\x00-\x7f]", text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("call +49 (0)151 5550 0199 now", "+49 (0)151 5550 0199"),
        ("+4915155500199", "+4915155500199"),
        ("12+3456789", "+3456789"),
        ("(0151) 55500199", "0151) 55500199"),
        ("+(49) 151 5550", "49) 151 5550"),
    ],
)
def test_numbers_keep_the_sign_directly_before_them(text: str, found: str) -> None:
    """With country code or without, in brackets, after another number, at the beginning of a text."""
    assert found in set(identifiers_within(text))


def test_signs_in_brackets_are_read_in_every_bracket() -> None:
    """An address is read however its signs are written; a text without brackets is read as it is."""
    for text in ("anna (at) example.org", "anna[at]example[dot]org", "anna {AT} example { punkt } org"):
        assert "anna@example.org" in readings(text)
    assert readings("anna at example.org") == ("anna at example.org",)

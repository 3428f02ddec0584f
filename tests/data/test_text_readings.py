"""Readings of a text in which a person is searched for: how many there are, since each costs as much as the text."""

import pytest

from verify.data.text_readings import word_sequences

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

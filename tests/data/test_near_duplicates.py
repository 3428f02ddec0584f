"""Known texts that are at hand are compared without hashing what cannot be near, and with the same result."""

import random

import pytest

from verify.data.near_duplicates import SIMILAR, KnownTexts, NearDuplicates, shingles, signature

KEY = b"k" * 32
WORDS = [f"word{number}" for number in range(400)]


@pytest.mark.parametrize("seed", range(3))
def test_an_index_of_texts_finds_what_one_of_signatures_finds(seed: int) -> None:
    """Over copies with from none to all of the words changed, parts, other texts, and texts of a few words or none."""
    draw = random.Random(seed)
    known = {f"k{number}": " ".join(draw.choices(WORDS, k=60)) for number in range(3)} | {"short": "Two words", "one": "Alone"}
    others = ["", "...", "two, WORDS!", "alone", "Alone and more", *(" ".join(draw.choices(WORDS, k=60)) for _ in range(5))]
    for text in list(known.values()):
        for share in (0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6, 1):
            words = [draw.choice(WORDS) if draw.random() < share else word for word in text.split()]
            others += [" ".join(words), " ".join(words).upper(), " ".join(words[: len(words) // 2])]
    index = KnownTexts(known, KEY)
    plain = NearDuplicates({name: signature(shingles(text, KEY)) for name, text in known.items()})
    found = [index.find_all(text) for text in others]
    assert found == [plain.find_all(shingles(text, KEY)) for text in others]
    assert any(found)
    assert all(share >= SIMILAR for one in found for share in one.values())

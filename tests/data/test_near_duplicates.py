"""Known texts that are at hand are compared without hashing what cannot be near, and with the same result."""

import random

import pytest

from verify.data.near_duplicates import SIMILAR, KnownTexts, NearDuplicates, shingles, shingles_by_spaces, signature

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


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        ("诺拉住在港口老街十二号，去年春天因为一种罕见的肾病在汉森医生那里接受了治疗。", "去年", "前年"),
        ("野良さんは港の古い通りに住んでいて、昨年の春に珍しい腎臓病でハンセン先生の治療を受けました。", "昨年", "去年"),
        ("นอร่าอาศัยอยู่ที่ถนนท่าเรือเก่าและได้รับการรักษาโรคไตที่หายากเมื่อฤดูใบไม้ผลิปีที่แล้วโดยหมอแฮนเซน", "เก่า", "ใหม่"),
        (
            "노라 벨트는 오래된 항구 거리에 살고 있으며 작년 봄에 희귀한 신장 질환으로 한센 박사의 치료를 받았습니다.",
            "작년",
            "금년",
        ),
        (
            "Нора Вельт живёт на старой портовой улице и лечилась от редкой болезни почек весной у доктора Хансена в больнице.",
            "весной",
            "летом",
        ),
        (
            "Nora Velt lives in the old harbour street and was treated for a disease of the kidney by doctor Hansen in Brest.",
            "old",
            "new",
        ),
    ],
)
def test_a_word_or_what_nobody_sees_may_differ_in_every_script(text: str, one: str, other: str) -> None:
    """Found with another word, with invisible characters, full-width and look-alike letters; its beginning is another text."""
    index = KnownTexts({"known": text}, KEY)
    assert text.replace(one, other) != text
    assert index.find_all(text.replace(one, other)).keys() == {"known"}
    hidden = "".join(letter + "\u200b" * (place % 4 == 3) + "\u00ad" * (place % 9 == 8) for place, letter in enumerate(text))
    assert index.find_all(hidden) == {"known": 1.0}
    assert index.find_all(text.replace("a", "\u0430").replace("N", "\uff2e")) == {"known": 1.0}
    assert not index.find_all(text[: len(text) // 2])


def test_a_longer_text_that_contains_a_known_one_is_near_it() -> None:
    """Whole or with a word changed, among however much else; a part of it, a short phrase or its words in disorder are not."""
    draw = random.Random(0)
    known = " ".join(draw.choices(WORDS, k=40))
    others = " ".join(draw.choices(WORDS, k=400))
    index = KnownTexts({"known": known, "phrase": "as nobody had said before then"}, KEY)
    assert index.find_all(f"{others} {known} {others}") == {"known": 1.0}
    changed = f"{others} {known.replace(known.split()[0], 'changed', 1)} {others}"
    assert index.find_all(changed)["known"] == pytest.approx(37 / 38)
    assert not index.find_all(f"{others} {' '.join(known.split()[:30])} {others}")
    assert not index.find_all(f"{others} as nobody had said before then")
    assert not index.find_all(f"{others} {' '.join(draw.sample(known.split(), 40))}")


def test_signatures_of_before_are_of_words_between_spaces() -> None:
    """For a text in ASCII they are those of today, so that lists keep them; for another they are computed beside them."""
    plain, accented = "Nora Velt lives here, in No. 12", "Nora Velt, née Roe, lives here"
    assert shingles_by_spaces(plain, KEY) == shingles(plain, KEY)
    assert shingles_by_spaces(accented, KEY) == shingles(accented, KEY)
    assert shingles_by_spaces("诺拉住在港口老街", KEY) != shingles("诺拉住在港口老街", KEY)

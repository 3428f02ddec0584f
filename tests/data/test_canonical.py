"""Spellings of identifiers: the same by standard, perhaps the same, or different; known answers and laws."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verify.data.canonical import canonical, same, with_canonical_mails
from verify.data.likeness import REASONS, compare, levels, skeletons

MAIL = "ines.kolb@example.org"
SAME = [
    # mail addresses
    (MAIL, "Ines.Kolb@Example.org"),
    (MAIL, "INES.KOLB@EXAMPLE.ORG"),
    (MAIL, "mailto:ines.kolb@example.org"),
    (MAIL, "MAILTO:ines.kolb@example.org?subject=Hello"),
    (MAIL, "mailto:ines%2Ekolb@example.org"),
    (MAIL, '"Ines Kolb" <ines.kolb@example.org>'),
    (MAIL, "<Ines.Kolb@example.org>"),
    (MAIL, "  ines.kolb@example.org\n"),
    (MAIL, "ines.kolb@example.org."),
    (MAIL, "\ufeffines.kolb@example.org"),
    (MAIL, "ines.kolb@\u200bexample.org"),
    (MAIL, "ines.kolb@ex\u00adample.org"),
    (MAIL, '"ines.kolb"@example.org'),
    (MAIL, "ines.kolb@example\u3002org"),
    (MAIL, "ines.kolb@\uff45xample.org"),
    ("ines@localhost", "Ines@LOCALHOST"),
    ("m\u00fcller@b\u00fccher.example", "m\u00fcller@xn--bcher-kva.example"),
    ("m\u00fcller@b\u00fccher.example", "mu\u0308ller@bu\u0308cher.example"),
    ("m\u00fcller@b\u00fccher.example", "M\u00dcLLER@B\u00dcCHER.EXAMPLE"),
    ("info@b\u00fccher.example", "info@XN--BCHER-KVA.example"),
    ("user@\u4f8b\u5b50.example", "user@xn--fsqu00a.example"),
    ("@not an address", "@not  an address"),
    # names and other texts
    ("Jos\u00e9 Ortiz", "Jose\u0301 Ortiz"),
    ("Tam  O\u2019Dell", "Tam O\u2019Dell"),
    ("Tam\u00a0O\u2019Dell", "Tam O\u2019Dell"),
    ("Tam\tO\u2019Dell\u3000", "Tam O\u2019Dell"),
    ("\u200eTam\u200f", "Tam"),
    ("Tam\u2060my", "Tammy"),
    ("\u212aay", "Kay"),  # the Kelvin sign is canonically equivalent to K
    ("\u212bke", "\u00c5ke"),
    ("\u1112\u1161\u11ab", "\ud55c"),
    # telephone numbers with country code
    ("+49 151 5550 0199", "+4915155500199"),
    ("+49 151 5550 0199", "+49 (0)151 5550-0199"),
    ("+49 151 5550 0199", "tel:+49-151-5550-0199"),
    ("+1 (650) 253-0000", "+1.650.253.0000"),
    ("+1 650 253 0000 ext. 12", "+16502530000;ext=12"),
    # web addresses
    ("https://example.org", "HTTPS://Example.ORG/"),
    ("https://example.org/~ines", "https://example.org:443/%7Eines"),
    ("https://example.org/a%2fb", "https://example.org/a%2Fb"),
    ("https://b\u00fccher.example/", "https://xn--bcher-kva.example"),
    ("https://example.org/\u00fc", "https://example.org/%C3%BC"),
]
MAYBE = [
    (MAIL, "ines.kolb+news@example.org", "tag"),
    ("ines.kolb@gmail.com", "ineskolb@googlemail.com", "dots"),
    ("i.n.e.s@gmail.com", "ines+x@gmail.com", "dots"),
    ("m\u00fcller@example.org", "muller@example.org", "accents"),
    ("m\u00fcller@example.org", "mueller@example.org", "transliteration"),
    ("info@b\u00fccher.example", "info@buecher.example", "transliteration"),
    ("o\u2019dell@example.org", "o'dell@example.org", "apostrophe"),
    ("\u0456nes@example.org", "ines@example.org", "look-alike"),
    ("Nora Velt", "nora.velt@example.org", "name"),
    ("velt_nora+x@example.org", "Nora  Velt", "name"),
    ("Ines Kolb", "ines kolb", "case"),
    ("\uff29\uff4e\uff45\uff53", "Ines", "compatibility"),
    ("\ufb01nn", "finn", "compatibility"),
    ("Tam O\u2019Dell", "Tam O'Dell", "apostrophe"),
    ("Tam O\u2019Dell", "tam odell", "apostrophe"),
    ("Anna\u2010Lena", "Anna-Lena", "apostrophe"),
    ("Anna-Lena", "Anna Lena", "punctuation"),
    ("J. R. Kolb", "J R Kolb", "punctuation"),
    ("Anna Lena", "Annalena", "spacing"),
    ("M\u00fcller", "Muller", "accents"),
    ("M\u00fcller", "Mueller", "transliteration"),
    ("Stra\u00dfe", "Strasse", "accents"),
    ("STRASSE", "Stra\u00dfe", "accents"),
    ("S\u00f8ren \u0141uk", "Soren Luk", "accents"),
    ("I\u015f\u0131k", "Isik", "accents"),
    ("\u0130nes", "Ines", "accents"),
    ("Kolb, Ines", "Ines Kolb", "order"),
    ("K\u00f6lb, Ines", "Ines Koelb", "order"),
    ("\u0410nna", "Anna", "look-alike"),
    ("\u0645\u06cc\u200c\u0646\u0627", "\u0645\u06cc\u0646\u0627", "compatibility"),
    ("12", "12.0", "digits"),
    ("12", "0012", "digits"),
    ("1234", "1,234", "digits"),
    ("12", "1.2e1", "digits"),
    ("12", "\u0661\u0662", "digits"),
    ("0151 5550 0199", "0151/55500199", "digits"),
    ("0151 5550 0199", "+49 151 5550 0199", "digits"),
    ("0049 151 5550 0199", "+49 151 5550 0199", "digits"),
    ("https://example.org/ines", "http://www.example.org/ines/", "web"),
    ("www.example.org/ines", "https://example.org/ines#about", "web"),
]
DIFFERENT = [
    (MAIL, "ineskolb@example.org"),
    (MAIL, "ines.kolb@example.com"),
    (MAIL, "ines_kolb@example.org"),
    (MAIL, "ines.kolb2@example.org"),
    (MAIL, "kolb.ines@example.org"),
    (MAIL, "ines.kolb@mail.example.org"),
    (MAIL, "ines"),
    ("muller", "mueller"),
    ("ines", "inez"),
    ("person1", "person11"),
    ("12", "21"),
    ("12", "12.5"),
    ("1.5", "15"),
    ("0", "00 a"),
    ("listen@example.org", "silent@example.org"),
    ("Ann Marie", "Marian Ne"),
    ("+49 151 5550 0199", "+49 151 5550 0198"),
    ("https://example.org/a", "https://example.org/b"),
    ("stra\u00dfe@example.org", "strase@example.org"),
    ("\u0418\u0432\u0430\u043d", "Ivan"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_by_standard(one: str, other: str) -> None:
    """Spellings that a standard equates have one canonical form."""
    assert canonical(one) == canonical(other)
    assert compare(one, other).sameness == "same"


@pytest.mark.parametrize(("one", "other", "level"), MAYBE)
def test_perhaps_the_same(one: str, other: str, level: str) -> None:
    """No standard equates them, and the level that does says why, in both directions."""
    assert not same(one, other)
    for comparison in (compare(one, other), compare(other, one)):
        assert (comparison.sameness, comparison.level) == ("maybe", level)
    assert level in REASONS


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different(one: str, other: str) -> None:
    """Near misses are neither merged nor proposed."""
    assert compare(one, other).sameness == compare(other, one).sameness == "different"


def test_near_misses_are_never_merged() -> None:
    """Of all spellings that are not one by the table above, no two have one canonical form."""
    hard = [*(one for one, _, _ in MAYBE), *(other for _, other, _ in MAYBE), *(name for pair in DIFFERENT for name in pair)]
    hard.remove("Nora  Velt")  # its white space alone differs
    spelled = dict.fromkeys(hard)
    assert len({canonical(name) for name in spelled}) == len(spelled)


ALPHABET = (
    "aAbBiIsSkK0159.+-_@ <>:/%\"'()#?"
    "\u00e4\u00c4\u00df\u0131\u0130\u212a\u0308\u200b\u00ad\ufb01\uff21\u0430\u3002\u00a0\u2019\u0661"
)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SPELLED = st.one_of(
    st.text(max_size=20),
    st.text(ALPHABET, max_size=16),
    st.builds("{}@{}.{}".format, *[st.text(ALPHABET, min_size=1, max_size=6)] * 3),
    st.builds("+{}".format, st.text("0123456789 ()-./x", max_size=18)),
    st.builds("https://{}/{}".format, st.text(ALPHABET, min_size=1, max_size=8), st.text(ALPHABET, max_size=8)),
    st.sampled_from([name for row in (*SAME, *MAYBE, *DIFFERENT) for name in row[:2]]),
)
NESTED = st.one_of(
    SPELLED,
    st.builds(
        "{}{}".format, st.sampled_from(["mailto:", "MAILTO:mailto:", "mailto:%6Dailto:", "mailto:http://@", "mailto:+"]), SPELLED
    ),
    st.builds("N <{}{}>".format, st.sampled_from(["", "mailto:", "mailto:mailto:", "https://@"]), SPELLED),
)


@PATIENT
@given(NESTED)
def test_canonical_is_idempotent(text: str) -> None:
    """A canonical form is its own canonical form; so sameness, equality of forms, is an equivalence relation."""
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("mailto:mailto:A@x.de", "a@x.de"),
        ("mailto:" * 100_000 + "a@x.de", "a@x.de"),
        ("mailto:mailto%3Aa@x.de?subject=b", "a@x.de"),
        ("mailto:http://@X.de", "http://x.de/"),
        ("Ann <http://@x.de>", "http://x.de/"),
        ("mailto:Ann", "mailto:Ann"),
    ],
)
def test_a_scheme_is_removed_as_often_as_it_occurs(text: str, form: str) -> None:
    """What remains is read as if it had been given alone."""
    assert canonical(text) == canonical(form) == form


@PATIENT
@given(SPELLED)
def test_space_forms_and_marks_around_do_not_count(text: str) -> None:
    """Surrounding white space, a byte order mark and the normalization form of the input change nothing."""
    for other in (f" {text}\n", f"\ufeff{text}", unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text)):
        assert same(text, other)


@PATIENT
@given(SPELLED, SPELLED, SPELLED)
def test_comparison_laws(one: str, other: str, third: str) -> None:
    """Sameness is reflexive, symmetric and transitive; likeness is symmetric and depends on the canonical form alone."""
    assert compare(one, one).sameness == "same"
    assert compare(one, other) == compare(other, one)
    assert compare(canonical(one), other) == compare(one, other)
    if same(one, other) and same(other, third):
        assert same(one, third)


@PATIENT
@given(SPELLED, SPELLED)
def test_skeletons_miss_nothing(one: str, other: str) -> None:
    """Two identifiers whose chains agree anywhere share a skeleton: looking up by skeletons finds all that comparing finds."""
    if compare(one, other).sameness == "maybe":
        assert skeletons(one) & skeletons(other)


@pytest.mark.parametrize(("one", "other"), [row[:2] for row in MAYBE])
def test_skeletons_of_known_pairs(one: str, other: str) -> None:
    """The law above, on the pairs that matter."""
    assert skeletons(one) & skeletons(other)


def test_nothing_visible_is_nobody() -> None:
    """An identifier of invisible characters alone has an empty form, and resembles nobody."""
    for text in ("", "  ", "\ufeff", "\u200b\u00ad", "\u200e \u200f"):
        assert canonical(text) == ""
        assert not levels(text)
        assert not skeletons(text)


def test_addresses_in_texts() -> None:
    """Every address in a text takes its canonical form; the rest stays."""
    assert with_canonical_mails("Write to INES@B\u00fccher.example, NOW") == "Write to ines@xn--bcher-kva.example, NOW"
    assert with_canonical_mails("Me @ home") == "Me @ home"


def test_a_web_form_of_marks_alone_is_like_nothing() -> None:
    """`://` has neither letters nor digits: no other text is like it, as no skeleton would find the pair."""
    assert compare("://:", "://:#").sameness != "maybe"
    assert skeletons("://:") == skeletons("://:#") == frozenset()

"""Similar identifiers: spellings that no standard equates and that may still be the same person's, for a human to decide.

An identifier has a chain of increasingly coarse forms, each labelled with the difference it ignores. The first level at which two
chains agree says how the identifiers differ. All comparisons are equalities, so keyed hashes of the forms can replace the forms:
neither ledger nor suppression list needs the identifier itself.

To look up one of a million identifiers, its `skeletons` are enough: two identifiers with a common form share a skeleton. Skeletons
are a filter only, since anagrams share them too.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Literal
from urllib.parse import unquote

import idna
import phonenumbers

from verify.data.canonical import IGNORED, canonical, is_mail

REASONS = {
    "compatibility": "differs by compatibility characters (full width, ligatures, joiners)",
    "case": "differs by upper and lower case",
    "tag": "differs by a tag after + in the mail address",
    "dots": "differs by dots in the mail address, which its provider ignores",
    "apostrophe": "differs by typographic apostrophes or dashes",
    "punctuation": "differs by punctuation",
    "accents": "differs by accents or special letters",
    "transliteration": "differs by umlauts written with two letters",
    "letters": "differs by letters that Arabic script has in several forms, or by lengthened ones",
    "spacing": "differs by missing or added spaces",
    "order": "differs by the order of the words",
    "look-alike": "differs by look-alike letters of another script",
    "digits": "is another form of a number, or a telephone number without country code",
    "web": "differs by scheme, www., fragment or trailing slash of a web address",
    "name": "is a mail address made of the name, or the name in a mail address",
    "mention": "stands in the record's text",
    "local part": "has the name of which the requested mail address is made",
    "elsewhere": "stands inside a longer identifier, or in a column that is not read as text or subject",
    "linked": "has a name or identifier that stands beside the requested one, in this row or another",
    "column": "stands in the name of a column that the row has a value in",
}
"""Reasons why two identifiers may be the same, by the level at which their forms agree. "mention", "elsewhere" and "column" are
for texts, other columns and their names, "local part" for names in texts; "linked" is for `unlearn.scan.linking`."""

_IGNORES_DOTS = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}
_JOINERS = dict.fromkeys((0x200C, 0x200D))
_HIDDEN = re.compile("[" + "".join(map(chr, (*IGNORED, *_JOINERS))) + "]")
_APOSTROPHES = dict.fromkeys(map(ord, "'\u2019\u2018\u02bc\u02bb`\u00b4\u2032\u201b\uff07"))
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-")
_SPECIAL = str.maketrans(
    {"\u00e6": "ae", "\u0153": "oe", "\u00df": "ss", "\u00fe": "th", "\u00f0": "d", "\u0111": "d", "\u0142": "l"}
    | {"\u00f8": "o", "\u0131": "i", "\u0127": "h", "\u0167": "t"}
)
"""Letters that Unicode does not decompose, and their usual base letters."""
_TWO_LETTERS = str.maketrans({"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue", "\u00e5": "aa", "\u00f8": "oe"})
_ARABIC = str.maketrans(
    {"\u0640": None, "\u0671": "\u0627", "\u0649": "\u064a", "\u06cc": "\u064a", "\u0629": "\u0647", "\u06c1": "\u0647"}
    | {"\u06be": "\u0647", "\u06c3": "\u0647", "\u06a9": "\u0643"}
)
"""Letters of Arabic script that one keyboard or country has for those of another, and the stroke that lengthens a word."""
_IS_ARABIC = re.compile("[\u0600-\u06ff]")
HUMPED = re.compile(r"[^\x00-/:-@\[-\x7f](?:(?<=[a-z][A-Z])|(?<=[A-Za-z][0-9])|(?<=[^\x00-\x7f]))")
"""What a text contains if `humps_apart` may divide a word of it; a search tries only capitals, digits and letters beyond ASCII."""
_CYRILLIC = "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0458\u0455\u0501\u04bb\u051b\u051d\u0432\u043a\u043c\u043d\u0442"
_GREEK = "\u03b1\u03bf\u03c1\u03b9\u03c5\u03bd\u03ba\u03c4\u03c7\u03b2\u03b5"
_LOOK_ALIKE = str.maketrans(_CYRILLIC + _GREEK, "aceopxyijsdhqwbkmht" + "aopiuvktxbe")
"""Cyrillic and Greek letters with a case that is confusable with a Latin letter (from UTS #39, confusables.txt)."""
_GREEK_OR_CYRILLIC = re.compile("[\u0370-\u052f]")
_BARE_WEB = re.compile(r"(?:www\.)?[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}(?:/\S*)?", re.IGNORECASE)
_NUMERIC = re.compile(r"[+-]?[0-9 ().,'\u2019/-]*[0-9][0-9 ().,'\u2019/-]*(?:e[+-]?[0-9]{1,2})?", re.IGNORECASE)
_DECIMAL = re.compile(r"[+-]?[0-9]+(?:[.,](?:[0-9]{1,2}|0+))?(?:e[+-]?[0-9]{1,2})?", re.IGNORECASE)
_E164 = re.compile(r"\+[0-9]{5,17}(?:;ext=[0-9]+)?")
_DIALLED_ABROAD = re.compile(r"(?:00|011)([1-9][0-9]{6,})")
_SHORTEST_NATIONAL = 7
_WITHOUT_PLUS = re.compile(r"[1-9][0-9]{9,14}")
"""A whole number that may be a telephone number with country code, stored as a number or without its plus sign."""
_WORD = re.compile(r"[^\W_]+")
_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han have no spaces between words; to Korean words particles are attached."""
_UNSPACED = re.compile(f"[{_SCRIPTS}]|[^{_SCRIPTS}]+")
_IS_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())
_MAIL_WITHIN = re.compile(r"[\w.!#$%&*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_TITLES = frozenset(
    {"dr", "prof", "mr", "mrs", "ms", "miss", "sir", "herr", "frau", "monsieur", "madame", "mme", "mlle", "senor", "senora"}
    | {"don", "dona", "ing", "dipl", "phd", "md", "jr", "sr"}
)
"""Forms of address and degrees, folded: one record gives them and another does not."""
SHORTEST_MENTION = 5
"""Smallest number of letters of a single word that is searched for in texts; shorter ones occur in too many."""

Level = tuple[str, str]
"""The ignored difference (a key of `REASONS`, for names with a side) and the form without it."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two spellings: whether they denote the same person, and why.

    Attributes:
        sameness: "same" by a standard, "maybe" for a human to decide, or "different".
        level: for "maybe", a key of `REASONS`; otherwise None.
    """

    sameness: Literal["same", "maybe", "different"]
    level: str | None = None


def compare(one: str, other: str) -> Comparison:
    """Compare two identifiers, first by canonical form, then by similarity."""
    if canonical(one) == canonical(other):
        return Comparison("same")
    theirs = set(levels(other))
    level = next((entry for entry in levels(one, sought=True) if entry in theirs), None)
    return Comparison("different") if level is None else Comparison("maybe", reason_of(level[0]))


def reason_of(level: str) -> str:
    """Return the key of `REASONS` for a level: both directions of "name" have the same reason."""
    return level.partition(" ")[0]


def levels(identifier: str, *, sought: bool = False) -> tuple[Level, ...]:
    """Return increasingly coarse forms of an identifier, the finest first; none for one without visible characters.

    Args:
        identifier: in any spelling.
        sought: whether the forms are for a query rather than for the index. They differ in one respect: a name is similar to a mail
            address made of it, but two addresses are not similar because they are made of the same name.
    """
    text = canonical(identifier)
    if is_mail(text):
        return (*_mail_levels(text), *_names_of(text, mail=True, sought=sought))
    if digits := _digit_forms(text):
        return tuple(("digits", form) for form in digits)
    return (*_web_levels(text), *_name_levels(text), *_names_of(text, mail=False, sought=sought))


def skeletons(identifier: str) -> frozenset[str]:
    """Return the forms by which an identifier is looked up: two identifiers with a common level share a skeleton."""
    return skeletons_of_form(canonical(identifier))


def skeletons_of_form(text: str) -> frozenset[str]:
    """Return the skeletons of an identifier that is already in canonical form."""
    mail = is_mail(text)
    base = _mailbox(text)[0] if mail else text  # a name is compared with local parts
    if mail and base.isascii():
        letters = _sorted_letters(base)
        return frozenset((letters,)) if letters else frozenset()
    found = {_sorted_letters(form) for form in foldings(base)}
    if not mail and not base.isalpha():
        found.update(_digit_forms(text))
        if "/" in text or text.startswith("www."):
            found.update(_sorted_letters(form) for _, form in _web_levels(text))
    return frozenset(found - {""})


def mentions(identifier: str) -> frozenset[tuple[str, ...]]:
    """Return the word sequences by which a folded text mentions the identifier; none if they are too common to identify anybody."""
    text = canonical(identifier)
    own = {tuple(words_of(form)) for form in foldings(text)}
    own |= {tuple(letters_apart(run)) for run in own}
    others = {tuple(words_of(form)) for piece in _pieces(text) for form in foldings(piece)} | set(map(without_titles, own))
    if not is_mail(text):
        others |= {tuple(word for word in words_of(form) if word.isalpha()) for form in foldings(humps_apart(text))}
        others |= {other for run in own | others for other in rearranged(run)}
    # Short parts of an identifier, "e x" for instance, occur in too many texts.
    long = {run for run in others if sum(map(len, run)) >= SHORTEST_MENTION}
    sure = (run for run in own | long if run)
    return frozenset(run for run in sure if len(run) > 1 or (len(run[0]) >= SHORTEST_MENTION and not run[0].isdigit()))


def letters_apart(words: Sequence[str]) -> list[str]:
    """Return folded words with every letter of a script without spaces between words as a word of its own."""
    return [part for word in words for part in (_UNSPACED.findall(word) if _IS_UNSPACED.search(word) else [word])]


def rearranged(run: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return a name with its last word first or its first word last, as in `Velt, Nora`; a number with letters without spaces."""
    if len(run) < 2:
        return set()
    return {run[-1:] + run[:-1], run[1:] + run[:1]} if all(map(str.isalpha, run)) else {("".join(run),)}


def without_titles(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a name without titles and initials; unchanged if fewer than two words would be left."""
    left = tuple(word for word in words if word not in _TITLES and not (len(word) == 1 and word.isascii() and word.isalpha()))
    return left if len(left) > 1 else words


def is_full_name(text: str) -> bool:
    """Return whether a text may be a whole name: two words besides titles and initials, or letters of an unspaced script."""
    words = letters_apart(words_of(foldings(humps_apart(text))[0]))
    own = [word for word in words if word.isalpha() and word not in _TITLES and (len(word) > 1 or not word.isascii())]
    return len(own) > 1


def _pieces(identifier: str) -> frozenset[str]:
    """Return what else may name the person: the text percent-decoded, its mail addresses, what stands beside them, misreadings."""
    whole = unquote(identifier) if "%" in identifier else identifier
    mails = [] if is_mail(identifier) else _MAIL_WITHIN.findall(whole)
    beside = re.split(r"[,;|()<>\"]+", _MAIL_WITHIN.sub("|", whole)) if mails else []
    return frozenset({whole, *map(canonical, mails), *beside, *_misread(whole)})


def _misread(text: str) -> frozenset[str]:
    """Return a text as data have it that were decoded as another encoding than UTF-8, or whose letters were replaced."""
    if text.isascii():
        return frozenset()
    stored = text.encode(errors="replace")
    as_western = "".join(stored[index : index + 1].decode("cp1252", "replace") for index in range(len(stored)))
    replaced = "".join(letter if letter.isascii() else "\ufffd" for letter in text)
    return frozenset({as_western, stored.decode("latin-1"), replaced})


def foldings(text: str) -> tuple[str, ...]:
    """Fold case, accents and compatibility characters; further texts have umlauts as two letters and one form of Arabic letters."""
    unaccented = _unaccented(_compatible(text))
    return unaccented if text.isascii() else tuple(dict.fromkeys((*unaccented, *map(_one_form, unaccented))))


def humps_apart(text: str) -> str:
    """Return a text with words such as `annaSchmidt92` divided: before a capital after a small letter, and before a digit."""
    return _WORD.sub(_hump_apart, without_apostrophes(text)) if HUMPED.search(text) else text


def _hump_apart(found: re.Match[str]) -> str:
    word = found[0]
    if (word.isalpha() and (word.islower() or word.istitle() or word.isupper())) or word.isdigit():
        return word
    cuts = [end for end, (a, b) in enumerate(pairwise(word), 1) if (a.islower() and b.isupper()) or (a.isalpha() and b.isdigit())]
    return " ".join(word[start:end] for start, end in zip([0, *cuts], [*cuts, len(word)], strict=True))


def _one_form(folded_text: str) -> str:
    """Return a text with one form of each letter that Arabic script has in several; other texts unchanged."""
    return folded_text.translate(_ARABIC) if _IS_ARABIC.search(folded_text) else folded_text


def words_of(folding: str) -> list[str]:
    """Return the words of a folded text; an apostrophe does not end a word."""
    return _WORD.findall(without_apostrophes(folding))


def without_apostrophes(text: str) -> str:
    """Return a text without apostrophes, in whatever form, and signs that stand for one."""
    return text.translate(_APOSTROPHES)


def _compatible(text: str) -> str:
    """Apply NFKC with case folding (UAX #15, toNFKC_Casefold), without joiners."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(_JOINERS)).casefold())


def _unaccented(folded_text: str) -> tuple[str, ...]:
    """Remove accents from a folded text; a second text has umlauts as two letters, where that differs."""
    if folded_text.isascii():
        return (folded_text,)
    return tuple(dict.fromkeys((_base_letters(folded_text), _base_letters(folded_text.translate(_TWO_LETTERS)))))


def as_read(text: str) -> str:
    """Return a text as its reader sees it: without differences of case, white space, invisible and look-alike characters.

    Texts with the same form differ in nothing that a reader would notice, so that a model that was trained on one knows the other.
    """
    return " ".join(visible_letters(text).translate(_APOSTROPHES).translate(_DASHES).split())


def visible_letters(text: str) -> str:
    """Return a text in lower case without invisible characters, compatible forms of a letter and look-alikes of Latin letters."""
    seen = unicodedata.normalize("NFKC", text.translate(IGNORED).translate(_JOINERS) if _HIDDEN.search(text) else text).lower()
    return seen.translate(_LOOK_ALIKE) if _GREEK_OR_CYRILLIC.search(seen) else seen


def _base_letters(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(_SPECIAL))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _sorted_letters(text: str) -> str:
    """Sort the letters and digits of an unaccented text."""
    if text.isascii():
        return bytes(sorted(text.lower().encode().translate(None, _NO_LETTERS))).decode()
    return "".join(sorted(letter for letter in text.translate(_APOSTROPHES).translate(_LOOK_ALIKE) if letter.isalnum()))


def _name_levels(text: str) -> tuple[Level, ...]:
    """Return the levels of a name or any other text that is not an address or number."""
    compatible = unicodedata.normalize("NFKC", text.translate(_JOINERS))
    lower = compatible.lower()  # case folding would turn a sharp s into ss, which is more than a difference in case
    found = [("compatibility", compatible), ("case", lower)]
    found += [("apostrophe", lower.translate(_APOSTROPHES).translate(_DASHES)), ("punctuation", " ".join(_marked_words(lower)))]
    unaccented = _unaccented(_compatible(text))
    found += [("accents", " ".join(words_of(unaccented[0]))), ("transliteration", " ".join(words_of(unaccented[-1])))]
    found += [("letters", " ".join(words_of(_one_form(form)))) for form in unaccented if _IS_ARABIC.search(form)]
    plain = [words_of(form) for form in foldings(text)]
    found += [("spacing", "".join(words)) for words in plain]
    found += [("order", " ".join(sorted(words))) for words in plain]
    found += [("look-alike", " ".join(sorted(word.translate(_LOOK_ALIKE) for word in words))) for words in plain]
    # A form without letters or digits (of a name of dots alone) would match any other such form.
    return tuple(level for level in dict.fromkeys(found) if any(letter.isalnum() for letter in level[1]))


def _marked_words(text: str) -> list[str]:
    """Return words with their accents, including combining marks that do not compose with their letter."""
    kept = (letter if letter.isalnum() or unicodedata.combining(letter) else " " for letter in text.translate(_APOSTROPHES))
    return "".join(kept).split()


def _mailbox(text: str) -> tuple[str, str]:
    """Return local part and domain of the mailbox: without tag, and without dots if the provider ignores them."""
    local, _, domain = text.rpartition("@")
    untagged = local.partition("+")[0] or local
    if domain in _IGNORES_DOTS:
        return untagged.replace(".", ""), _IGNORES_DOTS[domain]
    return untagged, domain


def _mail_levels(text: str) -> tuple[Level, ...]:
    local, _, domain = text.rpartition("@")
    mailbox, provider = _mailbox(text)
    folded_text = _compatible(f"{mailbox}@{_readable(provider)}")
    plain = _unaccented(folded_text)
    found = [("tag", f"{local.partition('+')[0] or local}@{domain}"), ("dots", f"{mailbox}@{provider}")]
    found += [("compatibility", folded_text), ("apostrophe", folded_text.translate(_APOSTROPHES).translate(_DASHES))]
    found += [("accents", plain[0].translate(_APOSTROPHES)), ("transliteration", plain[-1].translate(_APOSTROPHES))]
    found += [("look-alike", form.translate(_APOSTROPHES).translate(_LOOK_ALIKE)) for form in plain]
    return tuple(dict.fromkeys(found))


def _readable(domain: str) -> str:
    """Return a domain in Unicode, decoded from its A-labels where possible."""
    if "xn--" not in domain:
        return domain
    try:
        return idna.decode(domain)
    except UnicodeError:
        return domain


def _names_of(text: str, *, mail: bool, sought: bool) -> tuple[Level, ...]:
    """Return the sorted words of a name, or of a local part such as `nora.velt`; none if there are fewer than two, or digits."""
    own = text.rpartition("@")[0].partition("+")[0] if mail else text
    if own.isalnum():
        return ()
    side = "mail" if mail != sought else "text"
    words = (words_of(form) for form in _unaccented(_compatible(own)))
    names = (" ".join(sorted(found)) for found in words if len(found) > 1 and all(word.isalpha() for word in found))
    return tuple((f"name {side}", name) for name in dict.fromkeys(names))


def _digit_forms(text: str) -> tuple[str, ...]:
    """Return the digits of a number or telephone number without separators, leading zeros, decimal zeros and country code."""
    if _E164.fullmatch(text):
        return _national(text.partition(";")[0])
    plain = text if text.isascii() else "".join(str(unicodedata.decimal(letter, letter)) for letter in text.translate(_DASHES))
    if not _NUMERIC.fullmatch(plain):
        return ()
    if _DECIMAL.fullmatch(plain) and not plain.isdigit():
        value = _value(plain.replace(",", "."))
        return (value, *(_national(f"+{value}") if _WITHOUT_PLUS.fullmatch(value) else ()))
    digits = "".join(letter for letter in plain if letter.isdigit())
    abroad = _DIALLED_ABROAD.fullmatch(digits)
    number = abroad[1] if abroad else digits if _WITHOUT_PLUS.fullmatch(digits) else ""
    return (digits.lstrip("0") or "0", *(_national(f"+{number}") if number else ()))


def _value(decimal: str) -> str:
    value = Decimal(decimal).normalize()
    return f"{value:f}".removeprefix("+")


def _national(number: str) -> tuple[str, ...]:
    """Return the national part of a telephone number in E.164; none if it is too short to identify anybody."""
    try:
        found = str(phonenumbers.parse(number).national_number)
    except phonenumbers.NumberParseException:
        return ()
    return (found,) if len(found) >= _SHORTEST_NATIONAL else ()


def _web_levels(text: str) -> tuple[Level, ...]:
    address = text if "://" in text else f"https://{text}" if "." in text and _BARE_WEB.fullmatch(text) else ""
    _, found, rest = canonical(address).partition("://")
    form = rest.partition("#")[0].removeprefix("www.").rstrip("/")
    # As for names: a form without letters or digits (of `://` alone) would match any other such form.
    return (("web", form),) if found and any(letter.isalnum() for letter in form) else ()

"""Readings of a text in which a person may be named: marked up, escaped, obfuscated, without spaces, with initials.

A text names a person in more ways than a column does. A person to whom we say that nothing was found must not be in the data as
`Nora M. Velt`, in a script without spaces between words, or behind `&uuml;`. The readings are compared as hashes of runs of words
(`unlearn.scan.spellings`); numbers and mail addresses are compared as whole identifiers.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

from verify.data.canonical import clean
from verify.data.likeness import HUMPED, SHORTEST_MENTION, foldings, humps_apart, letters_apart, without_apostrophes, words_of

MOST_GROUPS = 6
"""Largest number of groups of digits that are read as one number, such as +49 (0)151 5550 0199."""
BESIDE = 3
"""Number of words on either side of a divided word that may belong to the same name."""
_TAG = re.compile(r"<[^<>]{1,200}>")
_ESCAPES = re.compile(r"(?:\\u[0-9A-Fa-f]{4})+")
_AT = re.compile(r"\s?[(\[{]\s?at\s?[)\]}]\s?", re.IGNORECASE)
_DOT = re.compile(r"\s?[(\[{]\s?(?:dot|punkt|point|punto)\s?[)\]}]\s?", re.IGNORECASE)
_MAIL = re.compile(r"[\w.!#$%&*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")
_NUMBER = re.compile(r"[0-9]+(?:[ ().,/\u2010-\u2015\u2212-]{1,3}[0-9]+)*")
_DIGIT = re.compile(r"[^\D0-9]")
_HANDLE = re.compile(r"(?<![\w.])[@#](\w[\w.-]{6,60}\w)")
"""A handle or tag of at least eight characters; shorter ones that are two words of a name are words of their own too often."""
_GROUP = re.compile(r"\+?[0-9]+")


@lru_cache(maxsize=16)  # of the row at hand, whose texts are read for words, and again for identifiers
def readings(text: str) -> tuple[str, ...]:
    """Return a text, and its form without markup, escapes and obfuscated signs where that differs."""
    plain = clean(text)
    decoded = _ESCAPES.sub(_unescaped, plain) if "\\u" in plain else plain
    if "<" in decoded or "&" in decoded:
        decoded = html.unescape(_TAG.sub(" ", decoded))
    if "%" in decoded:
        decoded = unquote(decoded)
    if "(" in decoded or "[" in decoded or "{" in decoded:
        decoded = _DOT.sub(".", _AT.sub("@", decoded))
    return (plain,) if decoded == plain else tuple(dict.fromkeys((plain, clean(decoded))))


def word_sequences(text: str) -> Iterator[list[str]]:
    """Yield the folded words of every reading; where that differs also without initials, and with unspaced letters one by one.

    Words such as `annaSchmidt` are also read as two, together with the words beside them.
    """
    whole = readings(text)
    for form in dict.fromkeys(form for reading in (*whole, *_humped(whole[-1])) for form in foldings(reading)):
        words = words_of(form)
        yield words
        named = [word for word in words if len(word) > 1 or not (word.isascii() and word.isalpha())]
        if len(named) < len(words):
            yield named
        if not form.isascii() and len(apart := letters_apart(words)) > len(words):
            yield apart


def _humped(text: str) -> Iterator[str]:
    """Yield every word that `humps_apart` divides, divided, with the words beside it."""
    # An apostrophe that a word loses divides nothing; every such word would be read with its neighbours once more.
    words = without_apostrophes(text).split() if HUMPED.search(text) else []
    for place, word in enumerate(words):
        if (apart := humps_apart(word)) != word:
            yield " ".join((*words[max(0, place - BESIDE) : place], apart, *words[place + 1 : place + 1 + BESIDE]))


def identifiers_within(text: str) -> Iterator[str]:
    """Yield a text's mail addresses, @handles and #tags, and numbers of `SHORTEST_MENTION` digits and more in every grouping."""
    for reading in map(_with_plain_digits, readings(text)):
        yield from (found[1] for found in _HANDLE.finditer(reading)) if "@" in reading or "#" in reading else ()
        yield from (found[0] for found in _MAIL.finditer(reading)) if "@" in reading else ()
        for number in _NUMBER.finditer(reading):
            # The sign is looked for here: a pattern that may begin with it is tried at every letter.
            found = reading[number.start() - reading.startswith("+", max(0, number.start() - 1)) : number.end()]
            groups = [(group.start(), group.end()) for group in _GROUP.finditer(found)]
            for first, (start, _) in enumerate(groups):
                for _, end in groups[first : first + MOST_GROUPS]:
                    if sum(map(str.isdigit, found[start:end])) >= SHORTEST_MENTION:
                        yield found[start:end]


def _with_plain_digits(text: str) -> str:
    """Return a text with the digits of every script as 0 to 9."""
    return text if text.isascii() else _DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)


def _unescaped(found: re.Match[str]) -> str:
    """Decode JSON escapes; half of a surrogate pair becomes a replacement character."""
    units = bytes.fromhex(found[0].replace("\\u", ""))
    return units.decode("utf-16-be", "replace")

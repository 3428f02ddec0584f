"""Keyed hashes that match a person's identifier across different spellings.

A request stores hashes of its identifiers' canonical forms (certainly the same person) and tokens, LEVEL:HASH, of their coarser
forms and of the runs of words that name them in texts (perhaps the same person). The data's own identifiers are reduced to the same
forms and hashed with the same key: neither the ledger nor a suppression list contains an identifier.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unlearn.scan.address_names import names_in_address
from verify.data.canonical import canonical
from verify.data.identity import RecordKey
from verify.data.likeness import (
    REASONS,
    SHORTEST_MENTION,
    levels,
    mentions,
    reason_of,
    skeletons,
    skeletons_of_form,
    without_titles,
)
from verify.data.records import Record
from verify.data.text_readings import identifiers_within, word_sequences

TOKENS_FORM = 3
"""Version of what `likenesses` makes. Version 2 has no names of which a mail address is made; version 1 has neither these nor names
in another order or with initials, scripts without spaces, and numbers in another grouping."""
SKELETON, FIRST_WORD, WORDS, OF_ADDRESS = "skeleton", "first word", "words", "of an address"
LONGEST_CACHE = 1 << 13
"""Size of the lookup caches, in identifiers or words; nearby rows repeat them, and memory stays bounded."""
MOST_WORDS = 1 << 16
"""Largest number of words that are known to begin no requested run, about 8 MiB."""
LONGEST_VALUE = 500
"""Largest number of characters of a value that is compared as a whole; longer ones are only searched for mentions."""


def subject_hashes(identifiers: Iterable[str], key: RecordKey) -> tuple[str, ...]:
    """Return keyed hashes of the canonical form of identifiers, without duplicates and empty ones."""
    return tuple(dict.fromkeys(key.of_person(identifier) for identifier in identifiers if canonical(identifier)))


def likenesses(identifiers: Iterable[str], key: RecordKey, *, in_texts: bool = True) -> tuple[str, ...]:
    """Compute tokens that recognize similar spellings of identifiers and, with `in_texts`, texts that mention them."""
    found: list[str] = []
    for identifier in dict.fromkeys(map(canonical, identifiers)):
        found += (_token(key, SKELETON, form) for form in sorted(skeletons(identifier)))
        found += (_token(key, level, form) for level, form in levels(identifier, sought=True))
        for run in sorted(mentions(identifier)) if in_texts else ():
            found += (_token(key, FIRST_WORD, run[0]), _token(key, f"{len(run)} {WORDS}", " ".join(run)))
        for run in sorted(names_in_address(identifier)) if in_texts else ():
            found += (_token(key, FIRST_WORD, run[0]), _token(key, f"{len(run)} {WORDS} {OF_ADDRESS}", " ".join(run)))
    return tuple(dict.fromkeys(found))


def is_of_texts(token: str) -> bool:
    """Return whether a token recognizes a mention in a text rather than an identifier."""
    level = token.partition(":")[0]
    return level == FIRST_WORD or level.endswith((f" {WORDS}", f" {OF_ADDRESS}"))


def _is_of_address(token: str) -> bool:
    return token.partition(":")[0].endswith(OF_ADDRESS)


def _token(key: RecordKey, level: str, form: str) -> str:
    """Hash with keyed BLAKE2b (RFC 7693), three times as fast as an HMAC: a lookup hashes every identifier of the data."""
    digest = hashlib.blake2b(f"{level}\x00{form}".encode(), digest_size=16, key=key.secret)
    return f"{level}:{digest.hexdigest()}"


@dataclass(frozen=True)
class Likeness:
    """How a record's subject or text resembles a requested person.

    Attributes:
        reason: a key of `verify.data.likeness.REASONS`.
        tokens: the matched tokens.
    """

    reason: str
    tokens: frozenset[str]


def why(reason: str) -> str:
    """Describe a likeness in words."""
    return REASONS[reason]


class Person(NamedTuple):
    """An identifier in the data.

    Attributes:
        names: keyed hashes that the person may be stored under, the canonical one first.
        likeness: resemblance to a requested person, or None; also set where the canonical forms are equal.
    """

    names: tuple[str, ...]
    likeness: Likeness | None


class Lookup:
    """Lookup of the data's subjects and texts among the tokens of requests or of a suppression list."""

    def __init__(self, tokens: Collection[str], key: RecordKey) -> None:
        self._tokens, self._key = frozenset(tokens), key
        self._any = any(token.startswith(f"{SKELETON}:") for token in self._tokens)
        lengths = {token.partition(":")[0] for token in self._tokens}
        self._lengths: dict[int, list[str]] = {}
        for level in sorted(level for level in lengths if level.endswith((f" {WORDS}", f" {OF_ADDRESS}"))):
            self._lengths.setdefault(int(level.split()[0]), []).append(level)
        self._known: dict[str, Person] = {}
        self._subjects: dict[str, Person] = {}
        self._others: set[str] = set()
        """Words with which no requested run begins."""
        self._columns: dict[str, Likeness | None] = {}

    @property
    def seeks(self) -> bool:
        """Whether any token recognizes an identifier or a mention."""
        return self._any or bool(self._lengths)

    def people(self, record: Record) -> tuple[Person, ...]:
        """Look up every person that a record is about, also a requested one within a longer identifier, as in `Dr. Nora Velt`."""
        return tuple(map(self._subject, record.subjects))

    def _subject(self, identifier: str) -> Person:
        """Look up a subject of the data, with a cache for repeated ones."""
        if (known := self._subjects.get(identifier)) is not None:
            return known
        if len(self._subjects) >= LONGEST_CACHE:
            self._subjects.clear()
        person = self.person(identifier)
        if person.likeness is None and self.seeks:
            person = person._replace(likeness=self.beside(identifier))
        self._subjects[identifier] = person
        return person

    def person(self, identifier: str) -> Person:
        """Look up one identifier of the data, with a cache for repeated ones."""
        if (known := self._known.get(identifier)) is not None:
            return known
        if len(self._known) >= LONGEST_CACHE:
            self._known.clear()
        form = canonical(identifier)
        likeness = self._compared(form) if self._any else None
        found = self._known[identifier] = Person(self._key.names_of_form(form, identifier), likeness)
        return found

    def _compared(self, identifier: str) -> Likeness | None:
        """Compare a canonical identifier with the tokens: the cheap skeletons first, then every level, strictest first."""
        for form in skeletons_of_form(identifier):
            if _token(self._key, SKELETON, form) in self._tokens:
                break
        else:
            return None
        own = [(level, _token(self._key, level, form)) for level, form in levels(identifier)]
        matched = [(level, token) for level, token in own if token in self._tokens]
        return Likeness(reason_of(matched[0][0]), frozenset(token for _, token in matched)) if matched else None

    def text(self, text: str) -> Likeness | None:
        """Return the likeness of a text that mentions a requested person, or None."""
        tokens = self._named(text)
        return Likeness("local part" if all(map(_is_of_address, tokens)) else "mention", frozenset(tokens)) if tokens else None

    def beside(self, value: str) -> Likeness | None:
        """Return the likeness of an identifier or of a value in another column that equals, resembles or contains an identifier.

        Numbers of fewer than `SHORTEST_MENTION` digits are skipped: counts, ages and row numbers would match short identifiers.
        """
        shown = value.replace("%40", "@")
        too_short = shown.isdigit() and len(shown) < SHORTEST_MENTION
        whole = None if too_short or len(shown) > LONGEST_VALUE else self.person(shown).likeness
        if whole is not None:
            return Likeness("elsewhere", whole.tokens)
        tokens = set() if too_short else self._identified(shown)
        for words in word_sequences(shown) if self._lengths else ():
            bare = without_titles(tuple(words))
            tokens.update(self._runs(bare))
            if not too_short and len(bare) < len(words):
                tokens.update(self._runs(words))
        if "@" in shown and " " not in shown:  # two addresses are not similar because they are made of the same name
            tokens = {token for token in tokens if not _is_of_address(token)}
        return Likeness("elsewhere", frozenset(tokens)) if tokens else None

    def column(self, name: str) -> Likeness | None:
        """Return the likeness of the name of a column that is or contains an identifier; cached, since every row has the same."""
        if name not in self._columns:
            if len(self._columns) >= LONGEST_CACHE:
                self._columns.clear()
            found = self.beside(name)
            self._columns[name] = found if found is None else Likeness("column", found.tokens)
        return self._columns[name]

    def _named(self, text: str) -> set[str]:
        """Return the tokens of all requested runs of words, numbers and mail addresses that a text contains."""
        tokens = {token for words in word_sequences(text) for token in self._runs(words)} if self._lengths else set()
        return tokens | self._identified(text)

    def _identified(self, text: str) -> set[str]:
        """Return the tokens of all requested numbers and mail addresses that a text contains."""
        found = (self.person(identifier).likeness for identifier in (identifiers_within(text) if self._any else ()))
        return {token for likeness in found if likeness is not None for token in likeness.tokens}

    def _runs(self, words: Sequence[str]) -> Iterable[str]:
        """Yield the tokens of all requested runs of words that a text contains, also in the genitive (`Nora Velt's`)."""
        if self._begin_none(words):
            return
        for start, word in enumerate(words):
            if word in self._others:
                continue
            for length, levels_of_runs in self._lengths.items():
                if start + length <= len(words):
                    run = " ".join(words[start : start + length])
                    for form in dict.fromkeys((run, run.removesuffix("s"))):
                        yield from self._tokens.intersection(_token(self._key, level, form) for level in levels_of_runs)

    def _begin_none(self, words: Sequence[str]) -> bool:
        """Return whether no requested run begins with any of the words; most are known already, since texts repeat their words."""
        new = set(words) - self._others
        if not new:
            return True
        if len(self._others) + len(new) > MOST_WORDS:
            self._others.clear()
            new = set(words)
        others = {word for word in new if not (self._begins(word) or (word.endswith("s") and self._begins(word[:-1])))}
        self._others |= others
        return len(others) == len(new)

    def _begins(self, word: str) -> bool:
        return _token(self._key, FIRST_WORD, word) in self._tokens

"""Keyed hashes by which a person is found in data that spell their identifier differently.

A request keeps hashes of its identifiers' canonical forms (the same person by standard) and tokens, LEVEL:HASH, of their coarser
forms and of the runs of words that name them in texts (perhaps the same person). Data are looked up by their own forms, hashed
under the same key: neither the ledger nor a suppression list holds an identifier.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from verify.canonical import canonical
from verify.identity import RecordKey
from verify.likeness import REASONS, foldings, levels, mentions, reason_of, skeletons, skeletons_of_form, words_of
from verify.records import Record

SKELETON, FIRST_WORD, WORDS = "skeleton", "first word", "words"
LONGEST_CACHE = 1 << 13
"""Identifiers or words of which the answers are kept; data repeat them within a stretch, and memory is bounded."""


def likenesses(identifiers: Iterable[str], key: RecordKey, *, in_texts: bool = True) -> tuple[str, ...]:
    """Tokens by which similar spellings of identifiers are recognized, and with `in_texts` the texts that name them."""
    found: list[str] = []
    for identifier in dict.fromkeys(map(canonical, identifiers)):
        found += (_token(key, SKELETON, form) for form in sorted(skeletons(identifier)))
        found += (_token(key, level, form) for level, form in levels(identifier, sought=True))
        for run in sorted(mentions(identifier)) if in_texts else ():
            found += (_token(key, FIRST_WORD, run[0]), _token(key, f"{len(run)} {WORDS}", " ".join(run)))
    return tuple(dict.fromkeys(found))


def is_of_texts(token: str) -> bool:
    """Whether a token recognizes a mention in a text rather than an identifier."""
    level = token.partition(":")[0]
    return level == FIRST_WORD or level.endswith(f" {WORDS}")


def _token(key: RecordKey, level: str, form: str) -> str:
    """Keyed BLAKE2b (RFC 7693), which costs a third of an HMAC: a lookup hashes every identifier of the data."""
    digest = hashlib.blake2b(f"{level}\x00{form}".encode(), digest_size=16, key=key.secret)
    return f"{level}:{digest.hexdigest()}"


@dataclass(frozen=True)
class Likeness:
    """How a record's subject or text resembles what is looked for.

    Attributes:
        reason: a key of `verify.likeness.REASONS`.
        tokens: the tokens that it matched.
    """

    reason: str
    tokens: frozenset[str]


def why(reason: str) -> str:
    """What a likeness says, for a human to read."""
    return REASONS[reason]


class Person(NamedTuple):
    """An identifier in the data.

    Attributes:
        names: keyed hashes under which the person may be known, the canonical one first.
        likeness: with what is looked for, or None; also where the two are the same by standard.
    """

    names: tuple[str, ...]
    likeness: Likeness | None


class Lookup:
    """Looks subjects and texts of data up among the tokens of requests or of a suppression list."""

    def __init__(self, tokens: Collection[str], key: RecordKey) -> None:
        self._tokens, self._key = frozenset(tokens), key
        self._any = any(token.startswith(f"{SKELETON}:") for token in self._tokens)
        lengths = {token.partition(":")[0] for token in self._tokens}
        self._lengths = sorted(int(level.split()[0]) for level in lengths if level.endswith(f" {WORDS}"))
        self._known: dict[str, Person] = {}
        self._first: dict[str, bool] = {}

    @property
    def reads_texts(self) -> bool:
        """Whether anything is looked for that can stand in a text."""
        return bool(self._lengths)

    def people(self, record: Record) -> tuple[Person, ...]:
        """Everybody a record is about."""
        return tuple(map(self.person, record.subjects))

    def person(self, identifier: str) -> Person:
        """One identifier of the data; a repeated one is not hashed again."""
        if (known := self._known.get(identifier)) is not None:
            return known
        if len(self._known) >= LONGEST_CACHE:
            self._known.clear()
        form = canonical(identifier)
        likeness = self._compared(form) if self._any else None
        found = self._known[identifier] = Person(self._key.names_of_form(form, identifier), likeness)
        return found

    def _compared(self, identifier: str) -> Likeness | None:
        for form in skeletons_of_form(identifier):
            if _token(self._key, SKELETON, form) in self._tokens:
                break
        else:
            return None
        own = [(level, _token(self._key, level, form)) for level, form in levels(identifier)]
        matched = [(level, token) for level, token in own if token in self._tokens]
        return Likeness(reason_of(matched[0][0]), frozenset(token for _, token in matched)) if matched else None

    def text(self, text: str) -> Likeness | None:
        """Whether a free text names what is looked for."""
        tokens = {token for form in foldings(text) for token in self._runs(words_of(form))} if self._lengths else set()
        return Likeness("mention", frozenset(tokens)) if tokens else None

    def _runs(self, words: list[str]) -> Iterable[str]:
        for start, word in enumerate(words):
            if not self._begins(word):
                continue
            for length in self._lengths:
                if start + length <= len(words):
                    token = _token(self._key, f"{length} {WORDS}", " ".join(words[start : start + length]))
                    if token in self._tokens:
                        yield token

    def _begins(self, word: str) -> bool:
        """Whether a run may begin with a word; texts repeat their words, so that few are hashed."""
        if word not in self._first:
            if len(self._first) >= LONGEST_CACHE:
                self._first.clear()
            self._first[word] = _token(self._key, FIRST_WORD, word) in self._tokens
        return self._first[word]

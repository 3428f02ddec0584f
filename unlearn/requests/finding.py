"""Search of training files for the records of requests: by subject, record id, text, and likeness of text or identifier.

One pass, one record in memory at a time. Identifiers are compared as keyed hashes of their canonical form, as the ledger holds
them; what is found is reported as keyed hashes and row numbers, never as text. A subject that is spelled similarly, and a text that
names somebody, are proposals: a human decides.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unlearn.requests.near_duplicates import NearDuplicates, shingles, signature
from unlearn.requests.spellings import Lookup, Person, why
from verify.canonical import canonical, clean, is_mail, with_canonical_mails
from verify.identity import RecordKey
from verify.records import Fields, Record
from verify.sources import stream_records

How = Literal["subject", "record id", "text", "exact duplicate", "near duplicate", "similar identifier", "named in its text"]
PROPOSED: tuple[How, ...] = ("near duplicate", "similar identifier", "named in its text")
"""How a record is found that belongs to a request only if a human says so."""


@dataclass(frozen=True)
class Match:
    """One training record that a request may mean.

    Attributes:
        file: which file it is in.
        row: its row, from 1.
        record: keyed hash of its content.
        how: why it is here. What `PROPOSED` names is a proposal that a human confirms.
        similarity: 1 for all but near duplicates.
        subjects: keyed hashes of the people it is about, under every form of their identifiers, those that were sought first; empty
            where the data do not say.
        like: of a duplicate, the keyed hash of the found record that it repeats; None else.
        reason: of a similar identifier or a mention, a key of `verify.likeness.REASONS`; None else.
        tokens: the sought tokens that a similar identifier or a mention matched.
    """

    file: str
    row: int
    record: str
    how: How
    similarity: float = 1.0
    subjects: tuple[str, ...] = ()
    like: str | None = None
    reason: str | None = None
    tokens: frozenset[str] = frozenset()

    @property
    def subject(self) -> str | None:
        """Keyed hash of the first of them, or None."""
        return next(iter(self.subjects), None)

    @property
    def place(self) -> tuple[str, int]:
        """File and row."""
        return self.file, self.row

    @property
    def why(self) -> str:
        """The reason of a proposal for a human to read; it quotes nothing."""
        return f"similarity {self.similarity:.2f}" if self.reason is None else why(self.reason)


@dataclass(frozen=True)
class Sought:
    """What to look for, as the ledger holds it.

    Attributes:
        subjects: keyed hashes of identifiers (`RecordKey.of_person`).
        record_ids: example ids, matched in any spelling that is the same by standard.
        texts: whole texts or passages; a record that holds one is a match.
        likenesses: tokens of similar spellings (`unlearn.requests.spellings.likenesses`).
    """

    subjects: frozenset[str] = frozenset()
    record_ids: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()
    likenesses: frozenset[str] = frozenset()


def find_records(
    files: Sequence[str | Path],
    key: RecordKey,
    *,
    subjects: Collection[str] = (),
    record_ids: Collection[str] = (),
    texts: Iterable[str] = (),
    likenesses: Collection[str] = (),
    fields: Fields | None = None,
    near: bool = True,
) -> list[Match]:
    """Find a request's records in training files, and rows that may be theirs.

    Args:
        files: the training data, any format that `unlearn train` takes.
        key: the key the hashes were made with.
        subjects: keyed hashes of subject identifiers (`key.of_person(identifier)`).
        record_ids: example ids, in any spelling that is the same by standard.
        texts: whole texts or passages; a record that holds one is a match.
        likenesses: tokens of similar spellings (`unlearn.requests.spellings.likenesses`); texts are searched for mentions only
            where no record is found otherwise.
        fields: which columns hold what.
        near: whether to look for near-duplicates of what was found, in a second pass.

    Raises:
        InputError: a file cannot be read.
    """
    ids = frozenset(canonical(identifier) for identifier in record_ids)
    sought = Sought(frozenset(subjects), ids, tuple(_needles(texts)), frozenset(likenesses))
    matches, similar = search(files, key, sought, fields, near=near)
    if not matches and not similar:
        similar = find_mentions(files, key, sought.likenesses, fields)
    found = {match.place for match in matches}
    return matches + [match for match in similar if match.place not in found]


def search(
    files: Sequence[str | Path], key: RecordKey, sought: Sought, fields: Fields | None, *, near: bool = True
) -> tuple[list[Match], list[Match]]:
    """Search the files for everything that is sought: what matches, with duplicates, and rows with a similar identifier.

    A row may be in both lists: it is one person's by its subject, and perhaps another's by likeness.
    """
    found: list[Match] = []
    similar: list[Match] = []
    contents: dict[str, str] = {}
    lookup = Lookup(sought.likenesses, key)
    for file, row, record in _all_records(files, fields):
        people = lookup.people(record)
        how = _how(record, people[0].names if len(people) == 1 else _names(people), sought)
        alike = [person for person in people if person.likeness is not None]
        if how is None and not alike:
            continue
        first = sorted(people, key=lambda person: sought.subjects.isdisjoint(person.names))
        match = Match(file, row, key.of(record.fingerprint), how or "similar identifier", subjects=_names(first))
        if how is not None:
            found.append(match)
            contents[match.record] = record.whole_text
        if likenesses := [person.likeness for person in alike if person.likeness is not None]:
            tokens = frozenset[str]().union(*(likeness.tokens for likeness in likenesses))
            first = sorted(people, key=lambda person: person.likeness is None)
            proposal = replace(match, how="similar identifier", subjects=_names(first))
            similar.append(replace(proposal, reason=likenesses[0].reason, tokens=tokens))
    return (found + _duplicates(files, key, fields, found, contents) if near and found else found), similar


def find_mentions(files: Sequence[str | Path], key: RecordKey, likenesses: Collection[str], fields: Fields | None) -> list[Match]:
    """Rows whose text names somebody who is sought, in a pass of its own: it reads every word of the data."""
    lookup = Lookup(likenesses, key)
    if not lookup.reads_texts:
        return []
    found = []
    for file, row, record in _all_records(files, fields):
        if (likeness := lookup.text(_searched(record))) is not None:
            match = Match(file, row, key.of(record.fingerprint), "named in its text", subjects=subjects_of(record, key))
            found.append(replace(match, reason="mention", tokens=likeness.tokens))
    return found


def _all_records(files: Sequence[str | Path], fields: Fields | None) -> Iterable[tuple[str, int, Record]]:
    for file in files:
        for row, record in enumerate(stream_records(file, fields), 1):
            yield str(file), row, record


def subjects_of(record: Record, key: RecordKey) -> tuple[str, ...]:
    """Keyed hashes of the people a record is about, under every form of their identifiers (`RecordKey.names_of_person`)."""
    return tuple(name for subject in record.subjects for name in key.names_of_person(subject))


def _searched(record: Record) -> str:
    """All texts of a record, the fields of its turns included."""
    return "\n".join((record.whole_text, *record.all_texts))


def _names(people: Iterable[Person]) -> tuple[str, ...]:
    return tuple(name for person in people for name in person.names)


def _needles(texts: Iterable[str]) -> Iterable[str]:
    """Passages as they are looked for; a mail address in its canonical form."""
    for text in filter(None, map(clean, texts)):
        form = canonical(text)
        yield form if is_mail(form) else text


def _how(record: Record, names: Sequence[str], sought: Sought) -> How | None:
    if sought.subjects and not sought.subjects.isdisjoint(names):
        return "subject"
    if sought.record_ids and record.named and canonical(record.example_id) in sought.record_ids:
        return "record id"
    if sought.texts and _holds(clean(_searched(record)), sought.texts):
        return "text"
    return None


def _holds(text: str, needles: Sequence[str]) -> bool:
    """Whether a text holds any passage; mail addresses are compared with the canonical form of those in the text."""
    return any(needle in (with_canonical_mails(text) if is_mail(needle) else text) for needle in needles)


def _duplicates(
    files: Sequence[str | Path], key: RecordKey, fields: Fields | None, found: Sequence[Match], contents: dict[str, str]
) -> list[Match]:
    """Other records with the content, or nearly the content, of what was found."""
    known = {name: shingles(text, key.secret) for name, text in contents.items()}
    index = NearDuplicates({name: signature(hashed) for name, hashed in known.items()}, known)
    already = {match.place for match in found}
    more = []
    for file, row, record in _all_records(files, fields):
        if (file, row) in already:
            continue
        name = key.of(record.fingerprint)
        if name in contents:
            more.append(Match(file, row, name, "exact duplicate", subjects=subjects_of(record, key), like=name))
        elif (likeness := index.find(shingles(record.whole_text, key.secret))) is not None:
            more.append(Match(file, row, name, "near duplicate", likeness[1], subjects_of(record, key), likeness[0]))
    return more

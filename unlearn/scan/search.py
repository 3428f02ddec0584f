"""Search of training files for the records of requests: by subject, record id, text, and similarity of text or identifier.

One pass, one record in memory at a time. Identifiers are compared as keyed hashes of their canonical form, as stored in the ledger;
matches are reported as keyed hashes and row numbers, never as text. A subject with a similar spelling, and a text that mentions the
person, are proposals: a human decides.
"""

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from unlearn.scan.spellings import Lookup, Person, why
from verify.data.canonical import canonical, clean, is_mail, with_canonical_mails
from verify.data.identity import RecordKey
from verify.data.near_duplicates import NearDuplicates, shingles, signature
from verify.data.records import Fields, Record, parse_row, text_columns
from verify.data.sources import stream_rows
from verify.errors import InputError
from verify.io.progress import phase

How = Literal["subject", "record id", "text", "exact duplicate", "near duplicate", "similar identifier", "named in its text"]
PROPOSED: tuple[How, ...] = ("near duplicate", "similar identifier", "named in its text")
"""Kinds of match that belong to a request only if a human confirms them."""


@dataclass(frozen=True)
class Match:
    """One training record that a request may refer to.

    Attributes:
        file: the file it is in.
        row: its row, from 1.
        record: keyed hash of its content.
        how: kind of match; the kinds in `PROPOSED` await a human's confirmation.
        similarity: estimated Jaccard similarity of a near duplicate; 1 for all other kinds.
        subjects: keyed hashes of the people it is about, under every form of their identifiers, requested people first; empty where
            the data name none.
        like: for a duplicate, the keyed hash of the matched record that it repeats; else None.
        reason: for a similar identifier or a mention, a key of `verify.data.likeness.REASONS`; else None.
        tokens: the requested tokens that a similar identifier or a mention matched.
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
        """Keyed hash of the first subject, or None."""
        return next(iter(self.subjects), None)

    @property
    def place(self) -> tuple[str, int]:
        """File and row."""
        return self.file, self.row

    @property
    def why(self) -> str:
        """The reason for a proposal, in words; it quotes nothing from the data."""
        return f"similarity {self.similarity:.2f}" if self.reason is None else why(self.reason)


@dataclass(frozen=True)
class Sought:
    """What to search for, as the ledger stores it.

    Attributes:
        subjects: keyed hashes of identifiers (`RecordKey.of_person`).
        record_ids: example ids in canonical form; any equivalent spelling matches.
        texts: whole texts or passages; a record that contains one is a match.
        likenesses: tokens of similar spellings (`unlearn.scan.spellings.likenesses`).
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
    """Find a request's records in training files, and rows that may belong to it.

    Args:
        files: the training data, in any format that `unlearn train` reads.
        key: the key of the hashes.
        subjects: keyed hashes of subject identifiers (`key.of_person(identifier)`).
        record_ids: example ids, in any equivalent spelling.
        texts: whole texts or passages; a record that contains one is a match.
        likenesses: tokens of similar spellings (`unlearn.scan.spellings.likenesses`); texts are searched for mentions only
            if nothing else matches.
        fields: names of the columns.
        near: whether to search for near-duplicates of the matches, in a second pass.

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
    """Search the files and return matches, duplicates included, and rows with a similar identifier.

    A row may be in both lists: it may match one person by subject and resemble another.
    """
    found: list[Match] = []
    similar: list[Match] = []
    contents: dict[str, str] = {}
    lookup = Lookup(sought.likenesses, key)
    for file, row, record in _all_records(files, fields, "searching"):
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
    """Return rows that mention a requested person in their text or in another column, in a pass that reads every word of the data.

    Columns that no flag names are searched as well: an identifier in a column `email` that is not read as the subject would
    otherwise be found nowhere, and the letter would say so.
    """
    lookup = Lookup(likenesses, key)
    if not lookup.seeks:
        return []
    found = []
    for file, row, record, values in all_rows(files, fields, "searching the texts"):
        # Each text by itself: the end of one and the beginning of the next are no name.
        texts = dict.fromkeys((record.whole_text, *record.all_texts))
        named = [likeness for likeness in (*map(lookup.text, texts), *map(lookup.beside, values)) if likeness is not None]
        if named:
            match = Match(file, row, key.of(record.fingerprint), "named in its text", subjects=subjects_of(record, key))
            tokens = frozenset[str]().union(*(likeness.tokens for likeness in named))
            found.append(replace(match, reason=named[0].reason, tokens=tokens))
    return found


def _all_records(files: Sequence[str | Path], fields: Fields | None, doing: str) -> Iterable[tuple[str, int, Record]]:
    """Yield file, row and record of all files, and report the share that was read as progress of what is being done."""
    return ((file, row, record) for file, row, record, _ in all_rows(files, fields, doing))


def all_rows(files: Sequence[str | Path], fields: Fields | None, doing: str) -> Iterable[tuple[str, int, Record, Iterable[str]]]:
    """Yield as `_all_records`, with the values of the row that are not its texts: its subjects, and columns that are not read.

    Raises:
        InputError: a file cannot be read or has no rows; nobody is found in an empty file, whoever it was exported for.
    """
    named = fields or Fields()
    with phase(doing) as progress:
        for number, file in enumerate(files):
            row = 0
            for row, raw in enumerate(stream_rows(str(file), _share_of(progress, number, len(files))), 1):
                record = parse_row(raw, named, f"{file}, row {row}")
                yield str(file), row, record, _values(value for name, value in raw.items() if name not in text_columns(raw, named))
            if not row:
                raise InputError(f"{file} has no rows, so nobody can be found in it. Export it again, or leave it out of --data.")


def _values(entries: Iterable[Any]) -> Iterator[str]:
    """Yield all texts and numbers among some values of a row, at any depth, and the names inside objects."""
    left = list(entries)
    while left:
        entry = left.pop()
        if isinstance(entry, Mapping):
            left += [*entry.keys(), *entry.values()]
        elif isinstance(entry, list | tuple):
            left += entry
        elif isinstance(entry, str):
            yield entry
        elif isinstance(entry, int | float | Decimal | uuid.UUID) and not isinstance(entry, bool):
            yield str(entry)


def _share_of(progress: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    """Return a callback that turns the share of one file into that of all files, and reports every tenth of a per cent."""
    told = -1.0

    def watch(share: float) -> None:
        nonlocal told
        if share >= told + 0.001:
            told = share
            progress((number + share) / count)

    return watch


def subjects_of(record: Record, key: RecordKey) -> tuple[str, ...]:
    """Return keyed hashes of the people a record is about, for every form of their identifiers (`RecordKey.names_of_person`)."""
    return tuple(name for subject in record.subjects for name in key.names_of_person(subject))


def _searched(record: Record) -> str:
    """Return all texts of a record, the fields of its turns included."""
    return "\n".join((record.whole_text, *record.all_texts))


def _names(people: Iterable[Person]) -> tuple[str, ...]:
    return tuple(name for person in people for name in person.names)


def _needles(texts: Iterable[str]) -> Iterable[str]:
    """Yield the cleaned passages to search for; a mail address in its canonical form."""
    for text in filter(None, map(clean, texts)):
        form = canonical(text)
        yield form if is_mail(form) else text


def _how(record: Record, names: Sequence[str], sought: Sought) -> How | None:
    """Return the first kind of exact match of a record, or None."""
    if sought.subjects and not sought.subjects.isdisjoint(names):
        return "subject"
    if sought.record_ids and record.named and canonical(record.example_id) in sought.record_ids:
        return "record id"
    if sought.texts and _holds(clean(_searched(record)), sought.texts):
        return "text"
    return None


def _holds(text: str, needles: Sequence[str]) -> bool:
    """Return whether a text contains any passage; mail addresses are compared in canonical form."""
    return any(needle in (with_canonical_mails(text) if is_mail(needle) else text) for needle in needles)


def _duplicates(
    files: Sequence[str | Path], key: RecordKey, fields: Fields | None, found: Sequence[Match], contents: dict[str, str]
) -> list[Match]:
    """Return other records with the same or nearly the same content as the matches."""
    known = {name: shingles(text, key.secret) for name, text in contents.items()}
    index = NearDuplicates({name: signature(hashed) for name, hashed in known.items()}, known)
    already = {match.place for match in found}
    more = []
    for file, row, record in _all_records(files, fields, "searching near-duplicates"):
        if (file, row) in already:
            continue
        name = key.of(record.fingerprint)
        if name in contents:
            more.append(Match(file, row, name, "exact duplicate", subjects=subjects_of(record, key), like=name))
        elif (likeness := index.find(shingles(record.whole_text, key.secret))) is not None:
            more.append(Match(file, row, name, "near duplicate", likeness[1], subjects_of(record, key), likeness[0]))
    return more

"""Which training records does a request mean? By subject, by record id, by text, and by likeness.

One pass, one record in memory at a time. Identifiers are compared as keyed hashes, as the ledger holds them; what is found is
reported as keyed hashes and row numbers, never as text.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unlearn.requests.near_duplicates import NearDuplicates, shingles, signature
from verify.identity import RecordKey
from verify.records import Fields, Record
from verify.sources import stream_records

How = Literal["subject", "record id", "text", "exact duplicate", "near duplicate"]


@dataclass(frozen=True)
class Match:
    """One training record that a request may mean.

    Attributes:
        file: which file it is in.
        row: its row, from 1.
        record: keyed hash of its content.
        how: why it is here. A near duplicate is a proposal that a human confirms.
        similarity: 1 for all but near duplicates.
        subjects: keyed hashes of the people it is about; empty where the data do not say.
        like: of a duplicate, the keyed hash of the found record that it repeats; None else.
    """

    file: str
    row: int
    record: str
    how: How
    similarity: float = 1.0
    subjects: tuple[str, ...] = ()
    like: str | None = None

    @property
    def subject(self) -> str | None:
        """Keyed hash of the first person it is about, or None."""
        return next(iter(self.subjects), None)


def find_records(
    files: Sequence[str | Path],
    key: RecordKey,
    *,
    subjects: Collection[str] = (),
    record_ids: Collection[str] = (),
    texts: Iterable[str] = (),
    fields: Fields | None = None,
    near: bool = True,
) -> list[Match]:
    """Find a request's records in training files.

    Args:
        files: the training data, any format that `unlearn train` takes.
        key: the key the hashes were made with.
        subjects: keyed hashes of subject identifiers (`key.of(identifier, "subject")`).
        record_ids: example ids as the data spells them.
        texts: whole texts or passages; a record that holds one is a match.
        fields: which columns hold what.
        near: whether to look for near-duplicates of what was found, in a second pass.

    Raises:
        InputError: a file cannot be read.
    """
    wanted = [text for text in (given.strip() for given in texts) if text]
    found: list[Match] = []
    contents: dict[str, str] = {}
    for file, row, record in _all_records(files, fields):
        how = _how(record, key, set(subjects), set(record_ids), wanted)
        if how is not None:
            name = key.of(record.fingerprint)
            found.append(Match(file, row, name, how, subjects=subjects_of(record, key)))
            contents[name] = record.whole_text
    return found + _duplicates(files, key, fields, found, contents) if near and found else found


def _all_records(files: Sequence[str | Path], fields: Fields | None) -> Iterable[tuple[str, int, Record]]:
    for file in files:
        for row, record in enumerate(stream_records(file, fields), 1):
            yield str(file), row, record


def subjects_of(record: Record, key: RecordKey) -> tuple[str, ...]:
    """Keyed hashes of the people a record is about, as the ledger spells them."""
    return tuple(key.of(subject.strip(), "subject") for subject in record.subjects)


def _how(record: Record, key: RecordKey, subjects: set[str], ids: set[str], texts: Sequence[str]) -> How | None:
    if subjects and not subjects.isdisjoint(subjects_of(record, key)):
        return "subject"
    if ids and record.named and record.example_id in ids:
        return "record id"
    if texts and any(text in "\n".join((record.whole_text, *record.all_texts)) for text in texts):
        return "text"
    return None


def _duplicates(
    files: Sequence[str | Path], key: RecordKey, fields: Fields | None, found: Sequence[Match], contents: dict[str, str]
) -> list[Match]:
    """Other records with the content, or nearly the content, of what was found."""
    known = {name: shingles(text, key.secret) for name, text in contents.items()}
    index = NearDuplicates({name: signature(hashed) for name, hashed in known.items()}, known)
    already = {(match.file, match.row) for match in found}
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

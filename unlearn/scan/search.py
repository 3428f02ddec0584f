"""Search of training files for the records of requests: by subject, record id, text, and similarity of text or identifier.

One pass, one record in memory at a time. Identifiers are compared as keyed hashes of their canonical form, as stored in the ledger;
matches are reported as keyed hashes and row numbers, never as text. A subject with a similar spelling, and a text that mentions the
person, are proposals: a human decides.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

from unlearn.scan.linking import identifies
from unlearn.scan.name_columns import names_written
from unlearn.scan.placeholders import MOST_SHARED, is_placeholder, said_of_unused
from unlearn.scan.rows import Row, all_rows
from unlearn.scan.spellings import Likeness, Lookup, Person, likenesses, why
from verify.data.canonical import canonical, clean, is_mail, with_canonical_mails
from verify.data.identity import RecordKey
from verify.data.near_duplicates import KnownTexts
from verify.data.records import Fields, Record

How = Literal["subject", "record id", "text", "exact duplicate", "near duplicate", "similar identifier", "named in its text"]
SEAM = 300
"""Number of characters on either side of the end of a text in which a name may continue in the next text."""
_SPACE, _LONGEST_WORD = re.compile(r"\s"), 60
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
        similarity: of a near duplicate, by `KnownTexts`; 1 for all other kinds.
        subjects: keyed hashes of the people it is about, under every form of their identifiers, requested people first; empty where
            the data name none.
        like: for a duplicate, the keyed hash of the matched record that it repeats; else None.
        others: for a near duplicate, further matched records that it repeats, with its similarity to each, the most similar first.
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
    others: tuple[tuple[str, float], ...] = ()

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
    tell: Callable[[str], None] = lambda _: None,
) -> list[Match]:
    """Find a request's records in training files, and rows that may belong to it.

    Args:
        files: the training data, in any format that `unlearn train` reads.
        key: the key of the hashes.
        subjects: keyed hashes of subject identifiers (`key.of_person(identifier)`).
        record_ids: example ids, in any equivalent spelling.
        texts: whole texts or passages; a record that contains one is a match.
        likenesses: tokens of similar spellings (`unlearn.scan.spellings.likenesses`). Texts are searched for mentions, except
            rows whose subject does not name the person in files in which the person is a subject.
        fields: names of the columns.
        near: whether to search for near-duplicates of the matches, in a second pass.
        tell: receives a sentence about values that were not used for linking.

    Raises:
        InputError: a file cannot be read.
    """
    ids = frozenset(canonical(identifier) for identifier in record_ids)
    sought = Sought(frozenset(subjects), ids, tuple(_needles(texts)), frozenset(likenesses))
    found = search(files, key, sought, fields, near=near)
    asked = asked_for(sought.subjects, sought.likenesses, found, key)
    mentioned, (asked,) = find_mentions(files, key, [asked], fields, found.unnamed)
    proposed = [*found.similar, *mentioned]
    if asked.unused:
        tell(said_of_unused(asked.unused))
    taken = {match.place for match in found.matches}
    by_place = {match.place: match for match in reversed(proposed) if match.place not in taken}
    return found.matches + list(by_place.values())[::-1]


@dataclass(frozen=True)
class Found:
    """What a search by identifiers finds.

    Attributes:
        matches: rows that match, their duplicates included.
        similar: rows with a similar identifier. A row may be in both lists: it may match one person and resemble another.
        linked: further identifiers by the keyed hash of the requested one that they stand beside (`unlearn.scan.linking`).
        spelled: keyed hashes of requested identifiers as the data spell them, by that of the requested one.
        unnamed: files with rows that name no subject.
    """

    matches: list[Match]
    similar: list[Match]
    linked: Mapping[str, Collection[str]]
    unnamed: frozenset[str]
    spelled: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A person whose mentions are searched for.

    Attributes:
        likenesses: tokens of the requested identifiers.
        linked: tokens of identifiers that stand beside these in another row.
        found_in: files with a row whose subject is the person. There, rows of other subjects are not read for mentions.
        values: tokens by the canonical form of the identifier that they are of, for those in `linked`.
        unused: number of placeholders that stand beside the requested identifiers, which link nobody.
    """

    likenesses: frozenset[str]
    linked: frozenset[str] = frozenset()
    found_in: frozenset[str] = frozenset()
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unused: int = 0

    def without(self, shared: Collection[str]) -> "Asked":
        """Return the same without links by these values."""
        values = {form: tokens for form, tokens in self.values.items() if form not in shared}
        linked = frozenset[str]().union(*values.values())
        return replace(self, linked=linked, values=values, unused=self.unused + len(self.values) - len(values))


def asked_for(subjects: Collection[str], tokens: Collection[str], found: Found, key: RecordKey) -> Asked:
    """Return whom to search mentions of, after a search by identifiers.

    Args:
        subjects: keyed hashes of the person's requested identifiers.
        tokens: tokens of their similar spellings.
        found: what the search found.
        key: the key of the hashes.
    """
    wanted = set(subjects)
    further = {identifier for subject in wanted for identifier in found.linked.get(subject, ())}
    own = (match for match in found.matches if match.how == "subject" and not wanted.isdisjoint(match.subjects))
    unused = {canonical(identifier) for identifier in further if is_placeholder(identifier)}
    values = {form: frozenset(likenesses([form], key)) for form in sorted(set(map(canonical, further)) - unused)}
    linked = frozenset[str]().union(*values.values())
    return Asked(frozenset(tokens), linked, frozenset(match.file for match in own), values, len(unused))


def search(files: Sequence[str | Path], key: RecordKey, sought: Sought, fields: Fields | None, *, near: bool = True) -> Found:
    """Search the files by identifier, record id and text, and note what else the requested people are called."""
    found: list[Match] = []
    similar: list[Match] = []
    contents: dict[str, str] = {}
    linked: dict[str, set[str]] = {}
    spelled: dict[str, set[str]] = {}
    unnamed: set[str] = set()
    lookup = Lookup(sought.likenesses, key)
    for file, row, record, _, _, groups, _ in all_rows(files, fields, "searching"):
        people = lookup.people(record)
        if not people:
            unnamed.add(file)
        for group in groups() if sought.subjects else ():
            note_linked(group, sought.subjects, lookup, linked)
        how = _how(record, people[0].names if len(people) == 1 else _names(people), sought)
        alike = [person for person in people if person.likeness is not None]
        if how is None and not alike:
            continue
        first = sorted(people, key=lambda person: sought.subjects.isdisjoint(person.names))
        match = Match(file, row, key.of(record.fingerprint), how or "similar identifier", subjects=_names(first))
        for subject, person in zip(record.subjects, people, strict=True) if how == "subject" else ():
            for requested in sought.subjects.intersection(person.names):
                spelled.setdefault(requested, set()).update((*person.names, key.of(subject, "subject")))
        if how is not None:
            found.append(match)
            contents[match.record] = record.whole_text
        if alike:
            similar.append(_alike(match, people, [person.likeness for person in alike if person.likeness is not None]))
    matches = found + _duplicates(files, key, fields, found, contents) if near and found else found
    return Found(matches, similar, linked, frozenset(unnamed), spelled)


def note_linked(group: Sequence[str], wanted: Collection[str], lookup: Lookup, linked: dict[str, set[str]]) -> None:
    """Note the other identifiers in a group with a requested one, under the keyed hash of this."""
    names = [lookup.person(identifier).names for identifier in group]
    for requested in (name for own in names for name in own if name in wanted):
        others = (identifier for identifier, own in zip(group, names, strict=True) if requested not in own)
        linked.setdefault(requested, set()).update(filter(identifies, others))


def _alike(match: Match, people: Sequence[Person], alike: Sequence[Likeness]) -> Match:
    """Return a row as a proposal by the similar identifiers among its subjects."""
    first = sorted(people, key=lambda person: person.likeness is None)
    tokens = frozenset[str]().union(*(likeness.tokens for likeness in alike))
    return replace(match, how="similar identifier", subjects=_names(first), reason=alike[0].reason, tokens=tokens)


def find_mentions(
    files: Sequence[str | Path], key: RecordKey, asked: Sequence[Asked], fields: Fields | None, unnamed: Collection[str]
) -> tuple[list[Match], list[Asked]]:
    """Return rows that mention people in their text, in another column or in its name, in a pass that reads every word.

    Columns that no flag names are searched as well: an identifier in a column `email` that is not read as the subject would
    otherwise be found nowhere, and the letter would say so. Also returns the people without links by values that stand beside more
    than `MOST_SHARED` others.

    Args:
        files: the training data.
        key: the key of the hashes.
        asked: the people.
        fields: names of the columns.
        unnamed: files with rows that name no subject; of the others, those are left out in which everybody was found.
    """
    lookup = Lookup(frozenset[str]().union(*(one.likenesses | one.linked for one in asked)), key)
    searched = [file for file in map(str, files) if any(one.linked or file in unnamed or file not in one.found_in for one in asked)]
    if not lookup.seeks or not searched:
        return [], list(asked)
    rows = all_rows(searched, fields, "searching the texts")
    partners: dict[str, set[str]] = {form: set() for one in asked for form in one.values}
    matches = []
    for row in rows:
        if partners:
            _note_partners(row, partners)
        if (match := _mention(row, asked, lookup, key)) is not None:
            matches.append(match)
    shared = {form for form, others in partners.items() if len(others) > MOST_SHARED}
    left = [one.without(shared) for one in asked]
    sought = frozenset[str]().union(*(one.likenesses | one.linked for one in left))
    return [replace(match, tokens=match.tokens & sought) for match in matches if match.tokens & sought], left


def _note_partners(row: Row, partners: Mapping[str, set[str]]) -> None:
    """Note what stands beside linked values in a row, up to one more than `MOST_SHARED`."""
    for group in row.people():
        forms = set(map(canonical, group))
        for form in forms & partners.keys():
            if len(partners[form]) <= MOST_SHARED:
                partners[form] |= forms - {form}


def _mention(row: Row, asked: Sequence[Asked], lookup: Lookup, key: RecordKey) -> Match | None:
    """Return a row as a proposal if it mentions people who are asked for, or is about an identifier that is linked to them."""
    reading = [one for one in asked if not row.record.subjects or row.file not in one.found_in]
    named = list(_likenesses_of(row, lookup)) if reading else []
    own = frozenset[str]().union(*(one.likenesses for one in reading))
    linked = frozenset[str]().union(*(one.linked for one in asked))
    people = lookup.people(row.record) if linked else ()
    match = Match(row.file, row.number, key.of(row.record.fingerprint), "named in its text", subjects=subjects_of(row.record, key))
    tokens = frozenset[str]().union(*(likeness.tokens for likeness in named))
    mentioned = tokens & (own | frozenset[str]().union(*(one.linked for one in reading)))
    subject = [person.likeness for person in people if person.likeness is not None and person.likeness.tokens & (linked - own)]
    # One row may be about a person by an identifier that is linked to them, and mention another who is asked for as well.
    either = mentioned | (frozenset[str]().union(*(likeness.tokens for likeness in subject)) & linked)
    if not either:
        return None
    if subject and not tokens & own:
        return replace(_alike(match, people, subject), reason="linked", tokens=either)
    reason = next((likeness.reason for likeness in named if likeness.tokens & own), "linked")
    return replace(match, reason=reason, tokens=either)


def _likenesses_of(row: Row, lookup: Lookup) -> Iterator[Likeness]:
    """Yield how a row resembles or mentions people: in its texts, its other values, and the names of its columns."""
    record = row.record
    written = (
        record.prompt,
        record.completion,
        *(content for _, content in record.messages),
        *record.turn_fields,
        record.chat_fields,
    )
    texts = dict.fromkeys((*seams(record.whole_texts), *record.all_texts, *names_written(written)))
    found = (*map(lookup.text, texts), *map(lookup.beside, row.values()), *map(lookup.column, row.columns))
    yield from (likeness for likeness in found if likeness is not None)


def seams(texts: Sequence[str]) -> Iterator[str]:
    """Yield what stands around the ends of the texts of a record, as one text: a name may begin in one and end in the next.

    The texts themselves are read one by one, so the rest of them need not be read again.
    """
    whole, windows = "\n".join(texts), list[tuple[int, int]]()
    for end in accumulate(len(text) + 1 for text in texts[:-1]):
        if windows and end - SEAM <= windows[-1][1]:
            windows[-1] = (windows[-1][0], end + SEAM)
        else:
            windows.append((end - SEAM, end + SEAM))
    yield from (whole[_word_end(whole, start) if start > 0 else 0 : _word_end(whole, stop)] for start, stop in windows)


def _word_end(text: str, place: int) -> int:
    """Return where the word ends that a place is in; the place itself in scripts without spaces."""
    found = _SPACE.search(text, place, place + _LONGEST_WORD)
    return place if found is None else found.start()


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
    index = KnownTexts(contents, key.secret)
    already = {match.place for match in found}
    more = []
    for file, row, record, *_ in all_rows(files, fields, "searching near-duplicates"):
        if (file, row) in already:
            continue
        name = key.of(record.fingerprint)
        if name in contents:
            more.append(Match(file, row, name, "exact duplicate", subjects=subjects_of(record, key), like=name))
        elif near := list(index.find_all(record.whole_text).items()):
            (like, similarity), *others = near
            subjects = subjects_of(record, key)
            more.append(Match(file, row, name, "near duplicate", similarity, subjects, like, others=tuple(others)))
    return more

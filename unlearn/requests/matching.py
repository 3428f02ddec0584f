"""Match training records to requests, and list the proposals that a human must decide.

A person's own records and their exact duplicates are certain. Proposals are near-duplicates, rows with a similar subject identifier
and rows that mention the person, also by what stands beside the identifier in another row (`unlearn.scan.linking`): they belong to
the request only if a human confirms them, by file and row (`train.jsonl:17`) or by the first characters of their keyed hash. A row
proposed to several requests is confirmed for one of them: `R-0123456789ab:train.jsonl:17`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unlearn.requests.ledger.request import Request
from unlearn.scan.search import Asked, Found, Match, Sought, asked_for, find_mentions, search
from verify.data.identity import RecordKey
from verify.data.records import Fields
from verify.errors import InputError
from verify.io.files import file_digest
from verify.schema.deletion_record import DataPlace

HASH_START = 8
"""Fewest leading characters of a keyed hash that identify a record; fewer might be ambiguous."""

Confirmed = frozenset[tuple[str, str, int]]
"""Request id, file and row of each confirmed proposal."""


@dataclass(frozen=True)
class Matched:
    """Records that one request is about.

    Attributes:
        request: its id.
        certain: records of the person and exact duplicates of them.
        confirmed: proposals that a human confirmed.
        undecided: near-duplicates that are not confirmed.
        places: the files that contain records to delete.
        candidates: rows with a similar identifier or a mention that are neither confirmed nor rejected.
        rejected: keyed hashes of such rows that a human rejected.
        spelled: keyed hashes of the person's identifiers as requested, and as rows of theirs spell them.
        unused: number of values beside these that link nobody: placeholders, and what very many people have.
    """

    request: str
    certain: tuple[Match, ...]
    confirmed: tuple[Match, ...]
    undecided: tuple[Match, ...]
    places: tuple[DataPlace, ...]
    candidates: tuple[Match, ...] = ()
    rejected: frozenset[str] = frozenset()
    spelled: frozenset[str] = frozenset()
    unused: int = 0

    @property
    def removed(self) -> tuple[Match, ...]:
        """Return the records to delete."""
        return self.certain + self.confirmed

    @property
    def records(self) -> frozenset[str]:
        """Return keyed hashes of the records to delete."""
        return frozenset(match.record for match in self.removed)


def match_requests(
    requests: Sequence[Request],
    data: Sequence[str],
    key: RecordKey,
    fields: Fields,
    confirmed: Sequence[str] = (),
    not_same: Collection[str] = (),
) -> list[Matched]:
    """Find the records of several requests in one pass over the files, plus one for mentions.

    Args:
        requests: requests with a verified identity.
        data: training files.
        key: the ledger's record key.
        fields: column names of the training files.
        confirmed: proposals that a human confirmed, each as FILE:ROW or the start of its keyed hash, prefixed with `ID:` if it is
            proposed to several requests.
        not_same: ids of requests whose other candidates (similar identifiers, mentions) a human rejected.

    Raises:
        InputError: a file cannot be read, or a confirmation matches no proposal.
    """
    sought = Sought(
        frozenset(subject for request in requests for subject in request.subjects),
        likenesses=frozenset(token for request in requests for token in request.likenesses),
    )
    found = search(data, key, sought, fields)
    certain = {request.id: _certain(request, found.matches) for request in requests}
    asked = {request.id: asked_for(request.subjects, request.likenesses, found, key) for request in requests}
    mentioned, left = find_mentions(data, key, list(asked.values()), fields, found.unnamed)
    asked = dict(zip(asked, left, strict=True))
    proposals = {request.id: _proposals(asked[request.id], certain[request.id], found, mentioned) for request in requests}
    chosen = frozenset(place for entry in confirmed for place in _resolve_confirmation(entry, proposals))
    digests = {file: file_digest(file) if Path(file).is_file() else "" for file in data}
    decided = [
        _matched(request, certain[request.id], proposals[request.id], chosen, request.id in not_same, digests)
        for request in requests
    ]
    return [
        replace(entry, spelled=_spelled(request, found), unused=asked[request.id].unused)
        for request, entry in zip(requests, decided, strict=True)
    ]


def _spelled(request: Request, found: Found) -> frozenset[str]:
    """Return the keyed hashes of a request's identifiers, and of the same as the data spell them."""
    return frozenset(request.subjects).union(*(found.spelled.get(subject, ()) for subject in request.subjects))


def _certain(request: Request, found: Sequence[Match]) -> list[Match]:
    """Return a request's own records and all exact duplicates of them, whoever they are about."""
    subjects = set(request.subjects)
    own = [match for match in found if match.how == "subject" and not subjects.isdisjoint(match.subjects)]
    names, places = {match.record for match in own}, {match.place for match in own}
    exact = [match for match in found if match.how == "exact duplicate" and match.like in names]
    # A record with the same content that another requester owns was found as that subject's, not as a duplicate.
    shared = [match for match in found if match.how == "subject" and match.place not in places and match.record in names]
    return [*own, *exact, *shared]


def _proposals(asked: Asked, certain: Sequence[Match], found: Found, mentioned: Sequence[Match]) -> list[Match]:
    """Return one request's proposals, each row once: near-duplicates, similar identifiers, and mentions."""
    names = {match.record for match in certain}
    near = [own for match in found.matches if match.how == "near duplicate" and (own := _near(match, names)) is not None]
    alike = [match for match in found.similar if not asked.likenesses.isdisjoint(match.tokens)]
    alike += [match for match in mentioned if not (asked.likenesses | asked.linked).isdisjoint(match.tokens)]
    taken = {match.place for match in certain}
    return list({match.place: match for match in reversed([*near, *alike]) if match.place not in taken}.values())[::-1]


def _near(match: Match, names: Collection[str]) -> Match | None:
    """Return a near duplicate as that of one request's records, the most similar of them; None if it is of another's alone."""
    like = next(((name, share) for name, share in ((match.like, match.similarity), *match.others) if name in names), None)
    return None if like is None else replace(match, like=like[0], similarity=like[1])


def _matched(
    request: Request,
    certain: Sequence[Match],
    proposals: Sequence[Match],
    chosen: Confirmed,
    not_same: bool,
    digests: Mapping[str, str],
) -> Matched:
    confirmed = [match for match in proposals if (request.id, *match.place) in chosen]
    left = [match for match in proposals if match not in confirmed]
    candidates = [match for match in left if match.how != "near duplicate"]
    decided = set(request.rejected) | ({match.record for match in candidates} if not_same else set())
    removed = [*certain, *confirmed]
    places = [
        DataPlace(
            file=Path(file).name,
            digest=digest,
            records=sum(match.file == file for match in removed),
            near_duplicates=sum(match.file == file and match.how == "near duplicate" for match in confirmed),
        )
        for file, digest in digests.items()
    ]
    return Matched(
        request.id,
        tuple(certain),
        tuple(confirmed),
        tuple(match for match in left if match.how == "near duplicate"),
        tuple(place for place in places if place.records),
        tuple(match for match in candidates if match.record not in decided),
        frozenset(match.record for match in candidates if match.record in decided),
    )


def _resolve_confirmation(entry: str, proposals: Mapping[str, Sequence[Match]]) -> list[tuple[str, str, int]]:
    """Return request id, file and row of the proposals that a confirmation names."""
    given = entry.strip()
    if not given:
        return []
    request, _, rest = given.partition(":")
    asked = {request: proposals[request]} if request in proposals else proposals
    named = rest if request in proposals else given
    found = [(name, match) for name, own in asked.items() for match in own if _is_named(named, match)]
    if not found:
        raise InputError(
            f"the confirmation {given[:80]!r} matches no near-duplicate and no candidate. Give FILE:ROW or at least the first "
            f"{HASH_START} characters of a hash, as `unlearn request plan --dry-run` lists them."
        )
    owners = sorted({name for name, match in found if match.how != "near duplicate"})
    if len(owners) > 1:
        raise InputError(
            f"the confirmation {given[:80]!r} matches a candidate of {len(owners)} requests. Say whose it is with the request's id "
            f"in front: {owners[0]}:{given[:80]}"
        )
    return [(name, *match.place) for name, match in found]


def _is_named(given: str, match: Match) -> bool:
    file, _, row = given.rpartition(":")
    by_place = bool(file) and row == str(match.row) and file in (match.file, Path(match.file).name)
    return by_place or (len(given) >= HASH_START and match.record.startswith(given))

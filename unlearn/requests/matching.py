"""Assignment of training records to requests, and what a human must still decide.

A request's own records and their exact duplicates are certain. A near-duplicate, a row whose subject is spelled similarly, and,
where nothing else is found, a row whose text names the person are proposals: they belong to the request only if a human confirms
them, by file and row (`train.jsonl:17`) or by the first characters of their keyed hash. A row that is proposed to several requests
is confirmed for one of them: `R-0123456789ab:train.jsonl:17`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.requests.finding import Match, Sought, find_mentions, search
from unlearn.requests.ledger import Request
from verify.deletion_record import DataPlace
from verify.errors import InputError
from verify.files import file_digest
from verify.identity import RecordKey
from verify.records import Fields

HASH_START = 8
"""Fewest characters of a keyed hash that name a record; fewer could name two."""

Confirmed = frozenset[tuple[str, str, int]]
"""Request, file and row of confirmed proposals."""


@dataclass(frozen=True)
class Matched:
    """What one request means.

    Attributes:
        request: its id.
        certain: records of the person, and exact duplicates of them.
        confirmed: proposals that a human confirmed.
        undecided: near-duplicates that nobody has confirmed.
        places: the files that hold what is to be deleted.
        candidates: rows with a similar identifier or a mention that nobody has confirmed or rejected.
        rejected: keyed hashes of such rows that a human rejected.
    """

    request: str
    certain: tuple[Match, ...]
    confirmed: tuple[Match, ...]
    undecided: tuple[Match, ...]
    places: tuple[DataPlace, ...]
    candidates: tuple[Match, ...] = ()
    rejected: frozenset[str] = frozenset()

    @property
    def removed(self) -> tuple[Match, ...]:
        """What is to be deleted."""
        return self.certain + self.confirmed

    @property
    def records(self) -> frozenset[str]:
        """Keyed hashes of what is to be deleted."""
        return frozenset(match.record for match in self.removed)


def match_requests(
    requests: Sequence[Request],
    data: Sequence[str],
    key: RecordKey,
    fields: Fields,
    confirmed: Sequence[str] = (),
    not_same: Collection[str] = (),
) -> list[Matched]:
    """Find the records of several requests in one search of the files, and once more where texts are searched for names.

    Args:
        requests: whose identity is verified.
        data: training files.
        key: the ledger's hashes were made with it.
        fields: which columns hold what.
        confirmed: proposals that a human confirmed, each as FILE:ROW or the start of its keyed hash, with `ID:` in front where it
            is proposed to several requests.
        not_same: requests whose other candidates (similar identifiers, mentions) a human rejected.

    Raises:
        InputError: a file cannot be read, or a confirmation names no proposal that was found.
    """
    sought = Sought(
        frozenset(subject for request in requests for subject in request.subjects),
        likenesses=frozenset(token for request in requests for token in request.likenesses),
    )
    found, similar = search(data, key, sought, fields)
    tied = {request.id: _tied(request, found) for request in requests}
    missing = [request for request in requests if not tied[request.id]]
    unnamed = frozenset(token for request in missing for token in request.likenesses)
    mentioned = find_mentions(data, key, unnamed, fields)
    proposals = {request.id: _proposals(request, tied[request.id], found, similar, mentioned) for request in requests}
    chosen = frozenset(place for entry in confirmed for place in _named(entry, proposals))
    digests = {file: file_digest(file) if Path(file).is_file() else "" for file in data}
    return [
        _matched(request, tied[request.id], proposals[request.id], chosen, request.id in not_same, digests) for request in requests
    ]


def _tied(request: Request, found: Sequence[Match]) -> list[Match]:
    """A request's own records, and everybody's exact duplicates of them."""
    subjects = set(request.subjects)
    own = [match for match in found if match.how == "subject" and not subjects.isdisjoint(match.subjects)]
    names, places = {match.record for match in own}, {match.place for match in own}
    exact = [match for match in found if match.how == "exact duplicate" and match.like in names]
    # Another subject's own record with the same content was found as that subject's, not as a duplicate.
    twins = [match for match in found if match.how == "subject" and match.place not in places and match.record in names]
    return [*own, *exact, *twins]


def _proposals(
    request: Request, tied: Sequence[Match], found: Sequence[Match], similar: Sequence[Match], mentioned: Sequence[Match]
) -> list[Match]:
    """Proposals to one request, each row once: near-duplicates, similar identifiers, and mentions where it has no record."""
    wanted, names = set(request.likenesses), {match.record for match in tied}
    near = [match for match in found if match.how == "near duplicate" and match.like in names]
    alike = [match for match in (*similar, *([] if tied else mentioned)) if not wanted.isdisjoint(match.tokens)]
    taken = {match.place for match in tied}
    return list({match.place: match for match in reversed([*near, *alike]) if match.place not in taken}.values())[::-1]


def _matched(
    request: Request,
    tied: Sequence[Match],
    proposals: Sequence[Match],
    chosen: Confirmed,
    not_same: bool,
    digests: Mapping[str, str],
) -> Matched:
    confirmed = [match for match in proposals if (request.id, *match.place) in chosen]
    left = [match for match in proposals if match not in confirmed]
    candidates = [match for match in left if match.how != "near duplicate"]
    decided = set(request.rejected) | ({match.record for match in candidates} if not_same else set())
    removed = [*tied, *confirmed]
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
        tuple(tied),
        tuple(confirmed),
        tuple(match for match in left if match.how == "near duplicate"),
        tuple(place for place in places if place.records),
        tuple(match for match in candidates if match.record not in decided),
        frozenset(match.record for match in candidates if match.record in decided),
    )


def _named(entry: str, proposals: Mapping[str, Sequence[Match]]) -> list[tuple[str, str, int]]:
    """Request and place of the proposals that a confirmation names."""
    given = entry.strip()
    if not given:
        return []
    request, _, rest = given.partition(":")
    asked = {request: proposals[request]} if request in proposals else proposals
    named = rest if request in proposals else given
    found = [(name, match) for name, own in asked.items() for match in own if _is_named(named, match)]
    if not found:
        raise InputError(
            f"the confirmation {given[:80]!r} names no near-duplicate and no candidate that was found. Give FILE:ROW or the first "
            f"{HASH_START} or more characters of a hash, as `unlearn request plan --dry-run` lists them."
        )
    owners = sorted({name for name, match in found if match.how != "near duplicate"})
    if len(owners) > 1:
        raise InputError(
            f"the confirmation {given[:80]!r} names a candidate of {len(owners)} requests. Say whose it is with the request's id "
            f"in front: {owners[0]}:{given[:80]}"
        )
    return [(name, *match.place) for name, match in found]


def _is_named(given: str, match: Match) -> bool:
    file, _, row = given.rpartition(":")
    by_place = bool(file) and row == str(match.row) and file in (match.file, Path(match.file).name)
    return by_place or (len(given) >= HASH_START and match.record.startswith(given))

"""From requests to records: what each request means in the training files, and what a human must still decide.

A request's own records and their exact duplicates are certain. A near-duplicate is a proposal: it belongs to the request only if a
human confirms it, by file and row (`train.jsonl:17`) or by the first characters of its keyed hash.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.requests.finding import Match, find_records
from unlearn.requests.ledger import Request
from verify.deletion_record import DataPlace
from verify.errors import InputError
from verify.files import file_digest
from verify.identity import RecordKey
from verify.records import Fields

HASH_START = 8
"""So many characters of a keyed hash name a record; fewer could name two."""


@dataclass(frozen=True)
class Matched:
    """What one request means.

    Attributes:
        request: its id.
        certain: records of the person, and exact duplicates of them.
        confirmed: near-duplicates that a human confirmed.
        undecided: near-duplicates that nobody has confirmed.
        places: the files that hold what is to be deleted.
    """

    request: str
    certain: tuple[Match, ...]
    confirmed: tuple[Match, ...]
    undecided: tuple[Match, ...]
    places: tuple[DataPlace, ...]

    @property
    def removed(self) -> tuple[Match, ...]:
        """What is to be deleted."""
        return self.certain + self.confirmed

    @property
    def records(self) -> frozenset[str]:
        """Keyed hashes of what is to be deleted."""
        return frozenset(match.record for match in self.removed)


def match_requests(
    requests: Sequence[Request], data: Sequence[str], key: RecordKey, fields: Fields, confirmed: Sequence[str] = ()
) -> list[Matched]:
    """Find the records of several requests in one search of the files.

    Args:
        requests: whose identity is verified.
        data: training files.
        key: the ledger's hashes were made with it.
        fields: which columns hold what.
        confirmed: near-duplicates that a human confirmed, each as FILE:ROW or the start of its keyed hash.

    Raises:
        InputError: a file cannot be read, or a confirmation names no near-duplicate that was found.
    """
    subjects = {subject for request in requests for subject in request.subjects}
    found = find_records(data, key, subjects=subjects, fields=fields)
    near = [match for match in found if match.how == "near duplicate"]
    chosen = {place for entry in confirmed for place in _named(entry, near)}
    digests = {file: file_digest(file) if Path(file).is_file() else "" for file in data}
    return [_matched(request, found, chosen, digests) for request in requests]


def _matched(request: Request, found: Sequence[Match], chosen: Collection[tuple[str, int]], digests: Mapping[str, str]) -> Matched:
    own = [match for match in found if match.how == "subject" and not set(request.subjects).isdisjoint(match.subjects)]
    names = {match.record for match in own}
    repeated = [match for match in found if match.like in names]
    exact = [match for match in repeated if match.how == "exact duplicate"]
    near = [match for match in repeated if match.how == "near duplicate"]
    # Another subject's own record with the same content was found as that subject's, not as a duplicate.
    twins = [match for match in found if match.how == "subject" and match not in own and match.record in names]
    confirmed = [match for match in near if (match.file, match.row) in chosen]
    removed = [*own, *exact, *twins, *confirmed]
    places = [
        DataPlace(
            file=Path(file).name,
            digest=digest,
            records=sum(match.file == file for match in removed),
            near_duplicates=sum(match.file == file for match in confirmed),
        )
        for file, digest in digests.items()
    ]
    return Matched(
        request.id,
        tuple(own + exact + twins),
        tuple(confirmed),
        tuple(match for match in near if match not in confirmed),
        tuple(place for place in places if place.records),
    )


def _named(entry: str, near: Sequence[Match]) -> list[tuple[str, int]]:
    """Places of the near-duplicates that a confirmation names."""
    given = entry.strip()
    if not given:
        return []
    file, _, row = given.rpartition(":")
    found = [
        (match.file, match.row)
        for match in near
        if (file and row == str(match.row) and file in (match.file, Path(match.file).name))
        or (len(given) >= HASH_START and match.record.startswith(given))
    ]
    if not found:
        raise InputError(
            f"the confirmation {given[:80]!r} names no near-duplicate that was found. Give FILE:ROW or the first {HASH_START} or "
            "more characters of a hash, as `unlearn request plan --dry-run` lists them."
        )
    return found

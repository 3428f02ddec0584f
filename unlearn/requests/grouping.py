"""Group requests into batches: those that touch the same models and have close deadlines are answered together.

One rebuild then does for several of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from unlearn.requests.ledger.request import Request
from verify.errors import InputError
from verify.schema.deletion_record import DataPlace


@dataclass(frozen=True)
class Known:
    """Records of a request: keyed hash of each record -> keyed hash of the person it is about."""

    request: Request
    records: Mapping[str, str]
    places: Sequence[DataPlace]


def known_from_ledger(request: Request) -> Known:
    """Return the records of a request as the ledger fixed them when its audits were registered."""
    matched = request.latest("matched")
    assert matched is not None, "registered requests have been matched"
    records = {entry["record"]: entry["subject"] or entry["record"] for entry in matched["records"]}
    return Known(request, records, [DataPlace(**place) for place in matched["places"]])


def matched_records(requests: Sequence[Request]) -> dict[str, frozenset[str]]:
    """Return the keyed hashes of the records that each request was matched with, by the ledger."""
    matched = {request.id: (request.latest("matched") or {"records": ()})["records"] for request in requests}
    return {name: frozenset(entry["record"] for entry in records) for name, records in matched.items()}


def in_batches(known: Sequence[Known], held: Mapping[str, frozenset[str]], window: int) -> list[list[Known]]:
    """Group requests that share models and have close deadlines; the most urgent group comes first.

    Raises:
        InputError: a request's records are in no model in service.
    """
    components: list[tuple[set[str], list[Known]]] = []
    for entry in known:
        models = {weights for weights, names in held.items() if names & entry.records.keys()}
        if not models:
            raise InputError(
                f"no model in service saw the records of {entry.request.id}. Correct --in-service, or deny the request."
            )
        # Connected components: merge all groups that share a model with this request.
        touching = [part for part in components if part[0] & models]
        components = [part for part in components if part not in touching]
        merged = [entry, *(other for part in touching for other in part[1])]
        components.append((models.union(*(part[0] for part in touching)), merged))
    groups: list[list[Known]] = []
    for _, entries in components:
        entries.sort(key=lambda entry: (entry.request.due, entry.request.id))
        for entry in entries:
            last = groups[-1][0] if groups and groups[-1][0] in entries else None
            if last is None or entry.request.due > last.request.due + timedelta(days=window):
                groups.append([])
            groups[-1].append(entry)
    return sorted(groups, key=lambda group: group[0].request.due)


def places_of(group: Sequence[Known]) -> tuple[DataPlace, ...]:
    """Return the files that contain records of any of the requests, with counts summed over the requests."""
    found: dict[tuple[str, str], list[DataPlace]] = {}
    for entry in group:
        for place in entry.places:
            found.setdefault((place.file, place.digest), []).append(place)
    return tuple(
        DataPlace(
            file=file,
            digest=digest,
            records=sum(place.records for place in places),
            near_duplicates=sum(place.near_duplicates for place in places),
        )
        for (file, digest), places in found.items()
    )

"""A batch's rows in its training files: deleted ones that are still there, those that stay, and suppression from later training."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from unlearn.purge.suppression import extended
from unlearn.requests.ledger.request import Request
from unlearn.requests.plan import Plan
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import stream_records


def staying_records(plan: Plan, key: RecordKey) -> Iterator[Record]:
    """Yield the records of the training files that are not deleted; a sentence that is in one of these, too, identifies no copy."""
    for file in plan.data:
        if Path(file).exists():
            yield from (record for record in stream_records(file, plan.columns) if key.of(record.fingerprint) not in plan.records)


def still_in_files(plan: Plan, key: RecordKey) -> tuple[dict[str, list[str]], list[Record]]:
    """Return the keyed hashes of the deleted rows still in each training file, and their records."""
    rows: dict[str, list[str]] = {}
    records = []
    for file in plan.data:
        if not Path(file).exists():
            continue
        for record in stream_records(file, plan.columns):
            if (name := key.of(record.fingerprint)) in plan.records:
                rows.setdefault(file, []).append(name)
                records.append(record)
    return rows, records


def suppress(plan: Plan, requests: Sequence[Request], path: Path, key: RecordKey) -> int:
    """Put a batch's records and the persons who asked on the suppression list; return the number of these records.

    For a person who asked, all records are suppressed, also under a similar identifier that was confirmed as theirs; for others,
    only the records that repeat those of the person.

    Raises:
        InputError: the list is damaged, or another process is writing it.
    """
    asked = {subject for request in requests for subject in request.subjects}
    matched = [entry for request in requests for entry in (request.latest("matched") or {"records": []})["records"]]
    asked |= {entry["subject"] for entry in matched if entry["how"] == "similar identifier"}
    records = still_in_files(plan, key)[1]
    with extended(path) as found:
        found.add(records, key, only=asked)
        found.add_people(asked, [token for request in requests for token in request.likenesses])
    return len(records)

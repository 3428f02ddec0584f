"""After deployment: what is left of the deleted records, and the list that keeps them from coming back.

Old weights in service stay, with that as their reason, until the operator says that they are retired. Training files are never
touched: as long as one still holds a deleted row it is a copy without a reason, and the request cannot be closed.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unlearn.requests.finding import subject_of
from unlearn.requests.ledger import Ledger, Request
from unlearn.requests.lineage import AffectedModel, affected_models
from unlearn.requests.plans import Plan
from unlearn.requests.suppression import SuppressionList
from unlearn.requests.workplace import alone_in
from verify.errors import InputError
from verify.files import read_json, write_json
from verify.identity import RecordKey
from verify.records import Record
from verify.sources import stream_records

ATTEMPT = "removing.json"
HASHED = "keyed hash"
"""How a place is called whose name would tell of a person."""
IN_FILE = "still in the training file, whose rows are removed before the request is closed"
IN_SERVICE = "in service until the new weights have taken its place; then it is retired with `close --retired`"


class Residue(Protocol):
    """A place where deleted data still lies, as `unlearn.requests.purging` reports it."""

    @property
    def place(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    @property
    def removable(self) -> bool: ...

    @property
    def reason(self) -> str: ...


class Purging(Protocol):
    """The module that finds and removes residues."""

    def find_residues(
        self,
        roots: Sequence[Path],
        *,
        records: Sequence[Record],
        key: RecordKey,
        affected: Sequence[AffectedModel],
        spare: Collection[Path] = (),
    ) -> Sequence[Any]: ...

    def remove(self, residues: Sequence[Any]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Left:
    """What a cleaning leaves.

    Attributes:
        residual: place, kind and reason of what stays; without a reason it must be removed or explained.
        removed: how many residues of each kind were removed.
    """

    residual: tuple[Mapping[str, str], ...]
    removed: Mapping[str, int]

    @property
    def unexplained(self) -> tuple[Mapping[str, str], ...]:
        """What stays without a reason."""
        return tuple(copy for copy in self.residual if not copy["reason"].strip())


def clean(
    ledger: Ledger,
    folder: Path,
    plan: Plan,
    key: RecordKey,
    *,
    retired: Collection[str] = (),
    remove: bool = False,
    closing: bool = False,
    reasons: Mapping[str, str] | None = None,
    purging: Purging | None = None,
) -> Left:
    """Look for what is left of a deployed batch's records, and remove what may be removed.

    Args:
        ledger: tells which models are in service.
        folder: of the batch.
        plan: the batch.
        key: the ledger's.
        retired: weights that are out of service by now.
        remove: whether to remove what is removable; otherwise it is only listed.
        closing: whether rows in training files, which the audit needed until now, must be gone.
        reasons: the operator's reasons for what stays, by place as it is listed.
        purging: stands in for `unlearn.requests.purging`.

    Raises:
        InputError: a folder or file cannot be read.
    """
    tools = purging or _purging()
    rows, records = _still_in_files(plan, key)
    roots = [Path(root) for root in dict.fromkeys([*plan.roots, str(folder.parent.resolve())])]
    known = affected_models(roots, plan.records)
    affected = [model for model in known if not model.folder.is_relative_to(folder.resolve()) and not _is_new(model, ledger)]
    serving = {model.weights for model in plan.models} - set(retired)
    staying = [model for model in affected if model.weights in serving]
    going = [model for model in affected if model.weights not in serving]
    spare = [folder.resolve(), *(Path(file) for file in plan.data), *(model.folder for model in staying)]
    found = tools.find_residues(roots, records=records, key=key, affected=going, spare=spare)
    given = dict(reasons or {})
    listed = [_listed(model.folder, roots, records, key, "model in service", IN_SERVICE, given) for model in staying]
    for file, count in rows.items():
        listed.append(_listed(Path(file), roots, records, key, f"training file, {count} rows", "" if closing else IN_FILE, given))
    # Nothing goes for a request that could not be closed afterwards anyway.
    removing = remove and all(copy["reason"].strip() for copy in listed)
    tried = _note_attempt(ledger, folder, plan, found, key) if removing else {}
    left = tools.remove(found) if removing else found
    staying_places = {key.of(str(entry.place), "place") for entry in left}
    removed = Counter(kind for place, kind in tried.items() if place not in staying_places)
    listed += [_listed(entry.place, roots, records, key, entry.kind, entry.reason, given) for entry in left]
    return Left(tuple(listed), dict(removed))


def _note_attempt(ledger: Ledger, folder: Path, plan: Plan, found: Sequence[Residue], key: RecordKey) -> dict[str, str]:
    """Note what is about to be removed, so that a kill in between does not lose the count; what has been noted since the last
    cleaning in the ledger, as keyed hashes of places with their kinds."""
    cleanings = sum(step.state == "purged" for step in ledger.request(plan.requests[0]).steps)
    before = read_json(folder / ATTEMPT) if (folder / ATTEMPT).exists() else {}
    places = dict(before["places"]) if before.get("cleanings") == cleanings else {}
    places |= {key.of(str(entry.place), "place"): entry.kind for entry in found}
    write_json(folder / ATTEMPT, {"cleanings": cleanings, "places": places})
    return places


def carried_over(earlier: Sequence[Mapping[str, str]], left: Left, roots: Sequence[str]) -> Left:
    """With what an earlier search found and explained: without the texts in the training files, no search finds it again."""
    now = {(copy["place"], copy["kind"]) for copy in left.residual}
    again = [copy for copy in earlier if copy["reason"] not in (IN_SERVICE, IN_FILE) and (copy["place"], copy["kind"]) not in now]
    there = [
        copy for copy in again if copy["place"].startswith(HASHED) or any((Path(root) / copy["place"]).exists() for root in roots)
    ]
    return Left((*left.residual, *there), left.removed)


def _purging() -> Purging:
    from importlib import import_module

    module: Any = import_module("unlearn.requests.purging")
    return module  # type: ignore[no-any-return]


def _is_new(model: AffectedModel, ledger: Ledger) -> bool:
    """Whether these weights came out of a verified deletion: they descend from an affected model, and do not hold the records."""
    steps = [step for request in ledger.requests() for step in request.steps if step.state == "deployed"]
    return not model.records and model.weights in {made["after"] for step in steps for made in step.details["models"]}


def _still_in_files(plan: Plan, key: RecordKey) -> tuple[dict[str, int], list[Record]]:
    """How many rows of each training file are still deleted records, and these records."""
    rows: dict[str, int] = {}
    records = []
    for file in plan.data:
        if not Path(file).exists():
            continue
        for record in stream_records(file, plan.columns):
            if key.of(record.fingerprint) in plan.records:
                rows[file] = rows.get(file, 0) + 1
                records.append(record)
    return rows, records


def _listed(
    place: Path, roots: Sequence[Path], records: Sequence[Record], key: RecordKey, kind: str, reason: str, given: Mapping[str, str]
) -> dict[str, str]:
    """One copy as ledger and report name it: a place whose own name tells of a person is named by its keyed hash."""
    inside = next((place.relative_to(root) for root in roots if place.is_relative_to(root)), None)
    name = place.name if inside is None or not inside.parts else inside.as_posix()
    telling = {
        text.lower() for record in records for text in (record.subject_id, record.example_id if record.named else None) if text
    }
    if any(text in name.lower() for text in telling if len(text) > 1):
        name = f"{HASHED} {key.of(name, 'place')}"
    return {"place": name, "kind": kind, "reason": given.get(name, reason)}


def suppress(plan: Plan, requests: Sequence[Request], path: Path, key: RecordKey) -> int:
    """Put a batch's records on the suppression list, and the persons who asked; how many records were added or were there.

    Everything of a person who asked stays out; of others only the records that repeat theirs.

    Raises:
        InputError: the list is damaged, or another process changes it.
    """
    asked = {subject for request in requests for subject in request.subjects}
    records = _still_in_files(plan, key)[1]
    with alone_in(path.parent / f".{path.name}.lock"):
        found = SuppressionList.load(path) if path.exists() else SuppressionList()
        found.add([record for record in records if subject_of(record, key) in asked], key)
        found.add([record for record in records if subject_of(record, key) not in asked], key, whole_subjects=False)
        found.save(path)
    return len(records)


def read_reasons(content: Any) -> dict[str, str]:
    """The operator's reasons: a JSON object from place to reason.

    Raises:
        InputError: it is something else, or a reason is empty.
    """
    if not isinstance(content, dict) or not all(isinstance(text, str) and text.strip() for text in content.values()):
        raise InputError('reasons must be a JSON object such as {"backup.jsonl": "expires on 1 May"}, none of them empty.')
    return dict(content)

"""After deployment: what is left of the deleted records, and the list that keeps them from coming back.

Old weights in service stay, with that as their reason, until the operator says that they are retired. Training files are read
until the audit is done; after that, a deleted row in one of them is a copy without a reason, and the request cannot be closed. It
is the operator who gives reasons: that a program could not remove a copy is none.

What copies are known by, the texts and the old weights, goes only when no copy is left without a reason: a later search would find
nothing, and say so. What a search found and nobody removed is kept in the batch's folder for the same cause.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn.requests import purging
from unlearn.requests.ledger import Ledger, Request
from unlearn.requests.lineage import AffectedModel, affected_models
from unlearn.requests.plans import Plan
from unlearn.requests.residues import BY_CONTENT, Residue
from unlearn.requests.suppression import extended
from verify.errors import InputError
from verify.files import read_json, write_json
from verify.identity import RecordKey, plainly, telling_parts
from verify.records import Record
from verify.sources import stream_records

ATTEMPT = "removing.json"
FOUND = "found.json"
"""What the last search found and nobody removed, under keyed hashes of the places."""
HASHED = "keyed hash"
"""How a place is called whose name would tell of a person."""
IN_FILE = "still in the training file, whose rows are removed before the request is closed"
REWRITING = "--remove --rewrite-data writes it anew without them"
HELD_BACK = "--remove takes it away once nothing else stays without a reason"
NOT_SEARCHED = "an earlier search found it, and what it is known by is gone since; remove it by hand"
IN_SERVICE = "in service until the new weights have taken its place; then it is retired with `close --retired`"


@dataclass(frozen=True)
class Left:
    """What a cleaning leaves.

    Attributes:
        residual: place, kind and reason of what stays, and why it could not be removed; without a reason it must be removed or
            explained, and only the operator gives one.
        removed: how many residues of each kind were removed.
        shown: what places are really called, for the operator's eyes alone: ledger and record have keyed hashes.
    """

    residual: tuple[Mapping[str, str], ...]
    removed: Mapping[str, int]
    shown: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def unexplained(self) -> tuple[Mapping[str, str], ...]:
        """What stays without a reason, by the names that the operator knows."""
        return tuple({**copy, "place": self.shown.get(copy["place"], copy["place"])} for copy in _unexplained(self.residual))


def clean(
    ledger: Ledger,
    folder: Path,
    plan: Plan,
    key: RecordKey,
    *,
    retired: Collection[str] = (),
    remove: bool = False,
    closing: bool = False,
    rewrite_data: bool = False,
    reasons: Mapping[str, str] | None = None,
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
        rewrite_data: whether `remove`, when closing, writes training files anew without the records.
        reasons: the operator's reasons for what stays, by place as it is listed, or by a folder above it.

    Raises:
        InputError: a folder or file cannot be read.
    """
    rows, records = _still_in_files(plan, key)
    roots = [Path(root) for root in dict.fromkeys([*plan.roots, str(folder.parent.resolve())])]
    staying, going = _old_models(ledger, folder, plan, roots, retired)
    files = [Path(file).resolve() for file in rows]
    found = purging.find_residues(
        roots,
        records=records,
        key=key,
        affected=going,
        spare=[*_kept(ledger, folder, plan, going), *(model.folder for model in staying), *files],
        retained=_staying_records(plan, key),
        rewrite_data=rewrite_data,
    )
    found = [entry for entry in found if entry.place not in files]
    rewritten = purging.data_residues(files, records, _staying_records(plan, key)) if closing and rewrite_data else []
    naming = _Naming(roots, records, key, dict(reasons or {}))
    before = _Before(folder, key)
    before.look_again(found, roots, all_texts=plan.records <= {key.of(record.fingerprint) for record in records})
    listed = [naming.copy(model.folder, "model in service", IN_SERVICE) for model in staying]
    listed += before.copies(naming)
    in_data = naming.data(rows, "" if closing else IN_FILE)
    staying_anyway = [naming.residue(entry) for entry in [*found, *rewritten] if not entry.removable]
    # Nothing goes for a request that could not be closed afterwards anyway.
    hindered = closing and _unexplained([*listed, *staying_anyway, *([] if rewritten else in_data)])
    if not remove or hindered:
        before.save(found)
        return Left((*listed, *in_data, *(naming.residue(entry, HELD_BACK if remove else "") for entry in found)), {}, naming.shown)
    before.save([entry for entry in found if not entry.removable])
    # The texts are what copies are known by: they go last, so that a run that is cut off can be taken up.
    tried = _note_attempt(ledger, folder, plan, [*found, *rewritten], key)
    left = _removed_in_order([*found, *rewritten], naming, closing)
    staying_places = {key.of(str(entry.place), "place") for entry in left}
    removed = Counter(kind for place, kind in tried.items() if place not in staying_places)
    if rewritten:
        failed = {entry.place: entry.reason for entry in left if entry.place in files}
        in_data = naming.data(_still_in_files(plan, key)[0], "", failed)
    copies = [entry for entry in left if entry.place not in files]
    before.save(copies)
    return Left((*listed, *in_data, *(naming.residue(entry, HELD_BACK) for entry in copies)), dict(removed), naming.shown)


def _unexplained(copies: Sequence[Mapping[str, str]]) -> tuple[Mapping[str, str], ...]:
    return tuple(copy for copy in copies if not copy["reason"].strip())


def _removed_in_order(found: Sequence[Residue], naming: "_Naming", closing: bool) -> list[Residue]:
    """Remove what may be removed, and return what stays. When closing, nothing goes after what failed to go and has no reason: what
    comes later in the list may be all that it is known by."""
    left: list[Residue] = []
    held = False
    for entry in found:
        stays = [entry] if held else purging.remove([entry])
        held = held or (closing and bool(_unexplained([naming.residue(copy) for copy in stays])))
        left += stays
    return left


class _Before:
    """What earlier searches found and nobody removed since; no search may find it again."""

    def __init__(self, folder: Path, key: RecordKey) -> None:
        self.path, self.key = folder / FOUND, key
        self.places: dict[str, dict[str, Any]] = dict(read_json(self.path)["places"]) if self.path.exists() else {}
        self.there: dict[str, Path] = {}

    def look_again(self, found: Sequence[Residue], roots: Sequence[Path], all_texts: bool) -> None:
        """Take as there yet what this search did not find, where its place is there.

        While every text stands in the training files, a search of contents says as much as an earlier one: a file without them was
        mended. What is known by something else, such as a copy by the weights that it repeats, is gone when its place is.
        """
        now = {self._name(entry.place) for entry in found}
        open_ = {name for name, copy in self.places.items() if name not in now and not (all_texts and copy["by_content"])}
        there = {self._name(place): place for place in purging.places(roots)} if open_ else {}
        self.there = {name: there[name] for name in open_ & there.keys()}

    def copies(self, naming: "_Naming") -> list[dict[str, str]]:
        """What is there yet, as it is listed."""
        return [naming.copy(place, self.places[name]["kind"], "", NOT_SEARCHED) for name, place in self.there.items()]

    def save(self, found: Sequence[Residue]) -> None:
        """Note what stays: of this search and of earlier ones. No place is named, as its name may tell of a person."""
        by_content = (BY_CONTENT, purging.UNSEARCHED)
        staying = {self._name(entry.place): {"kind": entry.kind, "by_content": entry.how in by_content} for entry in found}
        write_json(self.path, {"places": {name: self.places[name] for name in self.there} | staying})

    def _name(self, place: Path) -> str:
        return self.key.of(str(place), "place")


def _old_models(
    ledger: Ledger, folder: Path, plan: Plan, roots: Sequence[Path], retired: Collection[str]
) -> tuple[list[AffectedModel], list[AffectedModel]]:
    """The affected models that are still in service, and those that are not; what verified deletions made is neither."""
    known = {model.folder.resolve(): model for model in affected_models(roots, plan.records)}
    affected = [
        model for place, model in known.items() if not place.is_relative_to(folder.resolve()) and not _is_new(model, ledger)
    ]
    serving = {model.weights for model in plan.models} - set(retired)
    return [model for model in affected if model.weights in serving], [model for model in affected if model.weights not in serving]


def _kept(ledger: Ledger, folder: Path, plan: Plan, going: Sequence[AffectedModel]) -> Iterator[Path]:
    """What no cleaning may take: this batch and its new models, the audits of others, base models, the ledger, the key."""
    yield folder.resolve()
    deployed = ledger.request(plan.requests[0]).latest("deployed") or {"models": []}
    yield from (folder.resolve() / str(made["folder"]) for made in deployed["models"])
    for other in sorted(folder.resolve().parent.glob("B-*")):
        # The model that an earlier batch made may be the one that this batch replaced: it goes, its audit stays.
        inside = [place for place in other.iterdir() if not place.name.startswith("model-")]
        yield from inside
        yield from (place for place in other.glob("model-*/*") if not place.name.startswith("rung-"))
    gone = {model.folder.resolve() for model in going}
    bases = {Path(model.base).resolve() for model in plan.models if model.base is not None and Path(model.base).exists()}
    yield from bases - gone
    yield RecordKey.default_path()
    if (file := ledger.file) is not None:
        yield from (file.with_name(file.name + side) for side in ("", "-wal", "-shm"))


def _staying_records(plan: Plan, key: RecordKey) -> Iterator[Record]:
    """The records of the training files that are not deleted: a sentence that stands in them too accuses nobody."""
    for file in plan.data:
        if Path(file).exists():
            yield from (record for record in stream_records(file, plan.columns) if key.of(record.fingerprint) not in plan.records)


def _note_attempt(ledger: Ledger, folder: Path, plan: Plan, found: Sequence[Residue], key: RecordKey) -> dict[str, str]:
    """Note what is about to be removed, so that a kill in between does not lose the count; what has been noted since the last
    cleaning in the ledger, as keyed hashes of places with their kinds."""
    cleanings = sum(step.state == "purged" for step in ledger.request(plan.requests[0]).steps)
    before = read_json(folder / ATTEMPT) if (folder / ATTEMPT).exists() else {}
    places = dict(before["places"]) if before.get("cleanings") == cleanings else {}
    # What a killed run had begun to remove may look like something else by now: it is counted as what it was.
    places = {key.of(str(entry.place), "place"): entry.kind for entry in found if entry.removable} | places
    write_json(folder / ATTEMPT, {"cleanings": cleanings, "places": places})
    return places


def reasons_of(copies: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The reasons that the operator gave for copies, by place."""
    return {copy["place"]: copy["reason"] for copy in copies if copy["reason"] not in (IN_SERVICE, IN_FILE)}


def carried_over(earlier: Sequence[Mapping[str, str]], left: Left, roots: Sequence[str]) -> Left:
    """With what an earlier search found and explained: without the texts in the training files, no search finds it again."""
    now = {(name, copy["kind"]) for copy in left.residual for name in (copy["place"], left.shown.get(copy["place"]))}
    again = [copy for copy in earlier if copy["reason"] not in (IN_SERVICE, IN_FILE) and (copy["place"], copy["kind"]) not in now]
    there = [
        copy for copy in again if copy["place"].startswith(HASHED) or any((Path(root) / copy["place"]).exists() for root in roots)
    ]
    return Left((*left.residual, *there), left.removed, left.shown)


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


class _Naming:
    """How copies are called in ledger and report: a place whose own name tells of a person is named by its keyed hash."""

    def __init__(self, roots: Sequence[Path], records: Sequence[Record], key: RecordKey, reasons: Mapping[str, str]) -> None:
        self.roots, self.key, self.reasons = [root.resolve() for root in roots], key, reasons
        texts = (text for record in records for text in (*record.subjects, record.example_id if record.named else None))
        self.telling = {part for text in set(texts) if text is not None for part in telling_parts(text)}
        self.shown: dict[str, str] = {}

    def copy(self, place: Path, kind: str, reason: str, why: str = "") -> dict[str, str]:
        """One copy; `why` it could not be removed is no reason for its staying, but the operator is told."""
        inside = next((place.relative_to(root) for root in self.roots if place.is_relative_to(root)), None)
        clear = place.name if inside is None or not inside.parts else inside.as_posix()
        # Once the records are gone nothing says whose names these are: then any place may be called after a person.
        tells = not self.telling or any(part in plainly(clear) for part in self.telling)
        name = f"{HASHED} {self.key.of(clear, 'place')}" if tells else clear
        self.shown[name] = clear
        given = next((self.reasons[called] for called in (name, *_and_above(clear)) if called in self.reasons), reason)
        return {"place": name, "kind": kind, "reason": given, "why": why}

    def data(self, rows: Mapping[str, int], reason: str, failed: Mapping[Path, str] | None = None) -> list[dict[str, str]]:
        """Training files that still hold deleted rows; `failed` is why they could not be written anew."""
        why = {Path(file).resolve(): REWRITING for file in rows} | {place: text for place, text in (failed or {}).items() if text}
        kinds = {Path(file).resolve(): f"training file, {count} rows" for file, count in rows.items()}
        return [self.copy(place, kind, reason, why[place]) for place, kind in kinds.items()]

    def residue(self, residue: Residue, held: str = "") -> dict[str, str]:
        """What a search found and nothing removed; `held` is why what could be removed was not."""
        return self.copy(residue.place, residue.kind, "", residue.reason or held)


def _and_above(name: str) -> Iterator[str]:
    yield name
    yield from (parent.as_posix() for parent in Path(name).parents if parent.parts)


def suppress(plan: Plan, requests: Sequence[Request], path: Path, key: RecordKey) -> int:
    """Put a batch's records on the suppression list, and the persons who asked; how many records were added or were there.

    Everything of a person who asked stays out, also under a similar identifier that was confirmed as theirs; of others only the
    records that repeat theirs.

    Raises:
        InputError: the list is damaged, or another process changes it.
    """
    asked = {subject for request in requests for subject in request.subjects}
    matched = [entry for request in requests for entry in (request.latest("matched") or {"records": []})["records"]]
    asked |= {entry["subject"] for entry in matched if entry["how"] == "similar identifier"}
    records = _still_in_files(plan, key)[1]
    with extended(path) as found:
        found.add(records, key, only=asked)
        found.add_people(asked, [token for request in requests for token in request.likenesses])
    return len(records)


def read_reasons(content: Any) -> dict[str, str]:
    """The operator's reasons: a JSON object from place to reason.

    Raises:
        InputError: it is something else, or a reason is empty.
    """
    if not isinstance(content, dict) or not all(isinstance(text, str) and text.strip() for text in content.values()):
        raise InputError('reasons must be a JSON object such as {"backup.jsonl": "expires on 1 May"}, none of them empty.')
    return dict(content)

"""Find and remove copies of deleted records after deployment, and suppress the records from later training.

Old weights in service stay, for that reason, until the operator records that they are retired. Training files are needed until the
audit is done; after that, a deleted row in one of them is a copy without a reason, and the request cannot be closed. Only the
operator gives reasons: that a program could not remove a copy is not one.

The texts and the old weights, by which copies are recognized, are removed only when no copy is left without a reason; otherwise a
later search would find nothing and report a clean result. For the same reason, copies that a search found and nobody removed are
listed in the batch's folder.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn.purge import find
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.residue import BY_CONTENT, TRAINING_FILE, Residue
from unlearn.purge.suppression import extended
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request
from unlearn.requests.ownership import Owners, Ownership, counted_by_request
from unlearn.requests.plan import Plan
from unlearn.scan.lineage import AffectedModel, affected_models
from verify.data.identity import RecordKey, plainly, telling_parts
from verify.data.records import Record
from verify.data.sources import stream_records
from verify.errors import InputError
from verify.io.files import read_json, write_json

REMOVING = "removing.json"
FOUND = "found.json"
"""File with the copies that searches found and nobody removed, under keyed hashes of their paths."""
HASHED = "keyed hash"
"""Prefix of a path whose name might identify a person; a keyed hash follows it."""
IN_FILE = "still in the training file, whose rows are removed before the request is closed"
REWRITING = "can be rewritten without them with --remove --rewrite-data"
HELD_BACK = "can be removed with --remove once nothing else stays without a reason"
NOT_SEARCHED = "an earlier search found it, and it can no longer be searched for; remove it by hand"
IN_SERVICE = "in service until the new weights replace it; then retire it with `close --retired`"


@dataclass(frozen=True)
class Left:
    """Result of a cleanup.

    Attributes:
        residual: "place" (path), "kind" and "reason" of each copy that stays, "why" it could not be removed, and "requests", the
            ids of those whose data it holds, where that is known of a batch of several. A copy without a reason must be removed,
            or explained by the operator.
        removed: number of removed residues by kind.
        shown: real paths by the names in `residual`, for the operator only: ledger and record contain keyed hashes.
        removed_for: the same number for each request of a batch of several, of the residues that are known to have held its data.
    """

    residual: tuple[Mapping[str, Any], ...]
    removed: Mapping[str, int]
    shown: Mapping[str, str] = field(default_factory=dict, repr=False)
    removed_for: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def unexplained(self) -> tuple[Mapping[str, Any], ...]:
        """Return the copies that stay without a reason, with their real paths."""
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
    """Search for copies of a deployed batch's records, and remove those that may be removed.

    Args:
        ledger: the request ledger, which records the models in service.
        folder: the batch's folder.
        plan: the batch's plan.
        key: the ledger's record key.
        retired: digests of weights that are out of service.
        remove: whether to remove what is removable instead of only listing it.
        closing: whether rows in training files, which the audit needed until now, must be gone.
        rewrite_data: whether `remove` rewrites training data without the records; training files only when closing.
        reasons: the operator's reasons for what stays, by path as listed or by a folder above it.

    Raises:
        InputError: a folder or file cannot be read.
    """
    rows, records = _still_in_files(plan, key)
    roots = [Path(root) for root in dict.fromkeys([*plan.roots, str(folder.parent.resolve())])]
    staying, going = _old_models(ledger, folder, plan, roots, retired)
    files = [Path(file).resolve() for file in rows]
    search = ContentSearch(records, _staying_records(plan, key))
    owned = Ownership([ledger.request(name) for name in plan.requests], records, search, [*staying, *going], key)
    found = find.find_residues(
        roots,
        records=records,
        key=key,
        affected=going,
        spare=[*_kept(ledger, folder, plan, going), *(model.folder for model in staying), *files],
        rewrite_data=rewrite_data,
        search=search,
    )
    found = [entry for entry in found if entry.place not in files]
    rewritten = find.data_residues(files, records, _staying_records(plan, key), roots) if closing and rewrite_data else []
    naming = _Naming(roots, records, key, dict(reasons or {}), owned)
    earlier = _EarlierFinds(folder, key, owned)
    earlier.refresh(found, roots, all_texts=plan.records <= {key.of(record.fingerprint) for record in records})
    listed = [naming.copy(model.folder, "model in service", IN_SERVICE, owners=owned.of_records(model.names)) for model in staying]
    listed += earlier.copies(naming)
    in_data = naming.data(rows, "" if closing else IN_FILE)
    staying_anyway = [naming.residue(entry) for entry in [*found, *rewritten] if not entry.removable]
    # Remove nothing for a request that could not be closed afterwards anyway.
    blocked = closing and _unexplained([*listed, *staying_anyway, *([] if rewritten else in_data)])
    if not remove or blocked:
        earlier.save(found)
        return Left((*listed, *in_data, *(naming.residue(entry, HELD_BACK if remove else "") for entry in found)), {}, naming.shown)
    earlier.save([entry for entry in found if not entry.removable])
    # Copies are recognized by the texts, so these are removed last: a run that is killed can then be resumed.
    tried, owners = _record_intent(ledger, folder, plan, [*found, *rewritten], key, owned)
    left = _removed_in_order([*found, *rewritten], naming, closing)
    staying_places = {key.of(str(entry.place), "place") for entry in left}
    gone = {place: kind for place, kind in tried.items() if place not in staying_places}
    if rewritten:
        failed = {entry.place: entry.reason for entry in left if entry.place in files}
        in_data = naming.data(_still_in_files(plan, key)[0], "", failed)
    copies = [entry for entry in left if entry.place not in files]
    earlier.save(copies)
    residual = (*listed, *in_data, *(naming.residue(entry, HELD_BACK) for entry in copies))
    return Left(residual, dict(Counter(gone.values())), naming.shown, counted_by_request(gone, owners))


def _unexplained(copies: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(copy for copy in copies if not copy["reason"].strip())


def _removed_in_order(found: Sequence[Residue], naming: "_Naming", closing: bool) -> list[Residue]:
    """Remove what may be removed, and return what stays.

    When closing, stop at the first copy that could not be removed and has no reason: what comes later in the list may be needed to
    recognize it.
    """
    left: list[Residue] = []
    held = False
    for entry in found:
        stays = [entry] if held else find.remove([entry])
        held = held or (closing and bool(_unexplained([naming.residue(copy) for copy in stays])))
        left += stays
    return left


class _EarlierFinds:
    """Copies that earlier searches found and nobody removed since, which a new search may no longer recognize."""

    def __init__(self, folder: Path, key: RecordKey, owned: Ownership) -> None:
        self.path, self.key, self.owned = folder / FOUND, key, owned
        self.places: dict[str, dict[str, Any]] = dict(read_json(self.path)["places"]) if self.path.exists() else {}
        self.there: dict[str, Path] = {}

    def refresh(self, found: Sequence[Residue], roots: Sequence[Path], all_texts: bool) -> None:
        """Determine which earlier copies still exist although this search did not find them.

        While every text is still in the training files, a content search is as good as an earlier one, so a file that it does not
        find has been cleaned. Copies recognized by other means, such as repeated weights, count as gone when their path is.
        """
        now = {self._name(entry.place) for entry in found}
        open_ = {name for name, copy in self.places.items() if name not in now and not (all_texts and copy["by_content"])}
        there = {self._name(place): place for place in find.places(roots)} if open_ else {}
        self.there = {name: there[name] for name in open_ & there.keys()}

    def copies(self, naming: "_Naming") -> list[dict[str, Any]]:
        """Return the earlier copies that still exist, as entries of `Left.residual`."""
        known = [(place, self.places[name]) for name, place in self.there.items()]
        return [naming.copy(place, copy["kind"], "", NOT_SEARCHED, copy.get("requests")) for place, copy in known]

    def save(self, found: Sequence[Residue]) -> None:
        """Write down what stays of this search and of earlier ones, by keyed hash, as a path may identify a person."""
        by_content = (BY_CONTENT, find.UNSEARCHED)
        staying = {
            self._name(entry.place): {"kind": entry.kind, "by_content": entry.how in by_content, **_noted(self.owned.of(entry))}
            for entry in found
        }
        write_json(self.path, {"places": {name: self.places[name] for name in self.there} | staying}, mode=0o600)

    def _name(self, place: Path) -> str:
        return self.key.of(str(place), "place")


def _old_models(
    ledger: Ledger, folder: Path, plan: Plan, roots: Sequence[Path], retired: Collection[str]
) -> tuple[list[AffectedModel], list[AffectedModel]]:
    """Return the affected models in service and those not in service, without models that verified deletions made."""
    known = {model.folder.resolve(): model for model in affected_models(roots, plan.records)}
    affected = [model for path, model in known.items() if not path.is_relative_to(folder.resolve()) and not _is_new(model, ledger)]
    serving = {model.weights for model in plan.models} - set(retired)
    return [model for model in affected if model.weights in serving], [model for model in affected if model.weights not in serving]


def _kept(ledger: Ledger, folder: Path, plan: Plan, going: Sequence[AffectedModel]) -> Iterator[Path]:
    """Yield paths that must stay: this batch and its new models, other batches' audits, base models, the ledger and the key."""
    yield folder.resolve()
    deployed = ledger.request(plan.requests[0]).latest("deployed") or {"models": []}
    yield from (folder.resolve() / str(made["folder"]) for made in deployed["models"])
    for other in sorted(folder.resolve().parent.glob("B-*")):
        # An earlier batch may have made the model that this batch replaced: the model is removed, its audit stays.
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
    """Yield the records of the training files that are not deleted; a sentence that they share is no sign of a copy."""
    for file in plan.data:
        if Path(file).exists():
            yield from (record for record in stream_records(file, plan.columns) if key.of(record.fingerprint) not in plan.records)


def _noted(owners: Owners) -> dict[str, Any]:
    """Return the entry that names the requests whose data a copy holds; nothing where that is not known."""
    return {} if owners is None else {"requests": list(owners)}


def _record_intent(
    ledger: Ledger, folder: Path, plan: Plan, found: Sequence[Residue], key: RecordKey, owned: Ownership
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Record what is about to be removed, so that a kill in between does not lose the count.

    Returns:
        by keyed hash of the path, of everything recorded since the last cleanup in the ledger: kinds; ids of the requests whose
        data it holds, where that is known.
    """
    cleanings = sum(step.state == "purged" for step in ledger.request(plan.requests[0]).steps)
    before = read_json(folder / REMOVING) if (folder / REMOVING).exists() else {}
    before = before if before.get("cleanings") == cleanings else {}
    going = {key.of(str(entry.place), "place"): entry for entry in found if entry.removable}
    # A half-removed copy may look like another kind now: it counts as what it was first.
    places = {place: entry.kind for place, entry in going.items()} | dict(before.get("places", {}))
    owners = {place: list(whose) for place, entry in going.items() if (whose := owned.of(entry)) is not None}
    owners |= before.get("owners", {})
    content = {"cleanings": cleanings, "places": places} | ({"owners": owners} if owners else {})
    write_json(folder / REMOVING, content, mode=0o600)
    return places, owners


def reasons_of(copies: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the reasons that the operator gave for copies, by path as listed."""
    return {copy["place"]: copy["reason"] for copy in copies if copy["reason"] not in (IN_SERVICE, IN_FILE)}


def carried_over(earlier: Sequence[Mapping[str, Any]], left: Left, roots: Sequence[str]) -> Left:
    """Add copies that an earlier search found and the operator explained; without the texts, no search finds them again.

    Nor can it tell whose data the copies hold that it does find: that is taken from the earlier one as well.
    """
    whose = {(copy["place"], copy["kind"]): copy["requests"] for copy in earlier if "requests" in copy}
    found = [_with_owners(copy, whose, left.shown) for copy in left.residual]
    now = {(name, copy["kind"]) for copy in left.residual for name in (copy["place"], left.shown.get(copy["place"]))}
    again = [copy for copy in earlier if copy["reason"] not in (IN_SERVICE, IN_FILE) and (copy["place"], copy["kind"]) not in now]
    there = [
        copy for copy in again if copy["place"].startswith(HASHED) or any((Path(root) / copy["place"]).exists() for root in roots)
    ]
    return replace(left, residual=(*found, *there))


def _with_owners(
    copy: Mapping[str, Any], whose: Mapping[tuple[str, str], Sequence[str]], shown: Mapping[str, str]
) -> dict[str, Any]:
    """Return an entry with the requests whose data it holds, where only an earlier search could tell."""
    names = (copy["place"], shown.get(copy["place"], copy["place"]))
    earlier = next((whose[name, copy["kind"]] for name in names if (name, copy["kind"]) in whose), None)
    return {**_noted(None if earlier is None else tuple(earlier)), **copy}


def _is_new(model: AffectedModel, ledger: Ledger) -> bool:
    """Whether a verified deletion made these weights: they descend from an affected model but never saw the records."""
    steps = [step for request in ledger.requests() for step in request.steps if step.state == "deployed"]
    return not model.records and model.weights in {made["after"] for step in steps for made in step.details["models"]}


def _still_in_files(plan: Plan, key: RecordKey) -> tuple[dict[str, list[str]], list[Record]]:
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


class _Naming:
    """Names of copies for ledger and report: a keyed hash for a path that might identify a person."""

    def __init__(
        self, roots: Sequence[Path], records: Sequence[Record], key: RecordKey, reasons: Mapping[str, str], owned: Ownership
    ) -> None:
        self.roots, self.key, self.reasons, self.owned = [root.resolve() for root in roots], key, reasons, owned
        texts = (text for record in records for text in (*record.subjects, record.example_id if record.named else None))
        self.identifying = {part for text in set(texts) if text is not None for part in telling_parts(text)}
        self.shown: dict[str, str] = {}

    def copy(self, place: Path, kind: str, reason: str, why: str = "", owners: Owners = None) -> dict[str, Any]:
        """Describe one copy; `why` it could not be removed is shown to the operator, but is no reason for it to stay."""
        inside = next((place.relative_to(root) for root in self.roots if place.is_relative_to(root)), None)
        clear = place.name if inside is None or not inside.parts else inside.as_posix()
        # Once the records are gone, their identifiers are unknown: then any path might contain one.
        hide = not self.identifying or any(part in plainly(clear) for part in self.identifying)
        name = f"{HASHED} {self.key.of(clear, 'place')}" if hide else clear
        self.shown[name] = clear
        given = next((self.reasons[called] for called in (name, *_and_above(clear)) if called in self.reasons), reason)
        return {"place": name, "kind": kind, "reason": given, "why": why, **_noted(owners)}

    def data(
        self, rows: Mapping[str, Sequence[str]], reason: str, failed: Mapping[Path, str] | None = None
    ) -> list[dict[str, Any]]:
        """Describe training files that still contain deleted rows; `failed` says why they could not be rewritten."""
        why = {Path(file).resolve(): REWRITING for file in rows} | {place: text for place, text in (failed or {}).items() if text}
        found = {Path(file).resolve(): names for file, names in rows.items()}
        return [
            self.copy(place, f"{TRAINING_FILE}, {len(names)} rows", reason, why[place], self.owned.of_records(names))
            for place, names in found.items()
        ]

    def residue(self, residue: Residue, held: str = "") -> dict[str, Any]:
        """Describe a residue that was not removed; `held` says why a removable one was not."""
        return self.copy(residue.place, residue.kind, "", residue.reason or held, self.owned.of(residue))


def _and_above(name: str) -> Iterator[str]:
    """Yield a relative path and its parent folders."""
    yield name
    yield from (parent.as_posix() for parent in Path(name).parents if parent.parts)


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
    records = _still_in_files(plan, key)[1]
    with extended(path) as found:
        found.add(records, key, only=asked)
        found.add_people(asked, [token for request in requests for token in request.likenesses])
    return len(records)


def read_reasons(content: Any) -> dict[str, str]:
    """Check and return the operator's reasons: a JSON object from path to reason.

    Raises:
        InputError: it is not such an object, or a reason is empty.
    """
    if not isinstance(content, dict) or not all(isinstance(text, str) and text.strip() for text in content.values()):
        raise InputError('reasons must be a JSON object such as {"backup.jsonl": "expires on 1 May"}, none of them empty.')
    return dict(content)

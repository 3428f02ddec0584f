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
from dataclasses import dataclass
from pathlib import Path

from unlearn.purge import find
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.residue import Residue
from unlearn.requests.batch_folder import REMOVING
from unlearn.requests.copies_left import IN_FILE, IN_SERVICE, Left, unexplained_of
from unlearn.requests.copy_names import Naming
from unlearn.requests.deleted_rows import staying_records, still_in_files
from unlearn.requests.earlier_finds import EarlierFinds
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ownership import Ownership, counted_by_request
from unlearn.requests.plan import Plan
from unlearn.scan.lineage import AffectedModel, affected_models
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.io.files import read_json, write_json

HELD_BACK = "can be removed with --remove once nothing else stays without a reason"


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
    searched = _search(ledger, folder, plan, key, retired, rewriting=closing and rewrite_data, rewrite_data=rewrite_data)
    found, earlier = searched.found, searched.earlier
    naming = Naming(searched.roots, searched.records, key, dict(reasons or {}), searched.owned)
    listed = [
        naming.copy(model.folder, "model in service", IN_SERVICE, owners=searched.owned.of_records(model.names))
        for model in searched.staying
    ]
    listed += earlier.copies(naming)
    in_data = naming.data(searched.rows, "" if closing else IN_FILE)
    staying_anyway = [naming.residue(entry) for entry in searched.residues if not entry.removable]
    # Remove nothing for a request that could not be closed afterwards anyway.
    blocked = closing and unexplained_of([*listed, *staying_anyway, *([] if searched.rewritten else in_data)])
    if not remove or blocked:
        earlier.save(found)
        return Left((*listed, *in_data, *(naming.residue(entry, HELD_BACK if remove else "") for entry in found)), {}, naming.shown)
    earlier.save([entry for entry in found if not entry.removable])
    # Copies are recognized by the texts, so these are removed last: a run that is killed can then be resumed.
    tried, owners = _record_intent(ledger, folder, plan, searched.residues, key, searched.owned)
    left = _removed_in_order(searched.residues, naming, closing)
    staying_places = {key.of(str(entry.place), "place") for entry in left}
    gone = {place: kind for place, kind in tried.items() if place not in staying_places}
    if searched.rewritten:
        failed = {entry.place: entry.reason for entry in left if entry.place in searched.files}
        in_data = naming.data(still_in_files(plan, key)[0], "", failed)
    copies = [entry for entry in left if entry.place not in searched.files]
    earlier.save(copies)
    residual = (*listed, *in_data, *(naming.residue(entry, HELD_BACK) for entry in copies))
    return Left(residual, dict(Counter(gone.values())), naming.shown, counted_by_request(gone, owners))


@dataclass(frozen=True, repr=False)
class _Searched:
    """What a search for copies of a batch's records found.

    Attributes:
        roots: folders that were searched.
        rows: training file -> keyed hashes of the deleted records that it still holds.
        files: these files.
        records: the records themselves.
        staying: affected models in service.
        found: copies, without the training files.
        rewritten: training files that would be rewritten without the records.
        owned: whose data each copy holds.
        earlier: copies that earlier searches found.
    """

    roots: list[Path]
    rows: dict[str, list[str]]
    files: list[Path]
    records: list[Record]
    staying: list[AffectedModel]
    found: list[Residue]
    rewritten: list[Residue]
    owned: Ownership
    earlier: EarlierFinds

    @property
    def residues(self) -> list[Residue]:
        """What is removed or rewritten, in this order."""
        return [*self.found, *self.rewritten]


def _search(
    ledger: Ledger, folder: Path, plan: Plan, key: RecordKey, retired: Collection[str], *, rewriting: bool, rewrite_data: bool
) -> _Searched:
    """Search for copies of a batch's records, here and among what earlier searches found; arguments as those of `clean`."""
    rows, records = still_in_files(plan, key)
    roots = [Path(root) for root in dict.fromkeys([*plan.roots, str(folder.parent.resolve())])]
    staying, going = _old_models(ledger, folder, plan, roots, retired)
    files = [Path(file).resolve() for file in rows]
    search = ContentSearch(records, staying_records(plan, key))
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
    rewritten = find.data_residues(files, records, staying_records(plan, key), roots) if rewriting else []
    earlier = EarlierFinds(folder, key, owned)
    earlier.refresh(found, roots, all_texts=plan.records <= {key.of(record.fingerprint) for record in records})
    return _Searched(roots, rows, files, records, staying, found, rewritten, owned, earlier)


def _removed_in_order(found: Sequence[Residue], naming: "Naming", closing: bool) -> list[Residue]:
    """Remove what may be removed, and return what stays.

    When closing, stop at the first copy that could not be removed and has no reason: what comes later in the list may be needed to
    recognize it.
    """
    left: list[Residue] = []
    held = False
    for entry in found:
        stays = [entry] if held else find.remove([entry])
        held = held or (closing and bool(unexplained_of([naming.residue(copy) for copy in stays])))
        left += stays
    return left


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


def _is_new(model: AffectedModel, ledger: Ledger) -> bool:
    """Return whether a verified deletion made these weights: they descend from an affected model but never saw the records."""
    steps = [step for request in ledger.requests() for step in request.steps if step.state == "deployed"]
    return not model.records and model.weights in {made["after"] for step in steps for made in step.details["models"]}

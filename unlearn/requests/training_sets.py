"""Read the records behind a plan's hashes from the training files, and compare them with what the model was trained on."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.plan import Plan, PlannedModel
from verify.data.canaries import CANARIES_NAME
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import stream_records
from verify.errors import InputError
from verify.provenance.descent import trained_records


@dataclass(frozen=True, repr=False)
class TrainingSets:
    """Forget and retain records of a model's training data.

    Attributes:
        forget: records to remove, each once: rows with the same content are one record.
        retain: the other records in the training log, without those that earlier requests removed.
    """

    forget: list[Record]
    retain: list[Record]


def training_sets(plan: Plan, model: PlannedModel, gone: Collection[str], key: RecordKey) -> TrainingSets:
    """Read a model's training records.

    Args:
        plan: names files and columns.
        model: names the records to remove and the training log.
        gone: keyed hashes of records that earlier requests removed.
        key: the ledger's record key.

    Raises:
        InputError: a record that the plan or the log names is no longer in the files.
    """
    trained, removed = trained_records(Path(model.origin)), set(model.records)
    sets, missing, found = TrainingSets([], []), set(trained) - set(gone), set[str]()
    for file in plan.data:
        for record in stream_records(file, plan.columns):
            name = key.of(record.fingerprint)
            if name in removed:
                if name not in found:
                    sets.forget.append(record)
                found.add(name)
            elif name in trained and name not in gone:
                sets.retain.append(record)
            missing.discard(name)
    lost = removed - found
    # Canaries are in the log but in no file.
    if lost or (missing and not (Path(model.origin) / CANARIES_NAME).exists()):
        raise InputError(
            f"{len(lost)} records to remove and {len(missing - lost)} records to keep are no longer in the training files "
            f"({', '.join(Path(file).name for file in plan.data)}). Restore the files until the deletion is verified; remove the "
            "rows after that."
        )
    return sets


def removed_before(ledger: Ledger, plan: Plan) -> set[str]:
    """Return keyed hashes of the records that verified deletions of other requests removed."""
    return {
        str(entry["record"])
        for request in ledger.requests()
        if request.id not in plan.requests and request.latest("deployed") is not None
        for entry in (request.latest("matched") or {"records": []})["records"]
    }


def require_clean(references: Sequence[str], records: Collection[str]) -> None:
    """Check that no reference was trained on a record to remove, which would make it useless for the audit.

    Raises:
        InputError: the training log of a reference contains a record to remove.
    """
    for folder in references:
        seen = trained_records(Path(folder)) & set(records)
        if seen:
            raise InputError(
                f"the reference {folder} was itself trained on {len(seen)} of the records to remove. Train references without them."
            )

"""Record sets of an unlearning run: loading them, and checks that they fit together and with the model's training."""

from dataclasses import dataclass
from typing import Any

from unlearn.training.held_out import HeldOut
from unlearn.training.log import TrainingLog, require_in_log
from verify.data.identity import RecordKey
from verify.data.record_sets import require_disjoint, require_trained, require_unseen
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_forget_set, load_records
from verify.provenance.holdout import without_held_out


@dataclass(frozen=True, eq=False)
class Sources:
    """Record sets as given by the user, not yet loaded.

    Attributes:
        forget: the records to remove, or a list of ids in `data`.
        retain: the records to keep, or None.
        holdout: records that no model was trained on, or None.
        data: all records that the model was trained on, or None.
        fields: the columns of the records.
    """

    forget: RecordSource
    retain: RecordSource | None
    holdout: RecordSource | None
    data: RecordSource | None
    fields: Fields | None

    def named(self) -> dict[str, Any]:
        """Return role -> source, for the manifest."""
        return {"forget": self.forget, "retain": self.retain, "holdout": self.holdout, "data": self.data}


@dataclass(frozen=True, eq=False)
class Roles:
    """Record sets, loaded.

    Attributes:
        forget: the records to remove.
        retain: the records to keep; empty if neither these nor the training data were given.
        holdout: records that no model was trained on; empty if none were given.
    """

    forget: list[Record]
    retain: list[Record]
    holdout: HeldOut


def load_roles(sources: Sources, log: TrainingLog | None, model: Any = None) -> Roles:
    """Load every role and check them against each other and against the model's training.

    Args:
        sources: where the records are. Without a retain set, all of `data` that is not forgotten is retained.
        log: the model's training log, or None.
        model: the model, whose training may have held some of `data` out as controls.

    Raises:
        InputError: a source cannot be read, roles share records, or the model was not trained on the forget set.
    """
    fields = sources.fields
    training = None if sources.data is None else without_held_out(load_records(sources.data, fields), model, fields)
    forget = load_forget_set(sources.forget, training, fields)
    retain = [] if sources.retain is None else load_records(sources.retain, fields)
    holdout = [] if sources.holdout is None else load_records(sources.holdout, fields)
    if training is not None:
        require_trained(forget, training, "the forget set")
        removed = {record.fingerprint for record in forget}
        retain = retain or [record for record in training if record.fingerprint not in removed]
        require_disjoint({"training": training, "holdout": holdout})
    if log is not None:
        require_in_log(forget, log, RecordKey.load())
    require_disjoint({"forget": forget, "retain": retain, "holdout": holdout})
    require_unseen({"holdout": holdout}, {"forget": forget, "retain": retain})
    return Roles(forget, retain, HeldOut(holdout))

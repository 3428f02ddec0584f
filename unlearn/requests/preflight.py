"""Checks of everything that a run needs, made before its plan is noted: records, model, base, methods, and all that an audit reads.

A plan that cannot be run would leave its requests planned while their deadlines pass. What may differ by the time of the run is
not checked: memory, disk space, and whether a method converges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.methods import method_classes
from unlearn.methods.auto import exact_method
from unlearn.methods.requirements import require_inputs, require_quantizable, require_repeatable, require_suited
from unlearn.requests.attempt import load_base, require_calibration
from unlearn.requests.audit_inputs import accepted_differences
from unlearn.requests.audit_numbers import require_planned_levels
from unlearn.requests.audit_power import can_be_measured
from unlearn.requests.awaited_audits import AwaitedAudit, require_agreeing_plans
from unlearn.requests.batch_state import require_not_replaced
from unlearn.requests.candidates import SMALLEST_SET, clean_checkpoint
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.registering import require_fitting_references, require_registrable
from unlearn.requests.training_sets import TrainingSets, removed_before, training_sets
from unlearn.training.log import LOG_NAME, TrainingLog
from verify.auditing.accounts import controls_digest
from verify.auditing.audit_sets import compared_texts, draw_retain
from verify.auditing.input_checks import USED_HOLDOUT
from verify.auditing.shard_siblings import require_siblings
from verify.certificate.opened_audits import OpenedAudits
from verify.data.canaries import find_canaries
from verify.data.identity import RecordKey
from verify.data.reading import agreed_reading
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.errors import InputError
from verify.io.files import verify_manifest
from verify.judging.protocol import blind_aside
from verify.models.loading import LoadedModel
from verify.models.quantized import remembered_quantization
from verify.provenance.holdout import check_holdout
from verify.provenance.level_table import LevelTable
from verify.schema.parts import SetRole

MADE_IN: Mapping[str, str] = {
    "sisa": "in shards that answer together",
    "shard_vectors": "in shards that are summed",
    "rollback": "with a log and checkpoints from before the records",
    "client_retrain": "in a federation",
    "federaser": "in a federation",
}
"""How a model was trained that a method can rebuild."""


@dataclass(frozen=True, repr=False)
class Runnable:
    """What was checked of a model, and is needed to say what its audit can show.

    Attributes:
        sets: its records.
        controls: what identifies the controls of its audit; None without controls.
    """

    sets: TrainingSets
    controls: str | None


def require_runnable(
    ledger: Ledger, plan: Plan, key: RecordKey, opened: OpenedAudits, awaited: Sequence[AwaitedAudit]
) -> dict[str, Runnable]:
    """Check all that `run` reads, for every model of a plan; return what was found by the digest of its weights.

    Args:
        ledger: the request ledger, which names what earlier requests removed and replaced.
        plan: the plan.
        key: the ledger's record key.
        opened: the audits before those of the plan.
        awaited: the audits that other plans will open.

    Raises:
        InputError: a model was replaced, records are no longer in the files, the base is unknown or missing, a method does not suit
            the model or lacks something, its controls are too few, references do not fit, the audit cannot be registered or would
            be refused, or it was planned for another number of audits than earlier ones or other plans.
        IntegrityError: a model or reference is damaged, or the base is not the one that it was trained from.
    """
    requests, gone, found = ledger.requests(), removed_before(ledger, plan), dict[str, Runnable]()
    for model in plan.models:
        require_not_replaced(requests, model)
        verify_manifest(Path(model.folder), "model")
        sets = training_sets(plan, model, gone, key)
        _require_methods(model, sets)
        base = _require_base(plan, model)
        if base is not None:
            require_calibration(plan, model, base)
        require_fitting_references(plan, model, sets, plan.references, key)
        audited = require_registrable(plan, model, sets)
        controls = _controls(model, audited, key)
        require_planned_levels(opened, controls, plan.settings)
        require_agreeing_plans(awaited, controls, plan.settings)
        _require_auditable(plan, model, audited, key)
        found[model.weights] = Runnable(sets, controls)
    return found


def _require_base(plan: Plan, model: PlannedModel) -> LoadedModel | None:
    """Load the base and check that it is the right one; None where it is unknown and no method of the plan needs it.

    Every plan ends with an exact rebuild, which starts from the base where that is known.
    """
    if model.base is not None:
        return load_base(model, plan.settings.dtype)
    if needing := [name for name in model.ladder if method_classes()[name]().needs_base]:
        raise InputError(f"the base model of {model.name} is not known, and {needing[0]} needs it. Name it with --base DIR.")
    return None


def _require_methods(model: PlannedModel, sets: TrainingSets) -> None:
    """Check that every method of a plan suits the model and has the records that it needs, as `forget` will.

    Raises:
        InputError: a method does not suit the model, or lacks records.
    """
    folder = Path(model.folder)
    log = TrainingLog.read(folder / LOG_NAME) if (folder / LOG_NAME).is_file() else None
    for name in model.ladder:
        method = method_classes()[name]()
        require_suited(method, folder)
        require_repeatable(method, log)
        require_inputs(method, sets.retain, base=model.base or "named where it is needed")
        if name in MADE_IN and not _was_made_for(name, model, log):
            raise InputError(
                f"{name} works on models that were trained {MADE_IN[name]}, and {model.name} was not. Leave it out of --methods; "
                f"{exact_method(folder)} rebuilds this model."
            )
        if name == "auto" and len(set(subject_groups(sets.forget))) < SMALLEST_SET and find_canaries(folder) is None:
            raise InputError(
                f"auto tunes on one half of the records and judges on the other, and those of {model.name} belong to one person. "
                "Leave it out of --methods."
            )
    if remembered_quantization(folder, None) is not None:
        require_quantizable(method_classes()[model.ladder[0]]())


def _was_made_for(name: str, model: PlannedModel, log: TrainingLog | None) -> bool:
    folder, made_by = Path(model.folder), {"federaser": "client_retrain"}
    if name != "rollback":
        return exact_method(folder) == made_by.get(name, name)
    return log is not None and (model.base is not None or clean_checkpoint(folder, model.records) > 0)


def _controls(model: PlannedModel, audited: Mapping[SetRole, Sequence[Record]], key: RecordKey) -> str | None:
    """Return what identifies the controls of a model's audit, as its registration will name them."""
    table = None if model.level_table is None else LevelTable.open(model.level_table).digest
    return controls_digest(audited.get("holdout"), table, key)


def _require_auditable(plan: Plan, model: PlannedModel, audited: Mapping[SetRole, Sequence[Record]], key: RecordKey) -> None:
    """Check what an audit would refuse after the unlearning, of which every cause is there before.

    Args:
        plan, model: as planned.
        audited: the records of the audit, with all retain records.
        key: the record key.

    Raises:
        InputError: special tokens were read in another way, an earlier unlearning of the model read the audit's controls, the model
            is not in shards whose ranks are asked for, or it cannot be checked that the controls were drawn at random.
    """
    agreed_reading(plan.columns, plan.settings, (model.folder, *plan.references))
    if "holdout" in audited:
        check_holdout(model.folder, audited["holdout"], key, USED_HOLDOUT in accepted_differences(plan))
    if plan.settings.shard_siblings:
        require_siblings(model.folder, with_controls="holdout" in audited)
    if plan.settings.twins and not can_be_measured(plan, model):  # measuring the power checks it, too
        blind_aside(*compared_texts(draw_retain(audited, plan.settings)), plan.settings)

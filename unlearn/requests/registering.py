"""Register a model's audit before anything is unlearned, and check beforehand that this, and its references, will do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.requests.audit_inputs import AUDIT_ROLES, accepted_differences, audited_sets, judges_one_record, rewordings_of
from unlearn.requests.batch_folder import REGISTRATION, audit_folder, model_folder
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from verify import register
from verify.attacks import select_attacks
from verify.auditing import input_checks
from verify.auditing.audit_sets import draw_retain, load_whole_sets
from verify.auditing.commitments import find_rewordings, require_committable
from verify.auditing.pinned_references import digests_of
from verify.auditing.registration import Registration
from verify.data.canaries import CANARIES_NAME, find_canaries
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records
from verify.io.files import is_complete
from verify.schema.parts import SetRole


def register_audit(folder: Path, plan: Plan, model: PlannedModel, sets: TrainingSets) -> str:
    """Register a model's audit before anything is unlearned, unless that is done; return the registration's digest."""
    path = model_folder(folder, plan, model) / REGISTRATION
    if path.exists():
        return Registration.load(path).digest
    has_canaries = (Path(model.folder) / CANARIES_NAME).exists()
    return register(
        path,
        **audited_sets(plan, model, sets),
        settings=plan.settings,
        canaries=model.folder if has_canaries else None,
        rewordings=rewordings_of(plan, model, sets),
        level_table=model.level_table,
        references=plan.references,
        fields=plan.columns,
    ).digest


def require_registrable(plan: Plan, model: PlannedModel, sets: TrainingSets) -> dict[SetRole, Sequence[Record]]:
    """Check that a model's audit can be registered, without writing anything; return its records, with all retain records.

    Raises:
        InputError: its sets, rewordings, attacks, canaries or references cannot be used.
        IntegrityError: a reference does not match its manifest.
    """
    select_attacks(plan.settings.attacks)
    alone = judges_one_record(plan, model)
    given: dict[str, Any] = {"fresh_set": None, "data": None, "fields": plan.columns, "with_controls": alone}
    whole = load_whole_sets(**audited_sets(plan, model, sets), **given)
    find_canaries(model.folder)
    if (rewordings := rewordings_of(plan, model, sets)) is not None:
        find_rewordings(rewordings, None, draw_retain(whole, plan.settings), plan.settings)
        require_committable(rewordings)
    digests_of(plan.references, plan.settings.dtype)
    return whole


def require_fitting_references(
    plan: Plan, model: PlannedModel, sets: TrainingSets, references: Sequence[str], key: RecordKey
) -> None:
    """Check the references by their training logs before anything is unlearned, as the audit will afterwards.

    Raises:
        InputError: a reference is not a retraining of the model without the records to remove.
    """
    audited = {name: source for name, source in audited_sets(plan, model, sets).items() if source is not None}
    given = {AUDIT_ROLES[name]: load_records(source, plan.columns) for name, source in audited.items()}
    input_checks.require_fitting_references(
        model.folder, references, given, find_canaries(model.folder), key, accepted_differences(plan)
    )


def controls_to_use(folder: Path, plan: Plan, model: PlannedModel, attempt: int, references: Sequence[str]) -> str | None:
    """Return what identifies the controls that an attempt's audit will use; None without controls, or where it is done."""
    if is_complete(audit_folder(folder, plan, model, attempt, references), "audit"):
        return None
    return registered(folder, plan, model).controls


def registered(folder: Path, plan: Plan, model: PlannedModel) -> Registration:
    """Return the registration of a model's audit, as it was written before the unlearning."""
    return Registration.load(model_folder(folder, plan, model) / REGISTRATION)

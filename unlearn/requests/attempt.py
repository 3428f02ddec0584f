"""One attempt: apply one method to one model and audit the result, each exactly once.

A result counts as finished when its manifest verifies. What a killed run left is resumed if possible and else made again.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.finetuning import recipe_of
from unlearn.forgetting import forget
from unlearn.level.estimate import encoded, require_enough
from unlearn.level.table import FEWEST
from unlearn.methods import method_classes
from unlearn.requests.audit_numbers import noting_scores
from unlearn.requests.batch_folder import CACHE, attempt_folder, audit_folder, clear_if_cut_off, model_folder
from unlearn.requests.candidates import SMALLEST_SET
from unlearn.requests.level_tables import controls_beside
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from unlearn.training.checkpoints import WORK
from unlearn.training.method import Rebuild
from unlearn.training.options import TrainingOptions
from verify import audit, register
from verify.attacks import select_attacks
from verify.auditing import input_checks
from verify.auditing.accounts import audits_shown
from verify.auditing.audit_sets import draw_retain, load_whole_sets
from verify.auditing.commitments import find_rewordings, require_committable
from verify.auditing.input_checks import USED_HOLDOUT
from verify.auditing.pinned_references import digests_of
from verify.auditing.registration import Registration
from verify.data.canaries import CANARIES_NAME, find_canaries
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, is_complete, read_json
from verify.io.progress import phase
from verify.models.loading import LoadedModel, load_model
from verify.provenance.descent import named_base_of
from verify.provenance.holdout import split_holdout
from verify.provenance.level_table import LevelTable
from verify.provenance.pool_design import LEAST_LEFT_OUT
from verify.schema.evidence import Evidence
from verify.schema.parts import SetRole

REGISTRATION = "registration.json"
AUDIT_ROLES: Mapping[str, SetRole] = {"forget_set": "forget", "retain_set": "retain", "holdout_set": "holdout"}
"""Roles of an audit's sets by their argument names."""


def register_audit(folder: Path, plan: Plan, model: PlannedModel, sets: TrainingSets) -> str:
    """Register a model's audit before anything is unlearned, unless that is done; return the registration's digest."""
    path = model_folder(folder, plan, model) / REGISTRATION
    if path.exists():
        return Registration.load(path).digest
    has_canaries = (Path(model.folder) / CANARIES_NAME).exists()
    return register(
        path,
        **_audited(plan, model, sets),
        settings=plan.settings,
        canaries=model.folder if has_canaries else None,
        rewordings=_rewordings(plan, model, sets),
        level_table=model.level_table,
        references=plan.references,
        fields=plan.columns,
    ).digest


def _judged_by(model: PlannedModel) -> dict[str, Any]:
    """Return the audit's arguments about the level table; none where references judge."""
    return {} if model.level_table is None else {"level_table": model.level_table, "level_table_key": model.level_table_key}


def audit_arguments(plan: Plan, model: PlannedModel, sets: TrainingSets, references: Sequence[str]) -> dict[str, Any]:
    """Return what a model's audit is given besides models, registration and folders, by argument name."""
    return {
        "references": list(references),
        **_judged_by(model),
        **_audited(plan, model, sets),
        "fields": plan.columns,
        "rewordings": _rewordings(plan, model, sets),
        "accept": accepted(plan),
    }


def require_registrable(plan: Plan, model: PlannedModel, sets: TrainingSets) -> dict[SetRole, Sequence[Record]]:
    """Check that a model's audit can be registered, without writing anything; return its records, with all retain records.

    Raises:
        InputError: its sets, rewordings, attacks, canaries or references cannot be used.
        IntegrityError: a reference does not match its manifest.
    """
    select_attacks(plan.settings.attacks)
    alone = _judges_one_record(plan, model)
    given: dict[str, Any] = {"fresh_set": None, "data": None, "fields": plan.columns, "with_controls": alone}
    whole = load_whole_sets(**_audited(plan, model, sets), **given)
    find_canaries(model.folder)
    if (rewordings := _rewordings(plan, model, sets)) is not None:
        find_rewordings(rewordings, None, draw_retain(whole, plan.settings), plan.settings)
        require_committable(rewordings)
    digests_of(plan.references, plan.settings.dtype)
    return whole


def _audited(plan: Plan, model: PlannedModel, sets: TrainingSets) -> dict[str, Any]:
    """Return the audit's record sets by argument name; only a level table and shards compare a single record with controls."""
    retain = sets.retain if len(sets.retain) >= SMALLEST_SET else None
    holdout = _holdout(plan, model)[1] if len(sets.forget) > 1 or _judges_one_record(plan, model) else None
    return {"forget_set": sets.forget, "retain_set": retain, "holdout_set": holdout}


def _judges_one_record(plan: Plan, model: PlannedModel) -> bool:
    """Return whether an audit compares a single record with controls."""
    return model.level_table is not None or plan.settings.shard_siblings


def _rewordings(plan: Plan, model: PlannedModel, sets: TrainingSets) -> str | None:
    """Return the file of rewordings; None where the audit has no never-trained records to ask in the same words."""
    return plan.rewordings if _audited(plan, model, sets)["holdout_set"] is not None else None


def _holdout(plan: Plan, model: PlannedModel) -> tuple[Any, Any]:
    """Return the holdout records of the method and those of the audit, which share no subject; None where there are none.

    Of a level table's controls the method gets none where fewer are left than calibrate a level, as the others left at their own
    requests. Plans of release 0.1.0 did not divide the holdout: both use all, and the audit has to accept that.
    """
    if model.level_table is not None:
        controls = controls_beside(Path(model.level_table), plan.holdout, plan.columns, RecordKey.load())
        return controls.method if len(controls.method) >= FEWEST else None, controls.audit
    if plan.holdout is None or not plan.holdout_divided:
        return plan.holdout, plan.holdout
    split = split_holdout(load_records(plan.holdout, plan.columns))
    return split.method or None, split.audit


def accepted(plan: Plan) -> tuple[str, ...]:
    """Return the accepted reference differences; plans of 0.1.0 did not divide the holdout, so the audit must accept that too."""
    return plan.accept if plan.holdout is None or plan.holdout_divided else (*plan.accept, USED_HOLDOUT)


def require_fitting_references(
    plan: Plan, model: PlannedModel, sets: TrainingSets, references: Sequence[str], key: RecordKey
) -> None:
    """Check the references by their training logs before anything is unlearned, as the audit will afterwards.

    Raises:
        InputError: a reference is not a retraining of the model without the records to remove.
    """
    audited = {name: source for name, source in _audited(plan, model, sets).items() if source is not None}
    given = {AUDIT_ROLES[name]: load_records(source, plan.columns) for name, source in audited.items()}
    input_checks.require_fitting_references(model.folder, references, given, find_canaries(model.folder), key, accepted(plan))


def run_attempt(folder: Path, plan: Plan, model: PlannedModel, attempt: int, sets: TrainingSets) -> Path:
    """Run one candidate method on the model in service, unless its result exists; return the result's folder.

    Raises:
        InputError: the method does not support this model, or needs an input that the plan does not have.
        RunError: training became non-finite, or the disk is full.
    """
    output = attempt_folder(folder, plan, model, attempt)
    clear_if_cut_off(output, "model", resumable=True)
    if is_complete(output, "model"):
        return output
    resumed = (output / WORK).is_dir()
    try:
        _forget(plan, model, attempt, sets, output)
    except InputError:
        # A run that was killed while it cleaned up cannot be resumed.
        if not resumed:
            raise
        shutil.rmtree(output)
        _forget(plan, model, attempt, sets, output)
    return output


def _forget(plan: Plan, model: PlannedModel, attempt: int, sets: TrainingSets, output: Path) -> None:
    kind = method_classes().get(model.ladder[attempt])
    if kind is None:
        raise InputError(f"{model.ladder[attempt]} is not a method of this version. Run `unlearn request plan` again.")
    method = _configured(kind, plan, model, model.ladder[attempt])
    holdout = _holdout(plan, model)[0]
    recipe = recipe_of(Path(model.origin))
    trained_with = TrainingOptions() if recipe is None else TrainingOptions(**recipe.options)
    needs_base = method.needs_base
    forget(
        model.folder,
        method,
        forget_set=sets.forget,
        retain_set=sets.retain or None,
        holdout_set=holdout,
        base=load_base(model, plan.settings.dtype) if needs_base or (model.base and isinstance(method, Rebuild)) else None,
        output_dir=output,
        fields=plan.columns,
        # A rebuild uses the options of the original training, which for a descendant are in the ancestor's log.
        options=trained_with if isinstance(method, Rebuild) else TrainingOptions(overflow=trained_with.overflow),
        dtype=plan.settings.dtype,
    )


def _configured(kind: Any, plan: Plan, model: PlannedModel, name: str) -> Any:
    """Return a method with what the plan gives it: `auto` the references, `level` the method's half of the level table.

    The audit then reads the other half alone, in which enough models must be left that never saw a record. Where too few controls
    of the method are left in the table, as they left at their own requests, `level` estimates without it.
    """
    if name == "auto":
        return kind(references=plan.references, accept=plan.accept)
    if name == "level" and model.level_table is not None and model.base is not None:
        design = LevelTable.open(model.level_table).design
        if _holdout(plan, model)[0] and design.method_models and design.left_out >= 2 * LEAST_LEFT_OUT:
            return kind(sources=("table",), table=model.level_table)
    return kind()


def reads_level_table(plan: Plan, model: PlannedModel) -> bool:
    """Return whether the first method of a plan reads the method's half of the level table, so that the audit reads the other."""
    kind = method_classes()[model.ladder[0]]
    return bool(getattr(_configured(kind, plan, model, model.ladder[0]), "table", None))


def exact_by(made: Path) -> str | None:
    """Return the method that rebuilt an attempt's weights without ever seeing the records; None if it was approximate.

    `auto` may have ended with such a method. One that it lists without an exactness was beyond its budget and did not run.
    """
    about = read_json(made / MANIFEST)["about"]
    name = about["method"]
    if name == "auto":
        last = ((about.get("facts") or {}).get("rungs") or [{}])[-1]
        return str(last["method"]) if "exactness" in last else None
    return name if hasattr(method_classes().get(name), "exactness") else None


def require_calibration(plan: Plan, model: PlannedModel, loaded: LoadedModel) -> None:
    """Check that the holdout records of `level` have enough tokens to calibrate on, which a run would find too late.

    Args:
        plan, model: as planned.
        loaded: the model or its base, which encode alike.

    Raises:
        InputError: they have too few, or cannot be encoded.
    """
    if "level" in model.ladder and (controls := _holdout(plan, model)[0]):
        recipe = recipe_of(Path(model.origin))
        overflow = TrainingOptions().overflow if recipe is None else TrainingOptions(**recipe.options).overflow
        windows = encoded(loaded, load_records(controls, plan.columns), overflow)
        require_enough(sum(int(window.scored.sum()) for window in windows), sources=1)


def load_base(model: PlannedModel, dtype: str) -> LoadedModel:
    """Load a model's base, and check that it is the one that the model was trained from.

    Raises:
        InputError: it is unknown, or cannot be loaded.
        IntegrityError: it is another one.
    """
    if model.base is None:
        raise InputError(f"the base model of {model.name} is not known. Run `unlearn request plan` again with --base DIR.")
    named = named_base_of(Path(model.origin))
    expected = None if named is None else named.weights
    try:
        base = load_model(model.base, dtype=dtype)
    except InputError as error:
        sought = "" if expected is None else f", whose weights are {expected[:16]}"
        raise InputError(
            f"the base model of {model.name}{sought}, cannot be loaded: {error} Or name it with `unlearn request plan --base DIR`."
        ) from None
    if expected is not None and base.digest != expected:
        raise IntegrityError(
            f"{model.base} is not the base model from which {model.name} was trained: its weights are {base.digest[:16]}, not "
            f"{expected[:16]}. Run `unlearn request plan` again with the right --base."
        )
    return base


def controls_to_use(folder: Path, plan: Plan, model: PlannedModel, attempt: int, references: Sequence[str]) -> str | None:
    """Return what identifies the controls that an attempt's audit will use; None without controls, or where it is done."""
    if is_complete(audit_folder(folder, plan, model, attempt, references), "audit"):
        return None
    return _registered(folder, plan, model).controls


def _registered(folder: Path, plan: Plan, model: PlannedModel) -> Registration:
    return Registration.load(model_folder(folder, plan, model) / REGISTRATION)


def audit_attempt(
    folder: Path,
    plan: Plan,
    model: PlannedModel,
    attempt: int,
    sets: TrainingSets,
    references: Sequence[str],
    audited_before: int | None = None,
) -> Evidence:
    """Audit an attempt's result as registered, unless that is done.

    Args:
        folder: of the batch.
        plan, model, attempt: which model, and which of its candidate methods.
        sets: the records.
        references: the references.
        audited_before: earlier audits against the same controls, as the ledger counts them; None where it does not.
    """
    output = audit_folder(folder, plan, model, attempt, references)
    clear_if_cut_off(output, "audit")
    if not is_complete(output, "audit"):
        looks = _looks(output, attempt)
        # Of audits that earlier versions made, the ledger has no number: then the evidence is counted.
        shown = audits_shown([Evidence.load(path) for path in looks], _registered(folder, plan, model).controls)
        counted = None if audited_before is None or audited_before < shown else audited_before
        with phase("auditing") as done:
            audit(
                str(attempt_folder(folder, plan, model, attempt)),
                model.folder,
                **audit_arguments(plan, model, sets, references),
                output_dir=output,
                registration=model_folder(folder, plan, model) / REGISTRATION,
                looks=looks,
                audited_before=counted,
                cache_dir=folder / CACHE,
                progress=noting_scores(output, done),
            )
    return Evidence.load(output / "evidence.json")


def _looks(output: Path, attempt: int) -> list[Path]:
    """Return the evidence of earlier audits of an attempt's result: those against other references."""
    others = sorted(output.parent.glob(f"audit-{attempt}-*/evidence.json"))
    return [path for path in others if path.parent != output and is_complete(path.parent, "audit")]

"""One attempt: apply one method of a plan to one model, exactly once.

A result counts as finished when its manifest verifies. What a killed run left is resumed if possible and else made again.
"""

import shutil
from pathlib import Path
from typing import Any

from unlearn.finetuning import recipe_of
from unlearn.forgetting import forget
from unlearn.level.estimate import encoded, require_enough
from unlearn.methods import method_classes
from unlearn.requests.audit_inputs import holdout_of
from unlearn.requests.batch_folder import attempt_folder, clear_if_cut_off
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from unlearn.training.checkpoints import WORK
from unlearn.training.method import Rebuild
from unlearn.training.options import TrainingOptions
from verify.data.sources import load_records
from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, is_complete, read_json
from verify.models.loading import LoadedModel, load_model
from verify.provenance.descent import named_base_of
from verify.provenance.level_table import LevelTable
from verify.provenance.pool_design import LEAST_LEFT_OUT
from verify.provenance.training_history import NOT_EXACT


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
    holdout = holdout_of(plan, model)[0]
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

    The audit then reads the other half alone, which must have enough models that never saw a record. Where too few of the method's
    controls are left in the table, as others asked for deletion themselves, `level` estimates without it.
    """
    if name == "auto":
        return kind(references=plan.references, accept=plan.accept)
    if name == "level" and model.level_table is not None and model.base is not None:
        design = LevelTable.open(model.level_table).design
        if holdout_of(plan, model)[0] and design.method_models and design.left_out >= 2 * LEAST_LEFT_OUT:
            return kind(sources=("table",), table=model.level_table)
    return kind()


def reads_level_table(plan: Plan, model: PlannedModel) -> bool:
    """Return whether the first method of a plan reads the method's half of the level table, so that the audit reads the other."""
    kind = method_classes()[model.ladder[0]]
    return bool(getattr(_configured(kind, plan, model, model.ladder[0]), "table", None))


def exact_by(made: Path) -> str | None:
    """Return the method that rebuilt an attempt's weights without ever seeing the records; None if it was approximate.

    Nor is it one whose base is not on record.

    `auto` may have ended with such a method. One that it lists without an exactness was beyond its budget and did not run.
    """
    about = read_json(made / MANIFEST)["about"]
    name = about["method"]
    if name == "auto":
        last = ((about.get("facts") or {}).get("rungs") or [{}])[-1]
        return str(last["method"]) if "exactness" in last else None
    return name if hasattr(method_classes().get(name), "exactness") and NOT_EXACT not in (about.get("facts") or {}) else None


def require_calibration(plan: Plan, model: PlannedModel, loaded: LoadedModel) -> None:
    """Check that the holdout records of `level` have enough tokens to calibrate on, which a run would find too late.

    Args:
        plan, model: as planned.
        loaded: the model or its base, which encode alike.

    Raises:
        InputError: they have too few, or cannot be encoded.
    """
    if "level" in model.ladder and (controls := holdout_of(plan, model)[0]):
        recipe = recipe_of(Path(model.origin))
        overflow = TrainingOptions().overflow if recipe is None else TrainingOptions(**recipe.options).overflow
        windows = encoded(loaded, load_records(controls, plan.columns), overflow)
        require_enough(sum(int(window.scored.sum()) for window in windows), sources=1)


def load_base(model: PlannedModel, dtype: str) -> LoadedModel:
    """Load a model's base, and check that it is the one that the model was trained from.

    Raises:
        InputError: it is unknown, or cannot be loaded.
        IntegrityError: it is not the one that the model was trained from.
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

"""One method on one model, and the audit of its result: each made once, whatever happens in between.

A result counts when its manifest verifies. What a killed run left is taken up again where that is possible, and else made anew.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.checkpoints import WORK
from unlearn.forgetting import forget
from unlearn.methods import method_classes
from unlearn.methods.base import Rebuild
from unlearn.options import TrainingOptions
from unlearn.provenance import LOG_NAME, TrainingLog
from unlearn.requests.ladders import SMALLEST_SET
from unlearn.requests.plans import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from unlearn.requests.workplace import CACHE, audit_folder, clear_if_cut_off, place_of, rung_folder
from verify import audit, register
from verify.canaries import CANARIES_NAME
from verify.errors import InputError, IntegrityError
from verify.evidence import Evidence
from verify.files import MANIFEST, is_complete, read_json
from verify.holdout import split_holdout
from verify.identity import RecordKey
from verify.input_checks import USED_HOLDOUT
from verify.models import LoadedModel, load_model
from verify.reference_checks import Expected, check_references
from verify.registration import Registration
from verify.sources import load_records

REGISTRATION = "registration.json"


def registered(folder: Path, plan: Plan, model: PlannedModel, sets: TrainingSets) -> str:
    """Register a model's audit before anything is unlearned, once; the digest."""
    path = place_of(folder, plan, model) / REGISTRATION
    if path.exists():
        return Registration.load(path).digest
    carries = (Path(model.folder) / CANARIES_NAME).exists()
    return register(
        path, **_audited(plan, sets), settings=plan.settings, canaries=model.folder if carries else None, fields=plan.columns
    ).digest


def _audited(plan: Plan, sets: TrainingSets) -> dict[str, Any]:
    """The sets of the audit, under its argument names; one record alone is held against references, not against a holdout."""
    retain = sets.retain if len(sets.retain) >= SMALLEST_SET else None
    return {"forget_set": sets.forget, "retain_set": retain, "holdout_set": _holdout(plan)[1] if len(sets.forget) > 1 else None}


def _holdout(plan: Plan) -> tuple[Any, Any]:
    """The never-trained records of the method and those of the audit; None where one of them gets none."""
    if plan.holdout is None or not plan.holdout_divided:
        return plan.holdout, plan.holdout
    split = split_holdout(load_records(plan.holdout, plan.columns))
    return split.method or None, split.audit


def _accepted(plan: Plan) -> tuple[str, ...]:
    """What the audit accepts: what the plan names, and for plans of earlier versions that the method read the audit's holdout."""
    return plan.accept if plan.holdout is None or plan.holdout_divided else (*plan.accept, USED_HOLDOUT)


def require_fitting_references(
    plan: Plan, model: PlannedModel, sets: TrainingSets, references: Sequence[str], key: RecordKey
) -> None:
    """Check the references by their training logs before anything is unlearned, as the audit does afterwards.

    Raises:
        InputError: a reference is no retraining of the model without the records to remove.
    """
    audited = {name: source for name, source in _audited(plan, sets).items() if source is not None}
    names = {
        role: frozenset(key.of(record.fingerprint) for record in load_records(source, plan.columns))
        for role, source in audited.items()
    }
    expected = Expected(
        forget=names["forget_set"],
        retain=names.get("retain_set"),
        holdout=names.get("holdout_set", frozenset()),
        canaries=frozenset(),
        key=key,
    )
    if expected.retain is not None:
        check_references(references, {"original": model.folder}, expected, plan.accept)


def make_rung(folder: Path, plan: Plan, model: PlannedModel, rung: int, sets: TrainingSets) -> Path:
    """Run one method of the ladder on the model in service, unless its result is there already; the result's folder.

    Raises:
        InputError: the method cannot work on this model, or needs what was not named.
        RunError: training became non-finite, or the disk is full.
    """
    output = rung_folder(folder, plan, model, rung)
    clear_if_cut_off(output, "model", resumable=True)
    if is_complete(output, "model"):
        return output
    resumed = (output / WORK).is_dir()
    try:
        _forget(plan, model, rung, sets, output)
    except InputError:
        # A run that was killed while it tidied up cannot be taken up again.
        if not resumed:
            raise
        shutil.rmtree(output)
        _forget(plan, model, rung, sets, output)
    return output


def _forget(plan: Plan, model: PlannedModel, rung: int, sets: TrainingSets, output: Path) -> None:
    kind = method_classes().get(model.ladder[rung])
    if kind is None:
        raise InputError(f"{model.ladder[rung]} is no method of this version. Run `plan` again.")
    method = kind(references=plan.references, accept=plan.accept) if model.ladder[rung] == "auto" else kind()
    log = TrainingLog.read(Path(model.origin) / LOG_NAME) if (Path(model.origin) / LOG_NAME).is_file() else None
    trained_with = TrainingOptions() if log is None else TrainingOptions(**log.options)
    needs_base = bool(getattr(method, "needs_base", False))
    forget(
        model.folder,
        method,
        forget_set=sets.forget,
        retain_set=sets.retain or None,
        holdout_set=_holdout(plan)[0],
        base=_base(model, log, plan.settings.dtype) if needs_base or (model.base and isinstance(method, Rebuild)) else None,
        output_dir=output,
        fields=plan.columns,
        # What a rebuild does not read from the model's own log, a descendant of it takes from the ancestor's.
        options=trained_with if isinstance(method, Rebuild) else TrainingOptions(overflow=trained_with.overflow),
        dtype=plan.settings.dtype,
    )


def exact_by(made: Path) -> str | None:
    """The method that rebuilt a rung's weights without the records, so that they never held them; None where none did.

    `auto` may have ended so. An exact method that it names without an exactness was beyond its budget and did not run.
    """
    about = read_json(made / MANIFEST)["about"]
    name = about["method"]
    if name == "auto":
        last = ((about.get("facts") or {}).get("rungs") or [{}])[-1]
        return str(last["method"]) if "exactness" in last else None
    return name if hasattr(method_classes().get(name), "exactness") else None


def _base(model: PlannedModel, log: TrainingLog | None, dtype: str) -> LoadedModel:
    if model.base is None:
        raise InputError(f"the model before fine-tuning of {model.name} is not known. Run `plan` again with --base DIR.")
    base = load_model(model.base, dtype=dtype)
    if log is not None and base.digest != log.start_weights:
        raise IntegrityError(
            f"{model.base} is not the model that the training of {model.name} began with. Run `plan` again with the right --base."
        )
    return base


def audit_rung(folder: Path, plan: Plan, model: PlannedModel, rung: int, sets: TrainingSets, references: Sequence[str]) -> Evidence:
    """Audit a rung's result by its registration, unless that is done already."""
    output = audit_folder(folder, plan, model, rung, references)
    clear_if_cut_off(output, "audit")
    if not is_complete(output, "audit"):
        audit(
            str(rung_folder(folder, plan, model, rung)),
            model.folder,
            references=list(references),
            **_audited(plan, sets),
            fields=plan.columns,
            output_dir=output,
            registration=place_of(folder, plan, model) / REGISTRATION,
            cache_dir=folder / CACHE,
            accept=_accepted(plan),
        )
    return Evidence.load(output / "evidence.json")

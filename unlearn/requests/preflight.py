"""Checks of everything that a run needs, made before its plan is noted: records, model, base, references and what is registered.

A plan that cannot be run would leave its requests planned while their deadlines go on.
"""

from pathlib import Path

from unlearn.methods import method_classes
from unlearn.requests.attempt import load_base, require_calibration, require_fitting_references, require_registrable
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets, removed_before, training_sets
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.io.files import verify_manifest
from verify.models.loading import LoadedModel


def require_runnable(ledger: Ledger, plan: Plan, key: RecordKey) -> dict[str, TrainingSets]:
    """Check all that `run` reads, for every model of a plan; return its records by the digest of its weights.

    Args:
        ledger: the request ledger, which names what earlier requests removed.
        plan: the plan.
        key: the ledger's record key.

    Raises:
        InputError: records are no longer in the files, the base is unknown or missing, a method's controls are too few, references
            do not fit, or the audit cannot be registered.
        IntegrityError: a model is damaged, or the base is not the one that it was trained from.
    """
    gone, found = removed_before(ledger, plan), dict[str, TrainingSets]()
    for model in plan.models:
        verify_manifest(Path(model.folder), "model")
        sets = training_sets(plan, model, gone, key)
        base = _require_base(plan, model)
        if base is not None:
            require_calibration(plan, model, base)
        require_fitting_references(plan, model, sets, plan.references, key)
        require_registrable(plan, model, sets)
        found[model.weights] = sets
    return found


def _require_base(plan: Plan, model: PlannedModel) -> LoadedModel | None:
    """Load the base and check that it is the right one, if any method of the plan starts from it; else None."""
    needing = [name for name in model.ladder if method_classes()[name]().needs_base]
    if not needing:
        return None
    if model.base is None:
        raise InputError(f"the base model of {model.name} is not known, and {needing[0]} needs it. Name it with --base DIR.")
    return load_base(model, plan.settings.dtype)

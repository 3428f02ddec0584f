"""What the audit of a planned model is given: its record sets, controls, rewordings, and what judges it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn.level.table import FEWEST
from unlearn.requests.candidates import SMALLEST_SET
from unlearn.requests.level_tables import controls_beside
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from verify.auditing.input_checks import USED_HOLDOUT
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.provenance.holdout import split_holdout
from verify.schema.parts import SetRole

AUDIT_ROLES: Mapping[str, SetRole] = {"forget_set": "forget", "retain_set": "retain", "holdout_set": "holdout"}
"""Roles of an audit's sets by their argument names."""


def _judged_by(model: PlannedModel) -> dict[str, Any]:
    """Return the audit's arguments about the level table; none where references judge."""
    return {} if model.level_table is None else {"level_table": model.level_table, "level_table_key": model.level_table_key}


def audit_arguments(plan: Plan, model: PlannedModel, sets: TrainingSets, references: Sequence[str]) -> dict[str, Any]:
    """Return what a model's audit is given besides models, registration and folders, by argument name."""
    return {
        "references": list(references),
        **_judged_by(model),
        **audited_sets(plan, model, sets),
        "fields": plan.columns,
        "rewordings": rewordings_of(plan, model, sets),
        "accept": accepted_differences(plan),
    }


def audited_sets(plan: Plan, model: PlannedModel, sets: TrainingSets) -> dict[str, Any]:
    """Return the audit's record sets by argument name; only a level table and shards compare a single record with controls."""
    retain = sets.retain if len(sets.retain) >= SMALLEST_SET else None
    holdout = holdout_of(plan, model)[1] if len(sets.forget) > 1 or judges_one_record(plan, model) else None
    return {"forget_set": sets.forget, "retain_set": retain, "holdout_set": holdout}


def judges_one_record(plan: Plan, model: PlannedModel) -> bool:
    """Return whether an audit compares a single record with controls."""
    return model.level_table is not None or plan.settings.shard_siblings


def rewordings_of(plan: Plan, model: PlannedModel, sets: TrainingSets) -> str | None:
    """Return the file of rewordings; None where the audit has no never-trained records to ask in the same words."""
    return plan.rewordings if audited_sets(plan, model, sets)["holdout_set"] is not None else None


def holdout_of(plan: Plan, model: PlannedModel) -> tuple[Any, Any]:
    """Return the holdout records of the method and those of the audit, which share no subject; None where there are none.

    The method gets none of a level table's controls where too few are left to calibrate a level, as others asked for deletion
    themselves. Plans of release 0.1.0 did not divide the holdout: both use all, and the audit has to accept that.
    """
    if model.level_table is not None:
        controls = controls_beside(Path(model.level_table), plan.holdout, plan.columns, RecordKey.load())
        return controls.method if len(controls.method) >= FEWEST else None, controls.audit
    if plan.holdout is None or not plan.holdout_divided:
        return plan.holdout, plan.holdout
    split = split_holdout(load_records(plan.holdout, plan.columns))
    return split.method or None, split.audit


def accepted_differences(plan: Plan) -> tuple[str, ...]:
    """Return the accepted reference differences; plans of 0.1.0 did not divide the holdout, so the audit must accept that too."""
    return plan.accept if plan.holdout is None or plan.holdout_divided else (*plan.accept, USED_HOLDOUT)

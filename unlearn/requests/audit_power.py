"""What the audit of a planned deletion will be able to show: how often it would certify an honest one, by what will judge it."""

from unlearn.methods import method_classes
from unlearn.requests.attempt import audit_arguments, reads_level_table
from unlearn.requests.candidates import ONE_RECORD, SMALLEST_SET
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from verify.auditing.measured_power import measure_power
from verify.io.progress import phase


def can_be_measured(plan: Plan, model: PlannedModel) -> bool:
    """Return whether a model's audit has references that differ, or a level table."""
    return model.level_table is not None or len(plan.references) >= SMALLEST_SET


def describe_power(plan: Plan, model: PlannedModel, sets: TrainingSets) -> str:
    """Score the model and its references as the audit will, simulate honest deletions, and say how many are certified.

    Raises:
        InputError: the audit would refuse a record, a reference or the level table.
    """
    exact = hasattr(method_classes()[model.ladder[0]], "exactness")
    with phase("what the audit can show") as done:
        found = measure_power(
            model.folder,
            **audit_arguments(plan, model, sets, plan.references),
            settings=plan.settings,
            approximate=not exact,
            table_shared=reads_level_table(plan, model),
            progress=done,
        )
    more = "" if found.needed is None else f"; about {found.needed} references like these for 80 %"
    return f"{found.words}{more}{ONE_RECORD if len(model.records) == 1 else ''}"

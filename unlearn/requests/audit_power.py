"""What the audit of a planned deletion will be able to show: how often it would certify an honest one, by what will judge it."""

from unlearn.methods import method_classes
from unlearn.requests.attempt import reads_level_table
from unlearn.requests.audit_inputs import audit_arguments
from unlearn.requests.candidates import ONE_RECORD, SMALLEST_SET
from unlearn.requests.plan import Plan, PlannedModel
from unlearn.requests.training_sets import TrainingSets
from verify.auditing.measured_power import measure_power
from verify.io.progress import phase
from verify.schema.alpha_spending import level_of
from verify.schema.judged_by import ordinal


def can_be_measured(plan: Plan, model: PlannedModel) -> bool:
    """Return whether a model's audit has references that differ, or a level table."""
    return model.level_table is not None or len(plan.references) >= SMALLEST_SET


def describe_power(plan: Plan, model: PlannedModel, sets: TrainingSets, before: int | None) -> str:
    """Score the model and its references as the audit will, simulate honest deletions, and say how many are certified.

    Args:
        plan, model, sets: as planned.
        before: number of audits against the same controls that come before this one, by which it accuses at its share of alpha;
            None without controls.

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
            audited_before=before,
            progress=done,
        )
    more = "" if found.needed is None else f"; about {found.needed} references like these for 80 %"
    return f"{found.words}{more}{_share(plan, before)}{ONE_RECORD if len(model.records) == 1 else ''}"


def _share(plan: Plan, before: int | None) -> str:
    """Say which audit against its controls it is, and at which level it accuses, where audits share alpha."""
    settings = plan.settings
    if settings.expected_audits is None or before is None:
        return ""
    level = level_of(settings.alpha, settings.expected_audits, before + 1)
    planned = f"{ordinal(before + 1)} audit against the same controls, with {settings.expected_audits} planned"
    return f"; as things stand, it is the {planned}, and accuses at level {level:.3g}"

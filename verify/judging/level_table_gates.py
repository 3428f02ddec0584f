"""Validity checks of an audit by a level table that need its facts only: size, age, kind of controls, honesty of its pool."""

from collections.abc import Sequence
from datetime import datetime

from verify.judging.conformal import BLIND_LEVEL
from verify.schema.inputs import Registered
from verify.schema.judged_by import LevelTableUsed
from verify.schema.parts import Claim, Gate
from verify.scores.table import POOL
from verify.statistics.controls import NOISE_LIMIT, NoiseRatio
from verify.statistics.level_checks import ControlsCheck, PoolModelCheck
from verify.statistics.level_fit import MIN_CONTROL_SUBJECTS
from verify.statistics.level_shape import ShapeCheck

RECORD: tuple[Claim, ...] = ("record",)
FEWEST_MODELS = 2
"""With one model that never saw a record, its chance is taken for the record's level."""

BY_LEVEL = " By level, its difference from that model moves the records by"
"""Begins the sentence on controls by level in the reason of the check "controls unseen", from rule 4 on."""
LEVELS_UNCHECKED = (
    "Whether the model treats hard controls as it treats easy ones was not checked: that takes records of several people that the "
    "model before unlearning knows better than one that never saw them."
)


def table_gate(used: LevelTableUsed, subjects: int) -> Gate:
    """Check that enough models never saw each record, and that there are enough control subjects to calibrate them.

    Args:
        used: the table's facts.
        subjects: control subjects.
    """
    reason = (
        f"{used.references} of the {used.judging} models that judge never saw a given person (at least {FEWEST_MODELS} are "
        f"needed), and {subjects} control subjects calibrate them (at least {MIN_CONTROL_SUBJECTS})."
    )
    passed = used.references >= FEWEST_MODELS and subjects >= MIN_CONTROL_SUBJECTS
    if not passed:
        reason += " Make a table with more models (--level-table M) and a larger --holdout-share, before the next request."
    return Gate(name="level table", claims=RECORD, passed=passed, blocks="NOT_TESTABLE", reason=reason)


def made_before_gate(used: LevelTableUsed, registered: Registered | None) -> Gate:
    """Check that the table was made before the unlearning, by a registration that names it.

    A table made once it is known who asks can be trained to fit the answer.
    """
    name = "table before the request"
    if registered is None:
        reason = (
            f"The table is dated {used.created[:10]}, by the clock of whoever made it. No registration from before the "
            "unlearning names it, so nothing here shows that it is older than the request."
        )
        return Gate(name=name, claims=RECORD, passed=None, blocks="nothing", reason=reason)
    passed = _is_before(used.created, registered.created)
    order = "no later than" if passed else "not before"
    reason = (
        f"The table is dated {used.created}, {order} the registration that names it was written ({registered.created}), each "
        "by the clock of whoever made it."
    )
    return Gate(name=name, claims=RECORD, passed=passed, blocks="NOT_TESTABLE", reason=reason)


def _is_before(one: str, other: str) -> bool:
    """Return whether one time is not later than the other; False where either is no time with a time zone."""
    try:
        return datetime.fromisoformat(one) <= datetime.fromisoformat(other)
    except (TypeError, ValueError):
        return False


def exchangeable_gate(blind_p: float | None) -> Gate:
    """Check that no text classifier tells records from controls: everything is calibrated on controls."""
    name = "controls of the same kind"
    if blind_p is None:
        reason = (
            "Whether records and controls are of the same kind could not be tested by their words: it takes two people on each "
            "side who share words. By the table's design the controls were drawn at random from the same people."
        )
        return Gate(name=name, claims=RECORD, passed=None, blocks="nothing", reason=reason)
    passed = blind_p >= BLIND_LEVEL
    reason = (
        f"By words alone, records and controls {'are not' if passed else 'are'} distinguishable (permutation p = {blind_p:.3f}, "
        f"level {BLIND_LEVEL:g})."
    )
    if not passed:
        reason += " What the controls show about this model need not hold for such records."
    return Gate(name=name, claims=RECORD, passed=passed, blocks="NOT_TESTABLE", reason=reason)


def pool_gate(checks: Sequence[PoolModelCheck], labels: Sequence[str]) -> Gate:
    """Check that no model of the pool knows records that its design left out of it, as each is judged by the others.

    Args:
        checks: one per model that judges.
        labels: their labels in the score table.
    """
    name = "negative control"
    judged = [check for check in checks if check.verdict is not None]
    if not judged:
        reason = "No model of the table could be judged by the others: too few never saw the same records."
        return Gate(name=name, claims=RECORD, passed=None, blocks="INCONCLUSIVE", reason=reason)
    accused = [check for check in judged if check.accused]
    reason = (
        f"Judged by the others on the records that it never saw by the table's design, {len(accused)} of {len(judged)} models of "
        f"the table are accused (at level alpha / {len(checks)} each). The table holds their losses only; the models are gone."
    )
    if accused:
        listed = ", ".join(labels[check.model].removeprefix(POOL) for check in accused)
        reason += f" Model {listed} knows records that, by the design, it was not trained on."
    return Gate(name=name, claims=RECORD, passed=not accused, blocks="NOT_TESTABLE", reason=reason)


def unseen_controls_gate(check: ControlsCheck, noise: NoiseRatio, shapes: Sequence[ShapeCheck] | None) -> Gate:
    """Check that the target treats the controls as the original does: in the mean, in its noise, and by level.

    Every test is a contrast with the controls.

    Args:
        check: the target's mean loss on controls against the original's.
        noise: the same of the variances of their residuals.
        shapes: the same by level, on every channel where that could be checked; None by rule 3, which does not ask.
    """
    turned = [shape for shape in shapes or () if not shape.held]
    passed = check.held and noise.trained_alike and not turned
    reason = (
        f"On the controls the target loses {-check.difference:+.3f} nats per token against the model before unlearning (at most "
        f"{check.limit:.3f} less is allowed), and the variance of its noise is {noise.ratio:.2f} times as large (at most "
        f"{NOISE_LIMIT:g}, chance aside)."
    )
    if shapes:
        worst = min(shapes, key=lambda shape: (shape.held, shape.p_value))
        reason += (
            f"{BY_LEVEL} {worst.moved:.3f} nats per token ({worst.channel}, "
            f"p = {worst.p_value:.2g}; {worst.allowed:.3f} are allowed whatever p, and any within chance)."
        )
    elif shapes is not None:
        reason += f" {LEVELS_UNCHECKED}"
    if not check.held:
        reason += " Was it trained on the controls? What it kept of the records would not show beside them."
    if not noise.trained_alike:
        reason += " Was it trained by other options, or made noisy on the controls? That widens every error."
    if turned:
        reason += " Was it trained on hard controls otherwise than on easy ones? What it kept of the like would not show."
    return Gate(name="controls unseen", claims=("record",), passed=passed, blocks="INCONCLUSIVE", reason=reason)


def several_subjects_gate(subjects: int, nameless: int) -> Gate:
    """Check that the records are about several subjects: one can be accused by a level table, but never certified.

    Args:
        subjects: number of subjects that the records name.
        nameless: number of records that name nobody; they may all be about one of these subjects, or about one more person.
    """
    reason = f"The records are about {subjects} subjects."
    if subjects < 2 and nameless:
        reason = (
            f"{nameless} records name nobody, so that all may be about one person, on whom a level table can accuse but not "
            "certify. Name the people in a column (--subject-field)."
        )
    elif subjects < 2:
        reason = (
            "All records are about one subject. How much one subject varies between trainings is not averaged out, so that a level "
            "table can accuse but not certify."
        )
    return Gate(name="several subjects", claims=RECORD, passed=subjects > 1, blocks="INCONCLUSIVE", reason=reason)

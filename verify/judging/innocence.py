"""Innocence of references: whether they show signs of having been trained on the records that they should know nothing about.

References that hold part of the forget set make a model look forgetful that holds the same part: residual and gap are both zero
there, and no residual test can see it. Two checks look for that in the scores. Neither is proof: a contaminated reference may pass
both, and only running its training again would show what it was trained on.
"""

from collections.abc import Sequence

import numpy as np

from verify.judging.conformal import Array
from verify.judging.gates import BLIND_LIMIT
from verify.judging.user_level_claim import whose
from verify.schema.parts import Gate, SetRole, Value
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.estimate import Estimate
from verify.statistics.lira import user_level
from verify.statistics.roc import membership_auc

WEAK_GAP = 0.25
"""Records whose gap is below this share of the mean gap count as hardly memorized."""
MOST_WEAK = 0.05
"""Largest share of such records that a certificate allows."""
GUESSING = 0.5
BOTH: tuple[SetRole, ...] = ("forget", "holdout")


def innocence_gate(table: ScoreTable, references: Sequence[str], settings: Settings, blind: Value | None) -> Gate:
    """Check that no reference recognises forget subjects among never-trained controls.

    The score of a subject is the mean log-probability of its records, less that under the base model where there is one. A
    reference fails if the lower limit of its AUC, one-sided at alpha / R, lies above one half.

    Args:
        table: scores of the references (and the base) on "forget" and "holdout".
        references: their labels.
        settings: level alpha, and whether the controls were drawn at random.
        blind: AUC of the blind baseline. Controls of another kind say nothing about a reference, so they must have been drawn at
            random or be indistinguishable by words alone.
    """
    obstacle = _no_controls(table, settings, blind)
    if obstacle or not references:
        reason = f"Whether the references know the records could not be tested: {obstacle or 'there are none'}."
        return Gate(name="innocent references", claims=("record",), passed=None, blocks="nothing", reason=reason)
    areas = [_recognises(table, label, 1 - 2 * settings.alpha / len(references)) for label in references]
    failed = [number for number, area in enumerate(areas, 1) if area.low > GUESSING]
    worst = max(areas, key=lambda area: area.value)
    reason = (
        f"Among never-trained controls the references recognise the forget subjects with an AUC of at most {worst.value:.2f} "
        f"(0.5 is guessing; at level alpha / {len(areas)} each, {len(failed)} of {len(areas)} do better)."
    )
    if failed:
        reason += f" Reference {', '.join(map(str, failed))} may have been trained on some of the records."
    return Gate(
        name="innocent references",
        claims=("record",),
        passed=not failed,
        blocks="NOT_TESTABLE",
        reason=reason,
        value=Value.of(worst),
    )


def memorized_gate(table: ScoreTable, references: Sequence[str]) -> tuple[Gate, tuple[str, ...]]:
    """Check that the original knew nearly every record better than the references do; return also the hashes of those it did not.

    A record without a gap was not memorized, or the references know it too. Either way nothing was shown about it.
    """
    block = table.blocks["original", "forget"]
    return memorized(table.losses(references, "forget").mean(axis=0) - block.loss, block.records, "known to the references")


def memorized(gap: Array, records: Sequence[str], known: str) -> tuple[Gate, tuple[str, ...]]:
    """Check the gaps of the forget records; return also the hashes of those without.

    Args:
        gap: what the original knew better, nats per token [K].
        records: keyed hashes [K].
        known: what else a record without a gap may be: "known to the references".
    """
    weak = np.flatnonzero(gap < WEAK_GAP * gap.mean())
    share = len(weak) / len(gap)
    reason = (
        f"{len(weak)} of {len(gap)} records were hardly memorized, or are {known} as well (their gap is below a "
        f"quarter of the mean gap); a certificate allows {MOST_WEAK:.0%}."
    )
    passed = bool(gap.mean() > 0 and share <= MOST_WEAK)
    gate = Gate(name="memorized records", claims=("record",), passed=passed, blocks="INCONCLUSIVE", reason=reason)
    return gate, tuple(records[int(index)] for index in weak)


def _no_controls(table: ScoreTable, settings: Settings, blind: Value | None) -> str | None:
    """Return why the controls cannot serve, or None."""
    if table.block("target", "holdout") is None:
        return "no never-trained controls were given"
    if any(len(set(whose(table.blocks["target", role]))) < 2 for role in BOTH):
        return "the records or the controls are about one subject"
    if settings.twins or (blind is not None and blind.high < BLIND_LIMIT):
        return None
    return "the controls are of another kind of text than the records, or that could not be excluded"


def _recognises(table: ScoreTable, label: str, confidence: float) -> Estimate:
    forget, controls = (_scores(table, label, role) for role in BOTH)
    return membership_auc(forget, controls, confidence)


def _scores(table: ScoreTable, label: str, role: SetRole) -> Array:
    """Compute each subject's mean log-probability under a model, less that under the base where there is one [S]."""
    base = table.block("base", role)
    scores = -table.loss(label, role) + (0.0 if base is None else base.loss)
    return np.asarray(user_level(scores, whose(table.blocks[label, role]))[1])

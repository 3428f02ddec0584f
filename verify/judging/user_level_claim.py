"""User level: test whether the model recognises a person from texts it was never trained on.

A deleted record may be gone while the person's habits of writing, or facts that several records share, are still there. Fresh
texts of the forget set's subjects are compared with texts of people who were never trained on, one score per person.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from verify.data.subjects import MergedNames
from verify.judging.conformal import BLIND_LEVEL, Array, calibrated, conformal_findings, describe_calibration
from verify.schema.claims import UserLevelClaim
from verify.schema.parts import SetRole, Value, VerdictWord
from verify.schema.settings import Settings
from verify.scores.table import ScoreBlock, ScoreTable
from verify.statistics.estimate import Estimate
from verify.statistics.lira import user_level
from verify.statistics.roc import membership_auc


def enough_people(table: ScoreTable) -> bool:
    """Return whether fresh texts and controls cover at least two people each."""
    blocks = [table.block("target", role) for role in ("fresh", "holdout")]
    return all(block is not None and len(set(whose(block))) > 1 for block in blocks)


def judge_people(table: ScoreTable, settings: Settings, alpha: float, blind_p: float | None) -> UserLevelClaim | None:
    """Judge the forget set's subjects by their fresh texts, or return None where there are not enough of them.

    Half of `alpha` goes to the set (a rank-sum test over people, exact for small samples), half to single people (conformal,
    Benjamini-Hochberg).

    Args:
        table: scores of target, original and models that never saw these people, on "fresh" and "holdout".
        settings: as registered; the holdout's people are controls only where they were drawn at random (`twins`).
        alpha: level of the accusation.
        blind_p: label-permutation p-value of the blind baseline between fresh and holdout texts: any model may find one kind of
            text easier than another. None where it was not computed.
    """
    if not enough_people(table):
        return None
    names, target = _by_person(table, "target", "fresh")
    others, controls = _by_person(table, "target", "holdout")
    before, controls_before = (_by_person(table, "original", role)[1] for role in ("fresh", "holdout"))
    auc, original = (membership_auc(*sides, 1 - alpha / 2) for sides in ((target, controls), (before, controls_before)))
    p_value, p_before = (_rank_sum_p(*sides) for sides in ((target, controls), (before, controls_before)))
    accused = conformal_findings(names, target, controls, alpha / 2)
    verdict: VerdictWord
    if (obstacle := _obstacle(settings, blind_p, original, p_before, alpha)) is not None:
        verdict, reason = "NOT_TESTABLE", obstacle
    else:
        verdict, reason = _judged(len(names), len(others), auc, p_value, len(accused), alpha)
    return UserLevelClaim(
        subjects=len(names),
        controls=len(others),
        texts=len(table.loss("target", "fresh")),
        statistic=f"per person: {describe_calibration(table, 'fresh')}",
        auc=Value.of(auc),
        original_auc=Value.of(original),
        p_value=p_value,
        original_p=p_before,
        blind_p=blind_p,
        accused=accused,
        verdict=verdict,
        reason=reason,
    )


def _obstacle(settings: Settings, blind_p: float | None, original: Estimate, p_before: float, alpha: float) -> str | None:
    """Say why these people cannot be tested; None where they can.

    Args:
        settings, blind_p, alpha: as for `judge_people`.
        original: AUC of the model before unlearning.
        p_before: its rank-sum p-value.
    """
    if not settings.twins:
        return "The holdout's people were not drawn at random (--twins), so they are no controls."
    if blind_p is None or blind_p < BLIND_LEVEL:
        seen = "could not be compared" if blind_p is None else f"are distinguishable by words alone (permutation p = {blind_p:.3f})"
        return f"Fresh texts and controls {seen}: any model may find one kind of text easier than another."
    if p_before > alpha / 2:
        return (
            f"The model before unlearning does not recognise these people from their fresh texts (AUC {original.value:.3f}, "
            f"rank-sum p = {p_before:.3g}), so forgetting them cannot be tested this way."
        )
    return None


def _judged(subjects: int, controls: int, auc: Estimate, p_value: float, accused: int, alpha: float) -> tuple[VerdictWord, str]:
    """Judge people who can be tested: the set by its rank-sum p-value, single people by how many stand out."""
    if accused or p_value <= alpha / 2:
        return "NOT_FORGOTTEN", (
            f"Fresh texts of {subjects} subjects have AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] against "
            f"{controls} never-trained people (rank-sum p = {p_value:.3g}); {accused} subjects stand out by themselves."
        )
    return "INCONCLUSIVE", (
        f"Fresh texts of {subjects} subjects look like those of {controls} never-trained people (AUC {auc.value:.3f})."
    )


def _by_person(table: ScoreTable, model: str, role: SetRole) -> tuple[list[str], Array]:
    names, scores = user_level(calibrated(table, model, role), whose(table.blocks[model, role]))
    return names, np.asarray(scores)


def whose(block: ScoreBlock) -> list[str]:
    """Return the person behind each text; a text without a named person counts as its own."""
    return [subject or record for subject, record in zip(block.subjects, block.records, strict=True)]


def units(table: ScoreTable, role: SetRole) -> list[str]:
    """Return whom each record of a set counts for: the person behind it and, by a level table, all that the table groups with it.

    The table's groups are of people and near-duplicates, which it leaves out of the same models. Without them, one person's records
    that name nobody would count as those of several people.
    """
    own, pool = whose(table.blocks["target", role]), table.pool()
    return _joined(own, whose(table.blocks[pool[0], role])) if pool else own


def named_subjects(table: ScoreTable) -> tuple[int, int]:
    """Count the people that the forget records name, each group of the level table as one, and the records that name nobody."""
    names = table.blocks["target", "forget"].subjects
    people = {unit for unit, name in zip(units(table, "forget"), names, strict=True) if name is not None}
    return len(people), names.count(None)


def _joined(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the smallest of `names` among all records that share an entry of either list, by any number of steps."""
    merged = MergedNames()
    for name, other in zip(names, others, strict=True):
        merged.join(f"0{name}", f"1{other}")  # of the two lists' names the audit's come first
    return [merged.group(f"0{name}")[1:] for name in names]


def _rank_sum_p(scores: Array, controls: Array) -> float:
    """Compute a two-sided Mann-Whitney p-value: exact with at most eight on a side and no ties, else by normal approximation."""
    return float(stats.mannwhitneyu(scores, controls, method="auto").pvalue)

"""User level: does the model know a person from texts of theirs that it was never trained on?

A deleted record may be gone while the person's habits of writing, or facts that several records share, are still there. Fresh
texts of the forget set's subjects are compared with texts of people who were never trained on, one score per person.
"""

import numpy as np

from verify.claims.common import Array, calibrated, conformal_findings, describe_calibration
from verify.evidence import Settings
from verify.findings import People, SetRole, Value, VerdictWord
from verify.scores import ScoreTable
from verify.statistics.likelihood_ratio import user_level
from verify.statistics.roc import membership_auc


def judge_people(table: ScoreTable, settings: Settings, alpha: float) -> People | None:
    """Judge the forget set's subjects by their fresh texts, or None where there are none.

    Half of `alpha` goes to the set (the AUC's interval excludes 0.5), half to single people (conformal, Benjamini-Hochberg).

    Args:
        table: scores of target, original and whatever never saw these people, on "fresh" and "holdout".
        settings: as registered; the holdout's people are controls only where they were drawn at random (`twins`).
        alpha: level of the accusation.
    """
    if table.block("target", "fresh") is None or table.block("target", "holdout") is None:
        return None
    names, target = _by_person(table, "target", "fresh")
    others, controls = _by_person(table, "target", "holdout")
    if min(len(names), len(others)) < 2:
        return None
    auc = membership_auc(target, controls, 1 - alpha / 2)
    original = membership_auc(_by_person(table, "original", "fresh")[1], _by_person(table, "original", "holdout")[1], 1 - alpha / 2)
    accused = conformal_findings(names, target, controls, alpha / 2)
    verdict: VerdictWord
    if not settings.twins:
        verdict, reason = "NOT_TESTABLE", "The holdout's people were not drawn at random (--twins), so they are no controls."
    elif original.low <= 0.5 <= original.high:
        verdict = "NOT_TESTABLE"
        reason = (
            f"The model before unlearning does not know these people from their fresh texts (AUC {original.value:.3f}), so "
            "nothing about forgetting them can be seen this way."
        )
    elif accused or not auc.low <= 0.5 <= auc.high:
        verdict = "NOT_FORGOTTEN"
        reason = (
            f"Fresh texts of {len(names)} subjects have AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] against "
            f"{len(others)} never-trained people; {len(accused)} subjects stand out by themselves."
        )
    else:
        verdict = "INCONCLUSIVE"
        reason = (
            f"Fresh texts of {len(names)} subjects look like those of {len(others)} never-trained people (AUC {auc.value:.3f})."
        )
    return People(
        subjects=len(names),
        controls=len(others),
        texts=len(table.loss("target", "fresh")),
        statistic=f"per person: {describe_calibration(table, 'fresh')}",
        auc=Value.of(auc),
        original_auc=Value.of(original),
        accused=accused,
        verdict=verdict,
        reason=reason,
    )


def _by_person(table: ScoreTable, model: str, role: SetRole) -> tuple[list[str], Array]:
    block = table.blocks[model, role]
    people = [subject or record for subject, record in zip(block.subjects, block.records, strict=True)]
    names, scores = user_level(calibrated(table, model, role), people)
    return names, np.asarray(scores)

"""Tier C: test the forget set against controls held out at random at data collection, without retraining."""

import numpy as np

from verify.judging.conformal import BLIND_LEVEL, Array, calibrated, conformal_findings, describe_calibration
from verify.schema.claims import ConformalFinding, HeldOutClaim
from verify.schema.parts import Value, VerdictWord
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable
from verify.statistics.dataset_usage import share_still_in
from verify.statistics.intervals import clopper_pearson
from verify.statistics.planner import conformal_power

CALL_RATE = 0.10
"""False-positive rate of the membership guesses from which the share still in the model is estimated."""


def judge_controls(table: ScoreTable, settings: Settings, alpha: float, blind_p: float) -> HeldOutClaim | None:
    """Judge the forget set against held-out controls, or return None where the holdout is not declared exchangeable.

    Every forget record gets a conformal p-value among the controls, in both directions, corrected by Benjamini-Hochberg. The test
    can accuse but not certify: the null hypothesis is "as never trained", and not rejecting it may be lack of power.

    Args:
        table: scores of target, original and models that never saw the records, on forget and holdout.
        settings: as registered.
        alpha: false-discovery rate of the accusation, both directions together.
        blind_p: label-permutation p-value of the blind baseline.
    """
    holdout = table.block("target", "holdout")
    if not settings.twins or holdout is None:
        return None
    accused, original = (_findings(table, model, alpha) for model in ("target", "original"))
    controls = len(holdout.records)
    if blind_p < BLIND_LEVEL:
        verdict: VerdictWord = "NOT_TESTABLE"
        reason = (
            f"The forget records and the held-out controls are distinguishable by words alone (permutation p = {blind_p:.3f}), so "
            "the controls were not drawn at random from the same records."
        )
    elif not original:
        verdict = "NOT_TESTABLE"
        reason = (
            f"The same test finds no record in the model before unlearning, so finding none now means nothing. {controls} controls "
            f"give p-values down to {1 / (controls + 1):.4f}; more controls, or records that were learned better, are needed."
        )
    elif accused:
        verdict = "NOT_FORGOTTEN"
        reason = f"{len(accused)} forget records do not look like never-trained controls ({len(original)} before unlearning)."
    else:
        verdict = "INCONCLUSIVE"
        reason = (
            f"No forget record was found to differ from the held-out controls ({len(original)} before unlearning). A single record "
            f"with a residual of one standard deviation is detected with probability {_single_power(controls):.2f}: retrained "
            "references would settle it."
        )
    return HeldOutClaim(
        records=len(table.loss("target", "forget")),
        controls=controls,
        statistic=describe_calibration(table, "forget"),
        accused=accused,
        original_accused=len(original),
        smallest_p=1 / (controls + 1),
        blind_p=blind_p,
        still_in=_still_in(table, settings),
        record_power=_single_power(controls),
        verdict=verdict,
        reason=reason,
    )


def _findings(table: ScoreTable, model: str, alpha: float) -> tuple[ConformalFinding, ...]:
    records = table.blocks[model, "forget"].records
    return conformal_findings(records, calibrated(table, model, "forget"), calibrated(table, model, "holdout"), alpha)


def _single_power(controls: int) -> float:
    return conformal_power(1.0, controls)


def _still_in(table: ScoreTable, settings: Settings) -> Value | None:
    """Estimate the share of the set still in the model (DUCI): threshold from one half of the controls, FPR from the other."""
    level = 1 - (1 - settings.confidence) / 3
    half = np.random.default_rng(settings.seed).permutation(len(table.loss("target", "holdout"))) % 2 == 0
    if half.all() or (~half).sum() < 1:
        return None

    def calls(model: str) -> tuple[Array, Array]:
        threshold = np.quantile(calibrated(table, model, "holdout")[half], 1 - CALL_RATE)
        return calibrated(table, model, "forget") > threshold, calibrated(table, model, "holdout")[~half] > threshold

    guessed, false = calls("target")
    known, _ = calls("original")  # before unlearning every forget record was a member
    try:
        share = share_still_in(*(clopper_pearson(int(hits.sum()), len(hits), level) for hits in (guessed, false, known)))
    except ValueError:
        return None  # the guesses separate members from others too poorly to solve for the share
    return Value.of(share)

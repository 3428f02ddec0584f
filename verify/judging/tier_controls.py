"""Tier C: test the forget set against controls held out at random at data collection, without retraining."""

import numpy as np

from verify.judging.conformal import BLIND_LEVEL, Array, calibrated, conformal_findings, describe_calibration
from verify.schema.evidence import Settings
from verify.schema.parts import TwinFinding, Twins, Value, VerdictWord
from verify.scores.table import ScoreTable
from verify.statistics.dataset_usage import share_still_in
from verify.statistics.intervals import clopper_pearson
from verify.statistics.planner import conformal_power

CALL_RATE = 0.10
"""Share of never-trained records that the guesses behind "still in" call members."""


def judge_twins(table: ScoreTable, settings: Settings, alpha: float, blind_p: float) -> Twins | None:
    """Judge the forget set against held-out controls, or None where the holdout is not declared exchangeable.

    Every forget record gets a conformal p-value among the twins, in both directions, and Benjamini-Hochberg corrects for their
    number. It can accuse; it cannot certify, for the null is "as never trained" and silence may be lack of power.

    Args:
        table: scores of target, original and whatever never saw the records, on forget and holdout.
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
        reason = f"Words alone tell the forget records from their twins (permutation p = {blind_p:.3f}), so they are no twins."
    elif not original:
        verdict = "NOT_TESTABLE"
        reason = (
            f"The same test finds no record in the model before unlearning, so its silence means nothing. {controls} twins give "
            f"p-values down to {1 / (controls + 1):.4f}; more twins, or records that were learned better, are needed."
        )
    elif accused:
        verdict = "NOT_FORGOTTEN"
        reason = f"{len(accused)} forget records do not look like never-trained twins ({len(original)} before unlearning)."
    else:
        verdict = "INCONCLUSIVE"
        reason = (
            f"No forget record differs from its twins (before unlearning {len(original)} did). A single record with a residual of "
            f"one standard deviation is seen with probability {_single_power(controls):.2f}: retrained references decide."
        )
    return Twins(
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


def _findings(table: ScoreTable, model: str, alpha: float) -> tuple[TwinFinding, ...]:
    records = table.blocks[model, "forget"].records
    return conformal_findings(records, calibrated(table, model, "forget"), calibrated(table, model, "holdout"), alpha)


def _single_power(controls: int) -> float:
    return conformal_power(1.0, controls)


def _still_in(table: ScoreTable, settings: Settings) -> Value | None:
    """Estimate DUCI's share of the set, the threshold from one half of the controls and the FPR from the other."""
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
        return None  # the guesses tell members from others too poorly to undo their mixture
    return Value.of(share)

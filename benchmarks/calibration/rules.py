"""Decision rules on the same scores: this project's verdict by both rules, TOFU's forget quality, and a plain AUC."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.calibration.worlds import Scores
from verify.judging.gates import SecondRule, trained_alike_gate
from verify.judging.innocence import MOST_WEAK, WEAK_GAP
from verify.schema.settings import Settings
from verify.statistics import membership_auc, residual_verdict
from verify.statistics.channels import judge_channels
from verify.statistics.contrasts import CHANNEL_SHARE
from verify.statistics.subjects import subject_means, subject_numbers

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Readings:
    """Outcome of each rule on one audit.

    Attributes:
        verdict: NOT_FORGOTTEN, EQUIVALENT_WITHIN or INCONCLUSIVE.
        forget_quality: whether TOFU's rule (two-sample Kolmogorov-Smirnov against one retrained model, p > 0.05) calls it
            forgotten; on losses here, as truth ratios need perturbed answers.
        plain_auc: whether "the AUC's interval contains one half" calls it forgotten.
    """

    verdict: str
    forget_quality: bool
    plain_auc: bool


def read(original: np.ndarray, target: np.ndarray, references: np.ndarray, controls: np.ndarray) -> Readings:
    """Apply the three rules to one audit.

    Args:
        original, target: losses on the forget set [K].
        references: losses under each reference [R, K].
        controls: the target's losses on never-trained controls [N].
    """
    ours = residual_verdict(original, target, references)
    verdict = "NOT_FORGOTTEN" if ours.accused else "EQUIVALENT_WITHIN" if ours.certified else "INCONCLUSIVE"
    area = membership_auc(-target, -controls)
    return Readings(verdict, float(stats.ks_2samp(target, references[0]).pvalue) > SIGNIFICANCE, area.low <= 0.5 <= area.high)


@dataclass(frozen=True)
class Outcome:
    """What rule 2 says of one audit, and which tests said it.

    Attributes:
        tests: those of A1, A2, A3 and channels that accuse.
        tests_certify: whether C1, C2 and the channels certify and nothing accuses.
        gates: those of "noise of the target", "innocent references" and "memorized records" that fail.
    """

    tests: tuple[str, ...]
    tests_certify: bool
    gates: tuple[str, ...]

    @property
    def accused(self) -> bool:
        """NOT_FORGOTTEN, unless a reference is not innocent: then nothing is judged."""
        return bool(self.tests) and "innocent references" not in self.gates

    @property
    def certified(self) -> bool:
        """EQUIVALENT_WITHIN: the tests certify and every gate is passed."""
        return self.tests_certify and not self.gates


def rule_one(scores: Scores) -> tuple[bool, bool]:
    """Return whether rule 1 accuses and whether it certifies."""
    found = residual_verdict(scores.exact.original, scores.exact.target, scores.exact.references)
    return found.accused, found.certified


def rule_two(scores: Scores, margin: float = 0.10) -> Outcome:
    """Judge an audit by rule 2 with all its tests and the gates that need no planting."""
    settings, exact = Settings(margin=margin), scores.exact
    rule = SecondRule(
        exact.original,
        exact.references,
        scores.subjects,
        scores.texts,
        exact.control_references,
        scores.control_subjects,
        1 - CHANNEL_SHARE,
    )
    found = rule.judge(exact.target, settings, exact.control_target)
    asked = judge_channels(scores.channels, scores.subjects, scores.control_subjects, margin, settings.alpha)
    subjects = found.subject_test
    fired = {
        "A1": found.mean_test.accused,
        "A2": bool(found.record_test.accused.any()),
        "A3": subjects is not None and bool(subjects.accused.any()),
        "channels": asked.accused,
    }
    failed = {
        "noise of the target": trained_alike_gate(found.noise).passed is False,
        "innocent references": _guilty(scores, settings.alpha),
        "memorized records": float(np.mean(found.gap < WEAK_GAP * found.mean_gap)) > MOST_WEAK,
    }
    return Outcome(
        tuple(test for test, here in fired.items() if here),
        found.certified and asked.certified,
        tuple(gate for gate, here in failed.items() if here),
    )


def _guilty(scores: Scores, alpha: float) -> bool:
    """Return whether some reference recognises forget subjects among controls, each at alpha / R, as the audit's gate does."""
    forget, controls = subject_numbers(scores.subjects), subject_numbers(scores.control_subjects)
    if forget.max() < 1 or controls.max() < 1:
        return False
    references = scores.exact.references, scores.exact.control_references
    level = 1 - 2 * alpha / len(references[0])
    return any(
        membership_auc(subject_means(scores.base - own, forget), subject_means(scores.control_base - control, controls), level).low
        > 0.5
        for own, control in zip(*references, strict=True)
    )

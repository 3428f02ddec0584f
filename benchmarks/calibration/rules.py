"""Three decision rules on the same scores: this project's verdict, TOFU's forget quality, and a plain AUC."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from verify.statistics import membership_auc, residual_verdict

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

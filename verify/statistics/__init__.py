"""Statistics of the audit: pure numpy and scipy, importable without torch."""

from verify.statistics.estimate import Estimate
from verify.statistics.intervals import clopper_pearson
from verify.statistics.means import mean_with_interval
from verify.statistics.moderation import ModeratedVariances, moderated_variances
from verify.statistics.multiplicity import Rejections, benjamini_hochberg, conformal_p_values
from verify.statistics.residual import ReferencePanel, ResidualVerdict, reference_panel, residual_verdict
from verify.statistics.roc import Curve, membership_auc, roc_curve, tpr_at_fpr

__all__ = [
    "Curve",
    "Estimate",
    "ModeratedVariances",
    "ReferencePanel",
    "Rejections",
    "ResidualVerdict",
    "benjamini_hochberg",
    "clopper_pearson",
    "conformal_p_values",
    "mean_with_interval",
    "membership_auc",
    "moderated_variances",
    "reference_panel",
    "residual_verdict",
    "roc_curve",
    "tpr_at_fpr",
]

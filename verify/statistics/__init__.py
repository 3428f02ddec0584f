"""Statistics of the audit: pure numpy and scipy, importable without torch."""

from verify.statistics.backdoor import TriggerTest, trigger_test
from verify.statistics.dataset_usage import share_still_in
from verify.statistics.estimate import Estimate
from verify.statistics.extraction import exposure, queries_to_extract, zero_success_bound
from verify.statistics.intervals import clopper_pearson, mean_with_interval
from verify.statistics.lira import likelihood_ratio, offline_likelihood_ratio, online_likelihood_ratio, user_level
from verify.statistics.moderation import ModeratedVariances, moderated_variances
from verify.statistics.multiplicity import Rejections, benjamini_hochberg, conformal_p_values
from verify.statistics.one_run import (
    AssignmentTest,
    OneRunBound,
    SequentialEvidence,
    assignment_test,
    deletion_e_value,
    one_run_epsilon,
    one_run_p_value,
)
from verify.statistics.panel import ReferencePanel, reference_panel
from verify.statistics.paper_metrics import (
    KolmogorovSmirnov,
    forget_quality,
    model_utility,
    privleak,
    truth_ratio,
    truth_ratio_score,
)
from verify.statistics.planner import (
    conformal_power,
    controls_for_auc,
    controls_for_epsilon,
    controls_for_rate,
    required_sample_size,
)
from verify.statistics.population_ratio import rmia
from verify.statistics.prediction import PredictionTest, prediction_test
from verify.statistics.privacy import EpsilonFromRates, epsilon_from_rates
from verify.statistics.residual import ResidualVerdict, residual_verdict
from verify.statistics.roc import Curve, membership_auc, roc_curve, tpr_at_fpr
from verify.statistics.simulation import RuleRates, World, rule_rates, simulate_losses

__all__ = [
    "AssignmentTest",
    "Curve",
    "EpsilonFromRates",
    "Estimate",
    "KolmogorovSmirnov",
    "ModeratedVariances",
    "OneRunBound",
    "PredictionTest",
    "ReferencePanel",
    "Rejections",
    "ResidualVerdict",
    "RuleRates",
    "SequentialEvidence",
    "TriggerTest",
    "World",
    "assignment_test",
    "benjamini_hochberg",
    "clopper_pearson",
    "conformal_p_values",
    "conformal_power",
    "controls_for_auc",
    "controls_for_epsilon",
    "controls_for_rate",
    "deletion_e_value",
    "epsilon_from_rates",
    "exposure",
    "forget_quality",
    "likelihood_ratio",
    "mean_with_interval",
    "membership_auc",
    "model_utility",
    "moderated_variances",
    "offline_likelihood_ratio",
    "one_run_epsilon",
    "one_run_p_value",
    "online_likelihood_ratio",
    "prediction_test",
    "privleak",
    "queries_to_extract",
    "reference_panel",
    "required_sample_size",
    "residual_verdict",
    "rmia",
    "roc_curve",
    "rule_rates",
    "share_still_in",
    "simulate_losses",
    "tpr_at_fpr",
    "trigger_test",
    "truth_ratio",
    "truth_ratio_score",
    "user_level",
    "zero_success_bound",
]

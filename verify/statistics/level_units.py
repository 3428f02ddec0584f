"""Tests of single records and subjects in an audit by a level table: A2', A3', and distribution-free p-values."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from verify.statistics.controls import NoiseRatio
from verify.statistics.critical_values import f_quantile
from verify.statistics.level_fit import Calibration, Lines, Side, lines, moments
from verify.statistics.moderation import ModeratedVariances, moderated_along, moderated_variances
from verify.statistics.multiplicity import Rejections, benjamini_hochberg, holm
from verify.statistics.panel import ReferencePanel, distinct_rows
from verify.statistics.record_test import RecordTest, record_test
from verify.statistics.subjects import subject_means
from verify.statistics.tails import fit_scaled_t

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Unasked:
    """Further records and subjects that tests are corrected for, as if each had a p-value of 1.

    Where control subjects stand in for a larger forget set, they have to pass the correction of that set.
    """

    records: int = 0
    subjects: int = 0


NONE_UNASKED = Unasked()


@dataclass(frozen=True, eq=False)
class Conformal:
    """Distribution-free p-values of subjects among the control subjects, at the margin.

    Attributes:
        remembered, over_forgotten: p-values of both directions, subjects in the order of their sorted names [S].
        smallest: 1 / (n_C + 1), which no p-value lies below.
    """

    remembered: Array
    over_forgotten: Array
    smallest: float


def unit_tests(
    found: Calibration,
    margin: float,
    level: float,
    alpha: float,
    texts: Sequence[Hashable] | None,
    unasked: Unasked,
    one_prior: bool = False,
) -> tuple[RecordTest, RecordTest | None, NoiseRatio]:
    """Run A2' and, where it differs from it, A3'; together at `level`.

    Args:
        found: the calibrated exact text.
        margin: rho*.
        level: level of both tests together. alpha: level of the lower limit of lambda.
        texts: equal for records of equal text [K].
        unasked: further records and subjects that both are corrected for.
        one_prior: whether the variances of all records have one prior, as by rule 3, whatever their level.

    Returns:
        the test per record, per subject (None where there is one subject, or one record a subject), and the target's noise.
    """
    records = len(found.residual)
    distinct, standing_for = distinct_rows(range(records) if texts is None else texts)
    several = 1 < found.forget.subjects < records
    control = found.control.numbers
    of_records = _Units(
        residual=found.residual,
        gap=found.gap,
        levels=found.forget.levels,
        noise=found.control_residual,
        noise_levels=found.control.levels,
        by_subject=subject_means(found.control_residual**2, control),
    )
    moderated = _moderated(found, distinct, one_prior)
    own = replace(moderated, variances=moderated.variances[: len(distinct)][standing_for])
    rest = moderated.variances[len(distinct) :]
    half = level / 2 if several else level
    adjust = partial(_among, partial(benjamini_hochberg, q=half), unasked.records)
    rows = (distinct, standing_for)
    by_record, ratio = of_records.judge(found, own, rest, margin, adjust, rows)
    noise = found.noise_of_subjects[1]
    means = subject_means(found.control_residual, control)
    of_means = float(np.mean(means**2) / (np.mean(noise) * (1 + 1 / len(found.forget.unseen))))
    quantile = f_quantile(1 - alpha, found.degrees, found.control.subjects * (len(found.forget.unseen) - 1))
    ratios = NoiseRatio(ratio, ratio / quantile, of_means, len(control), found.control.subjects)
    return by_record, _subject_test(found, means, margin, half, unasked) if several else None, ratios


def _moderated(found: Calibration, distinct: NDArray[np.intp], one_prior: bool) -> ModeratedVariances:
    """Moderate the pool's variances of the forget set's different texts and of the controls together, in that order."""
    both, degrees = np.concatenate([found.forget.variances[distinct], found.control.variances]), len(found.forget.unseen) - 1
    if one_prior:
        return moderated_variances(both, degrees)
    # What is harder to guess is guessed less alike: of SmolLM2 the logarithm of the variance correlates at 0.5 with the level.
    return moderated_along(both, degrees, np.concatenate([found.forget.levels[distinct], found.control.levels]))


def _subject_test(found: Calibration, means: Array, margin: float, level: float, unasked: Unasked) -> RecordTest:
    """Run A3' at `level`; `means` are the control subjects' mean residuals [C]."""
    forget, noise = found.noise_of_subjects
    units = _Units(found.subject_residual, found.subject_gap, found.forget.means, means, found.control.means, means**2)
    everyone = np.arange(found.forget.subjects)
    adjust = partial(_among, partial(holm, level=level), unasked.subjects)
    return units.judge(found, forget, noise, margin, adjust, (everyone, everyone))[0]


def _among(correction: Callable[[Array], Rejections], further: int, p_values: Array) -> Rejections:
    """Correct p-values as if there were `further` hypotheses, each with a p-value of 1."""
    everything = correction(np.concatenate([p_values, np.ones(further)]))
    count = len(p_values)
    return Rejections(everything.rejected[:count], everything.adjusted[:count], everything.level)


@dataclass(frozen=True, eq=False)
class _Units:
    """Records or subjects of the forget set, and the controls that show the noise they are judged under.

    Attributes:
        residual, gap, levels: d, g and l of forget units [K].
        noise, noise_levels: r_c and l_c of control units [N].
        by_subject: mean square of r_c by subject [C].
    """

    residual: Array
    gap: Array
    levels: Array
    noise: Array
    noise_levels: Array
    by_subject: Array

    def judge(
        self,
        found: Calibration,
        variances: ModeratedVariances,
        noise_variances: Array,
        margin: float,
        correction: Callable[[Array], Rejections],
        rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    ) -> tuple[RecordTest, float]:
        """Test every unit against the margin; also returns lambda, before it is raised to 1."""
        models = len(found.forget.unseen)
        factor = 1 + 1 / models
        ratio = float(np.mean(self.noise**2) / (np.mean(noise_variances) * factor))
        applied = max(1.0, ratio)
        # Beyond what the controls' residuals hold already: the line's error at levels far from theirs.
        at_controls = float(found.target.error(self.noise_levels).mean())
        further = np.maximum(found.target.error(self.levels) - at_controls, 0.0)
        # lambda is an estimate as well: its relative variance, from subjects, is 2 / degrees.
        squares = self.by_subject
        degrees = 2 * len(squares) * float(squares.mean()) ** 2 / float(squares.var(ddof=1))
        widened = ModeratedVariances(
            variances.variances + further / (applied * factor),
            variances.prior_variance,
            variances.prior_degrees,
            1 / (1 / variances.degrees + 1 / degrees),
        )
        standardised = self.noise / np.sqrt(applied * noise_variances * factor)
        panel = ReferencePanel(
            losses=found.forget.unseen,
            mean=self.levels,
            spread=0.0,
            variances=widened,
            tail=fit_scaled_t(standardised),
            far_tail=None,  # 2 % of some eighty controls are no tail to fit: in 1,500 audits with t4 errors it changed none
            distinct=rows[0],
            standing_for=rows[1],
        )
        return record_test(self.residual, self.gap, panel, margin, correction, applied), ratio


def conformal(found: Calibration, margin: float) -> Conformal:
    """Rank every subject among the control subjects, each unit by the line of all the others.

    The subject joins the controls (full conformal prediction, Vovk et al. 2005): with n_C control subjects, the line is fitted to
    all n_C + 1 but the one that is ranked, so none has to be set aside for the fit. The outcome m(target) -/+ rho* m(original)
    makes the p-value one of the margin: a subject of which exactly rho* is left then looks like a control. Exact where the subject
    is drawn like the controls, apart from the models' effects M_k, which come from the controls alone.
    """
    upper, lower = (_ranks(found, sign, margin) for sign in (1.0, -1.0))
    return Conformal(upper, lower, 1 / (found.control.subjects + 1))


def _ranks(found: Calibration, sign: float, margin: float) -> Array:
    """Compute p-values for sign (N - sign rho* G) > 0 [S]."""
    factor = -sign * margin
    line = found.target.plus(found.original, factor)
    own = line.at(found.forget.levels) - (found.residual + factor * found.gap)
    theirs = line.without_own(found.control.levels, found.control.numbers) - (found.control_residual + factor * found.control_gap)
    forget = _moments(found.forget, own)
    control = _moments(found.control, theirs)
    total, count = control.sum(axis=1, keepdims=True), found.control.subjects
    u_forget, u_control = found.noise_of_subjects
    subject = _distance(lines(total, count), forget) / np.sqrt(u_forget.variances)
    # One row per forget subject: the controls, each by the line of the subject and the other controls [5, S, C].
    joined = (total + forget)[:, :, None] - control[:, None, :]
    others = _distance(lines(joined, count), control[:, None, :]) / np.sqrt(u_control)
    at_least = (sign * others >= sign * subject[:, None]).sum(axis=1)
    return np.asarray((1 + at_least) / (count + 1), dtype=np.float64)


def _moments(side: Side, losses: Array) -> Array:
    return moments(side.levels, side.noise, losses, side.numbers)


def _distance(line: Lines, unit: Array) -> Array:
    """Compute the predicted less the observed mean loss of subjects with given moments [...]."""
    return np.asarray(line.a + line.b * unit[0] - unit[1])

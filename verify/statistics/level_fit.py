"""Levels of records that a pool of models never saw, and their calibration on controls: the line from level to loss.

With m_i(k) the mean loss of record i under pool model k, O_i the R models that never saw its subject, and controls (which no model
saw) given R models each, drawn at random by subject:

    M_k = mean_C m(k) - mean over models of mean_C m            model effect; means by subject
    l_i = mean_{k in O_i} (m_i(k) - M_k),    v_i its variance over the R models
    b = S_lm / (S_ll kappa),  a = mean_C m - b mean_C l         the line; subjects count equally
    kappa = 1 - mean_C(v / R) / var_C(l)                        reliability of l, at least `LOWEST_RELIABILITY`

Least squares (kappa = 1) predicts the loss of a record drawn like the controls. Those who ask for deletion need not be: where
their records are harder by D than the controls, least squares is off by (1 - kappa) b D, because the noise in l bends the line.
Divided by kappa it is not. Every line is fitted to all control subjects and to all but one of them, by subtraction of that one's
sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from verify.statistics.moderation import ModeratedVariances, moderated_variances
from verify.statistics.subjects import subject_means, subject_numbers
from verify.statistics.two_samples import TINY, StandardError

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]

MIN_CONTROL_SUBJECTS = 5
"""Fewest control subjects on which a line is fitted."""

MIN_MODELS = 2
"""Fewest pool models that left a record out: one shows no spread."""

LOWEST_RELIABILITY = 0.5
"""Below it the correction of the slope stops growing: it would magnify noise, and no level then says much."""


@dataclass(frozen=True, eq=False)
class Side:
    """Levels of one side, forget set or controls.

    Attributes:
        levels: l [K], nats per token.
        variances: v over the R models [K].
        noise: variance of l [K].
        numbers: subject of each record, from 0 [K].
        subject_variances: variance over the R models of the subject's mean [S].
        unseen: losses under the R models less M_k [R, K].
    """

    levels: Array
    variances: Array
    noise: Array
    numbers: Numbers
    subject_variances: Array
    unseen: Array

    @property
    def subjects(self) -> int:
        """Number of subjects."""
        return len(self.subject_variances)

    @cached_property
    def means(self) -> Array:
        """Mean level of each subject [S]."""
        return subject_means(self.levels, self.numbers)


def model_effects(control_pool: Array, numbers: Numbers) -> Array:
    """Compute M_k of every pool model from controls [M], nats per token."""
    means = subject_means(control_pool, numbers).mean(axis=-1)
    return np.asarray(means - means.mean())


def forget_side(pool: Array, effects: Array, subjects: Sequence[str]) -> Side:
    """Compute the levels of forget records.

    Args:
        pool: losses under each pool model [M, K], NaN where the model was trained on the record.
        effects: M_k [M].
        subjects: whom each record is about [K].

    Raises:
        ValueError: records were left out by different numbers of models, or by fewer than `MIN_MODELS`.
    """
    seen = np.isnan(pool)
    counts = np.unique((~seen).sum(axis=0))
    if len(counts) != 1 or counts[0] < MIN_MODELS:
        raise ValueError(
            f"every record has to be left out by the same number of pool models, at least {MIN_MODELS}; got {counts.tolist()}"
        )
    # A stable sort of the mask brings the models that never saw a record to the front, in their order.
    order = np.argsort(seen, axis=0, kind="stable")[: int(counts[0])]
    unseen = np.take_along_axis(pool - effects[:, None], order, axis=0)
    return _side(unseen, subject_numbers(subjects), unseen.var(axis=0, ddof=1))


def control_side(control_pool: Array, effects: Array, subjects: Sequence[str], models: int, seed: int) -> Side:
    """Compute the levels of controls, over `models` pool models drawn at random for each subject.

    Args:
        control_pool: losses under each pool model [M, N].
        effects: M_k [M].
        subjects: whom each control is about [N].
        models: R.
        seed: seed of the draw; with the same seed every channel draws the same models.
    """
    numbers = subject_numbers(subjects)
    everyone = np.tile(np.arange(len(effects)), (int(numbers.max()) + 1, 1))
    drawn = np.random.default_rng(seed).permuted(everyone, axis=1)[:, :models]
    centred = control_pool - effects[:, None]
    unseen = np.take_along_axis(centred, drawn[numbers].T, axis=0)
    return _side(unseen, numbers, centred.var(axis=0, ddof=1))


def _side(unseen: Array, numbers: Numbers, variances: Array) -> Side:
    own = subject_means(unseen, numbers).var(axis=0, ddof=1)
    return Side(unseen.mean(axis=0), unseen.var(axis=0, ddof=1), variances / len(unseen), numbers, own, unseen)


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines from level to loss: fitted to all control subjects (entry 0) and to all but one of them (entries 1 to C).

    Attributes:
        a, b: level at zero and slope [1 + C].
        reliability: kappa [1 + C].
    """

    a: Array
    b: Array
    reliability: Array

    def at(self, levels: Array) -> Array:
        """Predict losses by the line of all control subjects [K]."""
        return np.asarray(self.a[0] + self.b[0] * levels)

    def without_own(self, levels: Array, numbers: Numbers) -> Array:
        """Predict each control's loss by the line of the other subjects [N]."""
        return np.asarray(self.a[1 + numbers] + self.b[1 + numbers] * levels)

    def plus(self, other: "Lines", factor: float) -> "Lines":
        """Return the lines of the outcome m + factor m', as lines are linear in the outcome."""
        return Lines(self.a + factor * other.a, self.b + factor * other.b, self.reliability)

    def error(self, level: Array) -> Array:
        """Return the jackknife variance of the prediction at given levels [K]: each control subject left out in turn."""
        left_out = self.a[1:, None] + self.b[1:, None] * level
        count = len(left_out)
        return np.asarray((count - 1) / count * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))


def moments(levels: Array, noise: Array, losses: Array, numbers: Numbers) -> Array:
    """Average by subject what a line is fitted to: l, m, l^2, l m and the noise of l [5, S]."""
    return subject_means(np.stack([levels, losses, levels**2, levels * losses, noise]), numbers)


def lines(sums: Array, count: int) -> Lines:
    """Fit lines to sums of `moments` over `count` subjects [5, ...]."""
    level, loss, square, product, noise = sums
    spread = np.maximum(square - level**2 / count, 0.0)
    flat = spread <= TINY  # equal levels carry no slope
    safe = np.where(flat, 1.0, spread)
    reliability = np.where(flat, 1.0, np.clip(1 - noise / safe, LOWEST_RELIABILITY, 1.0))
    slope = np.where(flat, 0.0, (product - level * loss / count) / (safe * reliability))
    return Lines(np.asarray((loss - slope * level) / count), np.asarray(slope), np.asarray(reliability))


def fit(side: Side, losses: Array) -> Lines:
    """Fit the lines of one outcome to controls.

    Args:
        side: the controls' levels.
        losses: their losses under the model in question [N].
    """
    per_subject = moments(side.levels, side.noise, losses, side.numbers)
    total = per_subject.sum(axis=1, keepdims=True)
    one, others = lines(total, side.subjects), lines(total - per_subject, side.subjects - 1)
    return Lines(*(np.concatenate([first, rest]) for first, rest in zip(_parts(one), _parts(others), strict=True)))


def _parts(found: Lines) -> tuple[Array, Array, Array]:
    return found.a, found.b, found.reliability


@dataclass(frozen=True, eq=False)
class Calibration:
    """One channel, calibrated: residuals and gaps of forget subjects, and the same of controls, which are noise.

    Attributes:
        forget, control: levels of both sides.
        target, original: lines of the two models.
        residual, gap: d and g of forget records [K], nats per token.
        control_residual, control_gap: r and r0 of controls, each by the lines of the other subjects [N].
        fitted_residual, fitted_gap: subject means of the same by the line of all, for the standard errors [C].
    """

    forget: Side
    control: Side
    target: Lines
    original: Lines
    residual: Array
    gap: Array
    control_residual: Array
    control_gap: Array
    fitted_residual: Array
    fitted_gap: Array

    @classmethod
    def of(cls, forget: Side, control: Side, target: Array, original: Array, on_controls: tuple[Array, Array]) -> "Calibration":
        """Calibrate on controls.

        Args:
            forget, control: levels of both sides.
            target, original: losses of forget records [K].
            on_controls: losses of the controls under target and original, [N] each.
        """
        ours, theirs = (fit(control, losses) for losses in on_controls)
        left_out = [
            line.without_own(control.levels, control.numbers) - losses
            for line, losses in zip((ours, theirs), on_controls, strict=True)
        ]
        fitted = [
            subject_means(line.at(control.levels) - losses, control.numbers)
            for line, losses in zip((ours, theirs), on_controls, strict=True)
        ]
        return cls(
            forget,
            control,
            ours,
            theirs,
            ours.at(forget.levels) - target,
            theirs.at(forget.levels) - original,
            left_out[0],
            left_out[1],
            fitted[0],
            fitted[1],
        )

    @cached_property
    def subject_residual(self) -> Array:
        """Mean d of each forget subject [S]."""
        return subject_means(self.residual, self.forget.numbers)

    @cached_property
    def subject_gap(self) -> Array:
        """Mean g of each forget subject [S]."""
        return subject_means(self.gap, self.forget.numbers)

    @cached_property
    def shares(self) -> tuple[Array, Array]:
        """Variance of each subject's mean over that of its records, by their number: h_s = (1 + (n_s - 1) icc) / n_s, [S] and [C].

        icc, the correlation of the records of a subject between models, is that of both sides together.
        """
        sides = self.forget, self.control
        records = [np.bincount(side.numbers) for side in sides]
        own = [subject_means(side.variances, side.numbers) for side in sides]
        common = sum(float((side.subject_variances - v / n).sum()) for side, v, n in zip(sides, own, records, strict=True))
        possible = sum(float((v * (1 - 1 / n)).sum()) for v, n in zip(own, records, strict=True))
        correlation = min(max(common / possible, 0.0), 1.0) if possible > 0 else 0.0
        forget, control = (np.asarray((1 + (n - 1) * correlation) / n) for n in records)
        return forget, control

    @cached_property
    def noise_of_subjects(self) -> tuple[ModeratedVariances, Array]:
        """Moderated variances of the subjects' means over the pool, of the forget set [S] and of the controls [C].

        Moderated for equal numbers of records, as a prior common to subjects of one and of twenty records would be wrong for both.
        """
        forget, control = self.shares
        equal = np.concatenate([self.forget.subject_variances / forget, self.control.subject_variances / control])
        both = moderated_variances(equal, len(self.forget.unseen) - 1)
        ours = replace(both, variances=both.variances[: len(forget)] * forget)
        return ours, both.variances[len(forget) :] * control

    @cached_property
    def unequal(self) -> float:
        """u: how much noisier forget subjects are than control subjects, as a ratio of variances, at least 1.

        The target's noise is measured on controls. Forget subjects of fewer or of noisier records have more: the numbers of records
        show the former, the pool's variances of single records the latter.
        """
        by_number = float(self.shares[0].mean() / self.shares[1].mean())
        by_record = float(self.forget.variances.mean() / self.control.variances.mean())
        return max(1.0, by_number * by_record)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the standard errors: control subjects less two."""
        return self.control.subjects - 2

    def standard_error(self, of_target: float, of_original: float) -> StandardError:
        """Return the standard error of `of_target` N + `of_original` G.

            s^2 unequal / n_F + jackknife variance of the line at lbar_F,    s^2 = sum over control subjects of rbar^2 / (n_C - 2)

        where rbar and the line are those of the outcome `of_target` m(target) + `of_original` m(original).
        """
        own = of_target * self.fitted_residual + of_original * self.fitted_gap
        count = self.forget.subjects
        line = Lines(of_target * self.target.a, of_target * self.target.b, self.target.reliability)
        line = line.plus(self.original, of_original)
        variance = float((own**2).sum()) / self.degrees * self.unequal / count
        variance += float(line.error(np.asarray([self.forget.means.mean()]))[0])
        return StandardError(max(float(np.sqrt(variance)), TINY), self.degrees)

"""Never-trained controls in addition to retrained references: how noisy the target is, and how much of its spread is noise.

The record test takes the target for one more draw from the references' distribution. A target trained on other hardware, in other
precision or in another order can be noisier than they are, and then honest records look like traces. Controls, which no model was
trained on, show it: with r_c = mean_r m_c(reference r) - m_c(target) and v_c the variance of m_c over the references,

    lambda = max(1, var_C(r) / (mean_C v (1 + 1/R)))

the variance of the target's noise in units of the references'. Model-wide levels are removed from both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.statistics.critical_values import f_quantile
from verify.statistics.subjects import subject_means, subject_numbers
from verify.statistics.two_samples import difference_error

Array = NDArray[np.float64]

MIN_CONTROLS = 3
"""Fewest control subjects from which noise is estimated."""

NOISE_LIMIT = 2.0
"""Largest lambda of a target that counts as trained like the references."""


@dataclass(frozen=True, eq=False)
class Controls:
    """Losses of never-trained controls, nats per token.

    Attributes:
        target: under the target [N].
        references: under each reference [R, N].
        subjects: whom each is about [N].
    """

    target: Array
    references: Array
    subjects: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse losses that do not fit together."""
        shape = (len(self.subjects),)
        if self.target.shape != shape or self.references.ndim != 2 or self.references.shape[1:] != shape:
            raise ValueError(
                f"expected losses of {len(self.subjects)} controls, got {self.target.shape} and references {self.references.shape}"
            )
        if not np.isfinite(self.target).all() or not np.isfinite(self.references).all():
            raise ValueError("losses must be finite")

    @property
    def residual(self) -> Array:
        """r_c, nats per token [N]."""
        return np.asarray(self.references.mean(axis=0) - self.target)

    @property
    def numbers(self) -> NDArray[np.intp]:
        """The subject of each control, from 0 [N]."""
        return subject_numbers(self.subjects)


@dataclass(frozen=True)
class NoiseRatio:
    """Noise of the target against the references'.

    Attributes:
        ratio: var_C(r) / (mean_C v (1 + 1/R)), about 1 for an honest retraining.
        low: its lower limit at 1 - alpha, by the F distribution with as many degrees of freedom as there are control subjects.
        by_subject: the same of subject means.
        controls, subjects: how many it rests on.
    """

    ratio: float
    low: float
    by_subject: float
    controls: int
    subjects: int

    @property
    def applied(self) -> float:
        """Lambda for records, at least 1: a quiet target is no reason to accuse sooner."""
        return max(1.0, self.ratio)

    @property
    def applied_by_subject(self) -> float:
        """Lambda for subject means, at least 1."""
        return max(1.0, self.by_subject)

    @property
    def trained_alike(self) -> bool:
        """False where the target is noisier than the limit allows and not by chance."""
        return self.ratio <= NOISE_LIMIT or self.low <= 1.0


def noise_ratio(controls: Controls, alpha: float) -> NoiseRatio | None:
    """Estimate lambda; None with fewer than three control subjects or two references, or where the references agree exactly."""
    numbers, references = controls.numbers, len(controls.references)
    subjects = int(numbers.max(initial=-1)) + 1
    if subjects < MIN_CONTROLS or references < 2:
        return None
    ratio = _ratio(controls.residual, controls.references)
    by_subject = _ratio(subject_means(controls.residual, numbers), subject_means(controls.references, numbers))
    if ratio is None or by_subject is None:
        return None
    quantile = f_quantile(1 - alpha, subjects - 1, (subjects - 1) * (references - 1))
    return NoiseRatio(ratio, ratio / quantile, by_subject, len(numbers), subjects)


def _ratio(residual: Array, references: Array) -> float | None:
    """Return the ratio of variances, the levels of all models removed."""
    count, units = references.shape
    centred = references - references.mean(axis=1, keepdims=True)
    # Centring leaves each record 1 - 1/N of its variance.
    own = float(centred.var(axis=0, ddof=1).mean()) * units / (units - 1)
    return None if own == 0 else float(residual.var(ddof=1)) / (own * (1 + 1 / count))


@dataclass(frozen=True)
class ExcessSpread:
    """Mean square of the residuals beyond the target's own noise, nats^2 per token^2.

    Attributes:
        excess: E = mean_F d^2 - noise.
        noise: mean_C r^2, in units of the references' variance on the forget set where that is smaller.
        standard_error, degrees: standard error and degrees of freedom of E, from subject means of both.
    """

    excess: float
    noise: float
    standard_error: float
    degrees: float


def excess_spread(residual: Array, references: Array, numbers: NDArray[np.intp], controls: Controls) -> ExcessSpread | None:
    """Estimate how far residuals spread beyond noise; None with fewer than three control subjects.

    Args:
        residual: d_i, nats per token [K].
        references: forget losses under each reference [R, K].
        numbers: subject of each forget record [K].
        controls: never-trained controls under the same models.
    """
    control = controls.numbers
    if int(control.max(initial=-1)) + 1 < MIN_CONTROLS:
        return None
    # Controls noisier than the forget set would hide remembered records in "noise": the references show by how much they are.
    shares = [float(losses.var(axis=0, ddof=1).mean()) for losses in (references, controls.references)]
    scale = min(1.0, shares[0] / shares[1]) if shares[1] > 0 else 1.0
    forget, noise = subject_means(residual**2, numbers), subject_means(scale * controls.residual**2, control)
    error = difference_error(forget, noise)
    return ExcessSpread(float(forget.mean() - noise.mean()), float(noise.mean()), error.size, error.degrees)

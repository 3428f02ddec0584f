"""Tail calibration: scaled t distributions fitted to statistics that should be standard.

With four references, a Gaussian plug-in turns a nominal 1 % false-positive rate into 6 %. The statistics that the references give
when each is judged by the others show how heavy the tails really are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

MIN_DEGREES, MAX_DEGREES = 1.0, 1000.0
BOUNDS = ((math.log(MIN_DEGREES), math.log(MAX_DEGREES)), (0.0, math.log(1e6)))
"""Of log degrees and log scale. In logarithms both are positive, and a log scale of at least 0 never narrows the tails."""
STEP = 1e-8
"""Of the differences that stand for a gradient, in log degrees and log scale."""
FAR_SHARE = 0.02
"""Share of the statistics that counts as the far tail: 64 of the 3,200 that eight references give on 400 records."""


@dataclass(frozen=True)
class ScaledT:
    """A scaled t distribution centred at zero.

    Attributes:
        degrees: degrees of freedom; of a fit in [1, 1000], infinite for the normal distribution.
        scale: at least 1: the fit may widen the tails, never narrow them.
    """

    degrees: float
    scale: float

    def beyond(self, statistic: np.ndarray) -> np.ndarray:
        """Return Pr[T > t]: what `scipy.stats.t` computes, of which to make an object takes longer than the test."""
        standard = -(statistic / self.scale)
        return np.asarray(special.ndtr(standard) if math.isinf(self.degrees) else special.stdtr(self.degrees, standard))


def fit_scaled_t(statistics: ArrayLike) -> ScaledT:
    """Fit degrees of freedom and scale >= 1 by maximum likelihood, location 0.

    Args:
        statistics: standardised, so 1 is the expected scale [n], finite, n >= 2; dependence between them costs precision, not
            consistency.

    Raises:
        ValueError: fewer than two statistics, or one that is not finite.
    """
    return _fitted(_finite(statistics).tobytes())


@lru_cache(maxsize=32)
def _fitted(content: bytes) -> ScaledT:
    """Fit the statistics whose bytes these are. Kept, since one verdict asks at many margins, which no statistic depends on."""
    x = np.frombuffer(content)
    count = len(x)

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean negative log-likelihood and its gradient in (log degrees, log scale), in closed form for speed."""
        degrees, scale = np.exp(parameters)
        square, half = (x / scale) ** 2, (degrees + 1) / 2
        log_tail = np.add.reduce(np.log1p(square / degrees)) / count
        share = (degrees + 1) * (np.add.reduce(square / (degrees + square)) / count)
        constant = special.gammaln(half) - special.gammaln(degrees / 2) - np.log(degrees * np.pi) / 2 - np.log(scale)
        in_degrees = (degrees * (special.digamma(half) - special.digamma(degrees / 2)) - 1 - degrees * log_tail + share) / 2
        return float(half * log_tail - constant), -np.array([in_degrees, share - 1])

    # Nearly flat in large degrees, so one start may stop short. Three starts: heavy tails, near-Gaussian, the median's scale.
    starts = [(np.log(4.0), 0.0), (np.log(100.0), 0.0), (np.log(3.0), max(0.0, float(np.log(np.median(np.abs(x)) + 1e-12))))]
    return _fit(cost, starts)


def fit_far_tail(statistics: ArrayLike) -> ScaledT:
    """Fit the largest 2 % in magnitude alone; the rest count as censored below them.

    A fit to all statistics is dominated by their bulk, while one record of hundreds is judged at a probability of 1e-4. With t4
    errors under eight references, 2.1 times as many honest records as nominal lie beyond the bulk's quantile at 1e-3, and 1.6 times
    as many beyond this one's; at 1e-4, 4.6 and 3.0 times. Use this fit in addition to `fit_scaled_t`, never instead: few statistics
    lie this far out.

    Args:
        statistics: as `fit_scaled_t`.

    Raises:
        ValueError: as `fit_scaled_t`.
    """
    x = np.sort(np.abs(_finite(statistics)))
    far = max(1, round(FAR_SHARE * len(x)))
    threshold, beyond = max(float(x[-far - 1]), 1e-12), x[-far:]  # both in magnitude; `beyond` has `far` values

    def cost(parameters: np.ndarray) -> float:
        degrees, scale = (float(value) for value in np.exp(parameters))
        # Censored likelihood: Pr[|T| <= threshold] for each statistic below it, the density for each beyond.
        within = max(1 - 2 * float(special.stdtr(degrees, -threshold / scale)), 1e-300)
        # The t density in closed form: scipy's argument checks take ten times as long, and every verdict runs the fit.
        constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2 - math.log(scale)
        densities = far * constant - (degrees + 1) / 2 * float(np.log1p((beyond / scale) ** 2 / degrees).sum())
        return -((len(x) - far) * math.log(within) + densities) / len(x)

    return _fit(_with_slopes(cost), [(np.log(4.0), 0.0), (np.log(100.0), 0.0)])


def _with_slopes(cost: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return a cost with its gradient by differences.

    The steps are those of `scipy.optimize.minimize` without a gradient, and so is every bit of the fit; scipy's own differences
    take twice as long as all of the rest.
    """

    def both(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, slopes = cost(parameters), np.empty(2)
        for place, (low, high) in enumerate(BOUNDS):
            beside = parameters.copy()
            beside[place] += STEP
            if not low <= beside[place] <= high:
                beside[place] = parameters[place] - STEP
            slopes[place] = (cost(beside) - value) / (beside[place] - parameters[place])
        return value, slopes

    return both


def _fit(cost: Callable[[np.ndarray], tuple[float, np.ndarray]], starts: list[tuple[float, float]]) -> ScaledT:
    best = min((optimize.minimize(cost, start, jac=True, bounds=BOUNDS) for start in starts), key=lambda fit: float(fit.fun))
    degrees, scale = np.exp(best.x)
    return ScaledT(float(degrees), float(scale))


def _finite(statistics: ArrayLike) -> np.ndarray:
    x = np.asarray(statistics, dtype=np.float64).ravel()
    if len(x) < 2 or not np.isfinite(x).all():
        raise ValueError("a tail needs at least two finite statistics")
    return x

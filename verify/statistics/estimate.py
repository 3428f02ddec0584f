"""Estimates: values with their interval, sample size and confidence level."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its confidence interval, sample size and level.

    Attributes:
        value: the point estimate.
        low, high: the two-sided confidence interval at `level`.
        n: number of independent observations it rests on.
        level: confidence level of the interval, in (0, 1).
        seed: the seed of the resampling behind the interval; None where nothing was drawn at random.

    Raises:
        ValueError: if a bound is not finite, the bounds are reversed, `n` < 1 or `level` is outside (0, 1).
    """

    value: float
    low: float
    high: float
    n: int
    level: float
    seed: int | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"an estimate must be finite, got {self.value} [{self.low}, {self.high}]")
        if self.low > self.high:
            raise ValueError(f"the interval is reversed: [{self.low}, {self.high}]")
        if self.n < 1:
            raise ValueError(f"an estimate needs at least one observation, got n = {self.n}")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"a confidence level lies between 0 and 1, got {self.level}")

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n}, {self.level:.0%})"


def require_confidence(confidence: float) -> None:
    """Refuse a confidence level outside (0, 1).

    Raises:
        ValueError: it lies outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence level lies between 0 and 1, such as 0.95; got {confidence}")

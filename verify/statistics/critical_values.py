"""Critical values: quantiles of the normal, t, F and beta distributions, as `scipy.stats` computes them.

They are kept. A verdict asks for the same few at every margin, and the simulations of its power ask again in every simulated audit;
scipy's checks of the arguments take longer than all that is done with the number.
"""

from functools import lru_cache

from scipy import stats

KEPT = 4096
"""Largest number of values that is kept of each distribution."""


@lru_cache(maxsize=KEPT)
def normal_quantile(probability: float) -> float:
    """Return z with Pr[Z <= z] = `probability`."""
    return float(stats.norm.ppf(probability))


@lru_cache(maxsize=KEPT)
def t_quantile(probability: float, degrees: float) -> float:
    """Return t with Pr[T <= t] = `probability` for a t distribution with these degrees of freedom."""
    return float(stats.t.ppf(probability, degrees))


@lru_cache(maxsize=KEPT)
def f_quantile(probability: float, numerator: float, denominator: float) -> float:
    """Return f with Pr[F <= f] = `probability` for an F distribution with these degrees of freedom."""
    return float(stats.f.ppf(probability, numerator, denominator))


@lru_cache(maxsize=KEPT)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return x with Pr[X <= x] = `probability` for a beta distribution with these parameters."""
    return float(stats.beta.ppf(probability, a, b))

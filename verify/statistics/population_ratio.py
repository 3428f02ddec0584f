"""RMIA statistics: pairwise likelihood ratios of a record against a population (Zarifzadeh et al. 2024).

Zarifzadeh, Liu and Shokri 2024, "Low-cost high-power membership inference attacks", equations 2 and 4. A record is a member if
training raised its probability more than that of most records z of the population:

    score(x) = Pr_z[ (p(x | model) / p(x)) / (p(z | model) / p(z)) >= gamma ],  p(.) = mean probability under reference models
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]


def rmia(
    target: ArrayLike,
    references: ArrayLike,
    population_target: ArrayLike,
    population_references: ArrayLike,
    gamma: float = 1.0,
) -> Array:
    """Compute the share of the population that each record exceeds by the factor gamma, O((N + Z) log Z).

    Args:
        target: log-probabilities of the records under the audited model, nats [N].
        references: the same under reference models [R, N], R >= 1; ideally half of them trained with each record.
        population_target, population_references: the same for Z records never trained on [Z] and [R, Z].
        gamma: factor by which a record's ratio must exceed a population record's, > 0.

    Returns:
        [N], in [0, 1], higher = more like a member.

    Raises:
        ValueError: shapes that do not fit, nothing given, a log-probability that is not finite, or gamma <= 0.
    """
    if not 0 < gamma < np.inf:
        raise ValueError(f"gamma is a positive factor, got {gamma}")
    records = _log_ratio(target, references)
    # ratio_x / ratio_z >= gamma is log ratio_z <= log ratio_x - log gamma: a rank in the sorted population, ties included.
    population = np.sort(_log_ratio(population_target, population_references))
    return np.asarray(np.searchsorted(population, records - np.log(gamma), side="right") / len(population))


def _log_ratio(target: ArrayLike, references: ArrayLike) -> Array:
    """Return log p(x | model) - log mean_r p(x | reference r) [N]."""
    x, refs = np.asarray(target, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if x.ndim != 1 or refs.ndim != 2 or refs.shape[1:] != x.shape or not refs.size:
        raise ValueError(f"expected log-probabilities [N] and [R, N], none empty, got {x.shape} and {refs.shape}")
    if not np.isfinite(x).all() or not np.isfinite(refs).all():
        raise ValueError("log-probabilities must be finite")
    # The mean is over probabilities; logsumexp, since the probability of a whole record underflows a double.
    return np.asarray(x - (special.logsumexp(refs, axis=0) - np.log(len(refs))))

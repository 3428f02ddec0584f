"""Extraction statistics: exposure among candidates, and the number of queries to extract a secret."""

import math

import numpy as np
from numpy.typing import ArrayLike


def exposure(score: float, candidate_scores: ArrayLike) -> float:
    """Compute exposure, log2 |R| - log2 rank, in bits (Carlini et al. 2019, "The Secret Sharer", definition 2).

    R is the secret together with the other candidates, all drawn from one distribution; rank 1 is the likeliest. A tie ranks the
    secret last, so that a model that scores every candidate alike exposes nothing.

    Args:
        score: the secret's, higher = likelier.
        candidate_scores: those of the other |R| - 1 candidates, at least one.

    Returns:
        bits between 0 and log2 |R|, the most that this many candidates can show.

    Raises:
        ValueError: no candidates, or a score that is not finite.
    """
    others = np.asarray(candidate_scores, dtype=np.float64).ravel()
    if not len(others) or not np.isfinite(others).all() or not math.isfinite(score):
        raise ValueError("exposure needs a finite score and at least one other candidate's")
    return math.log2(len(others) + 1) - math.log2(1 + int((others >= score).sum()))


def queries_to_extract(log_probability: float, certainty: float | None = None) -> float:
    """Compute the number of samples at temperature 1 that extracts a secret (Hayes et al. 2025, (n, p)-discoverable extraction).

    Args:
        log_probability: log p_z of the whole secret, the sum over its tokens, nats, at most 0.
        certainty: None for the expected number 1 / p_z; p in (0, 1) for the smallest n with 1 - (1 - p_z)^n >= p.

    Returns:
        the number of queries, at least 1; infinite where log_probability is below -700, near the largest double.

    Raises:
        ValueError: a log probability that is not finite or above 0, or a certainty outside (0, 1).
    """
    if not math.isfinite(log_probability) or log_probability > 0:
        raise ValueError(f"a log probability is finite and at most 0, got {log_probability}")
    if certainty is not None and not 0 < certainty < 1:
        raise ValueError(f"a certainty lies between 0 and 1, got {certainty}")
    if log_probability < -700:  # exp(700) is about 1e304
        return math.inf
    if certainty is None:
        return math.exp(-log_probability)
    if log_probability == 0:
        return 1.0
    # Shrunk by 1e-12 before rounding up: where (1 - p_z)^n = 1 - p exactly, the ratio is a whole number up to rounding error.
    ratio = math.log1p(-certainty) / math.log1p(-math.exp(log_probability))
    return max(1.0, float(math.ceil(ratio * (1 - 1e-12))))


def zero_success_bound(samples: int, confidence: float = 0.95) -> float:
    """Bound the share of successes from above after none in k samples: 1 - (1 - confidence)^(1/k).

    One-sided Clopper-Pearson at zero successes; about 3/k at 95 % ("rule of three").

    Args:
        samples: k >= 1, all without success.
        confidence: confidence level of the bound, in (0, 1).

    Raises:
        ValueError: no samples, or a confidence outside (0, 1).
    """
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"got {samples} samples at confidence {confidence}; at least 1 and in (0, 1) are allowed")
    return -math.expm1(math.log1p(-confidence) / samples)

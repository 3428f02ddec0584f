"""LiRA, the likelihood-ratio attack, and its average over what one person wrote.

Carlini et al. 2022, "Membership inference attacks from first principles": how would this record score under models that were
trained on it, and under models that were not? With few reference models their Gaussian plug-in overstates every tail (a nominal
1 % is 6 % at four models), so the predictive t distribution of a new draw takes its place: location the mean of R models, scale
s sqrt(1 + 1/R), R - 1 degrees of freedom.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
Variance = Literal["per record", "pooled"]


def likelihood_ratio(
    target: ArrayLike, without: ArrayLike, with_record: ArrayLike | None = None, variance: Variance = "per record"
) -> Array:
    """LiRA: the online form where there are models trained with the record, else the offline form.

    Args:
        target, without, with_record, variance: as the two functions below.

    Raises:
        ValueError: as they do.
    """
    if with_record is None:
        return offline_likelihood_ratio(target, without, variance)
    return online_likelihood_ratio(target, with_record, without, variance)


def offline_likelihood_ratio(target: ArrayLike, without: ArrayLike, variance: Variance = "per record") -> Array:
    """-log Pr[a model that never saw the record scores at least as high], O(R N).

    Args:
        target: scores under the audited model, higher = more like a member, such as mean log-probability [N].
        without: the same under models trained without the record [R, N], R >= 2.
        variance: of each record over its models, or one for all records, which is steadier where R is small and records alike.

    Returns:
        [N], at least 0, higher = more like a member; exp(-value) is the one-sided p-value of the record.

    Raises:
        ValueError: shapes that do not fit, fewer than two models, a score that is not finite, or no spread.
    """
    x = np.asarray(target, dtype=np.float64)
    return np.asarray(-_predictive(without, x, variance).logsf(x))


def online_likelihood_ratio(
    target: ArrayLike, with_record: ArrayLike, without: ArrayLike, variance: Variance = "per record"
) -> Array:
    """log p(score | trained on it) - log p(score | not), O(R N).

    Args:
        target: as `offline_likelihood_ratio` [N].
        with_record, without: scores under models trained with and without the record [R, N] and [R', N], at least 2 each.
        variance: as `offline_likelihood_ratio`.

    Returns:
        [N], positive where the member hypothesis is the likelier one.

    Raises:
        ValueError: as `offline_likelihood_ratio`.
    """
    x = np.asarray(target, dtype=np.float64)
    member, other = _predictive(with_record, x, variance), _predictive(without, x, variance)
    return np.asarray(member.logpdf(x) - other.logpdf(x))


def user_level(scores: ArrayLike, subjects: Sequence[str]) -> tuple[list[str], Array]:
    """One score per person: the mean over that person's records (Kandpal et al. 2024, "User inference attacks").

    Traces too faint in each record add up over a person's. Records of one person are no independent observations: intervals
    and tests take persons as their unit.

    Args:
        scores: one per record, higher = more like a member [N], N >= 1.
        subjects: whose record it is [N]; pseudonyms do.

    Returns:
        the subjects in order of first appearance, and the mean score of each.

    Raises:
        ValueError: nothing given, lengths that differ, or a score that is not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or len(x) != len(subjects) or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"expected as many finite scores as subjects, at least one, got {x.shape} and {len(subjects)}")
    order = list(dict.fromkeys(subjects))
    place = {subject: index for index, subject in enumerate(order)}
    rows = np.array([place[subject] for subject in subjects])
    return order, np.bincount(rows, weights=x) / np.bincount(rows)


def _predictive(models: ArrayLike, x: Array, variance: Variance) -> Any:
    scores = np.asarray(models, dtype=np.float64)
    if scores.ndim != 2 or len(scores) < 2 or scores.shape[1:] != x.shape or not len(x):
        raise ValueError(f"expected scores [N] and [R, N] with at least two models, got {x.shape} and {scores.shape}")
    if not np.isfinite(x).all() or not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if variance not in ("per record", "pooled"):
        raise ValueError(f'the variance is "pooled" or "per record", got {variance!r}')
    count = len(scores)
    sample = scores.var(axis=0, ddof=1)
    spread, degrees = (sample.mean(), sample.size * (count - 1)) if variance == "pooled" else (sample, count - 1)
    if not np.all(spread > 0):
        raise ValueError("models that agree to the last bit on a record show no spread to judge it by")
    return stats.t(degrees, loc=scores.mean(axis=0), scale=np.sqrt(spread * (1 + 1 / count)))

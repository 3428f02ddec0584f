"""Likelihood-ratio statistics: LiRA, online and offline, and its user-level average.

Carlini et al. 2022, "Membership inference attacks from first principles", compare a record's score under the audited model with
its scores under models trained with and without it. With few such models their Gaussian plug-in makes tail probabilities too
small (a nominal 1 % false-positive rate is 6 % at four models), so it is replaced by the predictive t distribution of a new draw:
location the mean of R models, scale s sqrt(1 + 1/R), R - 1 degrees of freedom.

With few models the variance is the bottleneck. A record's own has too few degrees of freedom, a pooled one is wrong for records
that vary more or less than the others; a conjugate prior fitted to all records (`verify.statistics.moderation`) interpolates
between the two, and its predictive is again a t (Brännvall 2026, "Exponential-family membership inference", BaVarIA-t).
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from verify.statistics.moderation import moderated_variances

Array = NDArray[np.float64]
Variance = Literal["per record", "pooled", "moderated"]


def likelihood_ratio(
    target: ArrayLike, without: ArrayLike, with_record: ArrayLike | None = None, variance: Variance = "per record"
) -> Array:
    """Compute LiRA: online where models trained with the record exist, offline otherwise.

    Args:
        target, without, with_record, variance: as `online_likelihood_ratio`; without `with_record`, as
            `offline_likelihood_ratio`.

    Returns:
        [N], higher = more like a member.

    Raises:
        ValueError: as `offline_likelihood_ratio`.
    """
    if with_record is None:
        return offline_likelihood_ratio(target, without, variance)
    return online_likelihood_ratio(target, with_record, without, variance)


def offline_likelihood_ratio(target: ArrayLike, without: ArrayLike, variance: Variance = "per record") -> Array:
    """Compute offline LiRA, -log Pr[a model that never saw the record scores at least as high], O(R N).

    Args:
        target: scores under the audited model, higher = more like a member, such as mean log-probability [N].
        without: the same under models trained without the record [R, N], R >= 2.
        variance: each record's own over the R models ("per record"), one for all records ("pooled"), or each record's own shrunk
            towards a prior fitted to all of them ("moderated").

    Returns:
        [N], at least 0, higher = more like a member; exp(-value) is the one-sided p-value of the record.

    Raises:
        ValueError: shapes that do not fit, fewer than two models, a score that is not finite, models that agree on a record, or
            an unknown variance.
    """
    x = np.asarray(target, dtype=np.float64)
    return np.asarray(-_predictive(without, x, variance).logsf(x))


def online_likelihood_ratio(
    target: ArrayLike, with_record: ArrayLike, without: ArrayLike, variance: Variance = "per record"
) -> Array:
    """Compute online LiRA, log p(score | trained on it) - log p(score | not), O(R N).

    Args:
        target: as `offline_likelihood_ratio` [N].
        with_record, without: scores under models trained with and without the record [R, N] and [R', N], at least 2 each.
        variance: as `offline_likelihood_ratio`.

    Returns:
        [N], in nats, positive where the member hypothesis is the likelier one.

    Raises:
        ValueError: as `offline_likelihood_ratio`.
    """
    x = np.asarray(target, dtype=np.float64)
    member, other = _predictive(with_record, x, variance), _predictive(without, x, variance)
    return np.asarray(member.logpdf(x) - other.logpdf(x))


def user_level(scores: ArrayLike, subjects: Sequence[str]) -> tuple[list[str], Array]:
    """Average scores per user: the mean over a person's records (Kandpal et al. 2024, "User inference attacks").

    Evidence too weak in each record adds up over a person's records. One person's records are not independent observations:
    intervals and tests take persons as their unit.

    Args:
        scores: one per record, higher = more like a member [N], N >= 1.
        subjects: the person each record is about, as any identifier or pseudonym [N].

    Returns:
        the S subjects in order of first appearance, and the mean score of each [S].

    Raises:
        ValueError: nothing given, lengths that differ, or a score that is not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or len(x) != len(subjects) or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"expected as many finite scores as subjects, at least one, got {x.shape} and {len(subjects)}")
    order = list(dict.fromkeys(subjects))
    position = {subject: index for index, subject in enumerate(order)}
    # Row of each record's subject [N], for sums and counts by subject.
    rows = np.array([position[subject] for subject in subjects])
    return order, np.bincount(rows, weights=x) / np.bincount(rows)


def _predictive(models: ArrayLike, x: Array, variance: Variance) -> Any:
    """Return the predictive t distribution of one more model's scores [N], given those of R models [R, N]."""
    scores = np.asarray(models, dtype=np.float64)
    if scores.ndim != 2 or len(scores) < 2 or scores.shape[1:] != x.shape or not len(x):
        raise ValueError(f"expected scores [N] and [R, N] with at least two models, got {x.shape} and {scores.shape}")
    if not np.isfinite(x).all() or not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    count, known = len(scores), get_args(Variance)
    if variance not in known:
        raise ValueError(f"the variance is one of {', '.join(known)}, got {variance!r}")
    sample = scores.var(axis=0, ddof=1)  # [N]
    if not (np.all if variance == "per record" else np.any)(sample > 0):
        raise ValueError("models that agree to the last bit on a record show no spread to judge it by")
    if variance == "moderated":
        moderated = moderated_variances(sample, count - 1)
        spread, degrees = moderated.variances, moderated.degrees
    else:
        # One variance per record [N] with R - 1 degrees of freedom, or their mean with N (R - 1).
        spread, degrees = (sample.mean(), sample.size * (count - 1)) if variance == "pooled" else (sample, count - 1)
    # 1 + 1/R: the variance of a new draw plus that of the estimated mean.
    return stats.t(degrees, loc=scores.mean(axis=0), scale=np.sqrt(spread * (1 + 1 / count)))

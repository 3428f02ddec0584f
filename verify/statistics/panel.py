"""Statistics of the retrained references among themselves: how far honest retrainings differ, by set, record and subject."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verify.statistics.moderation import ModeratedVariances, moderated_variances
from verify.statistics.subjects import subject_means, subject_numbers
from verify.statistics.tails import ScaledT, fit_far_tail, fit_scaled_t

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReferencePanel:
    """Statistics of the references among themselves, which do not depend on the target and are computed once.

    Attributes:
        losses: mean losses, nats per token [R, K].
        mean: over references [K].
        spread: s_M, standard deviation over references of their mean loss on the set.
        variances: moderated variances per record.
        tail, far_tail: tails fitted to the leave-one-reference-out statistics, all of them and the largest; None for R = 2.
        distinct: rows that stand for their text, the first of each; all rows where no texts were given [<= K].
        standing_for: which of them each row is [K].
        numbers: the subject of each row, from 0 [K]; None where no subjects were given.
        by_subject: the same of subject means; None unless there are at least two subjects, one of them with several records.
    """

    losses: Array
    mean: Array
    spread: float
    variances: ModeratedVariances
    tail: ScaledT | None
    far_tail: ScaledT | None
    distinct: NDArray[np.intp]
    standing_for: NDArray[np.intp]
    numbers: NDArray[np.intp] | None = None
    by_subject: "ReferencePanel | None" = None


def reference_panel(
    references: ArrayLike, subjects: Sequence[str] | None = None, texts: Sequence[Hashable] | None = None
) -> ReferencePanel:
    """Prepare references for judging several targets.

    Args:
        references: mean losses of the K forget records under each reference, nats per token [R, K], R >= 2, K >= 1.
        subjects: whom each record is about [K], for the test per subject.
        texts: anything equal for records of equal text [K]: in the test per record and its calibration, a text that occurs
            several times counts once, or a set could be padded with copies.

    Returns:
        the references' statistics, for `residual_verdict`.

    Raises:
        ValueError: the shape does not fit, a loss is not finite, R < 2 (one reference shows no spread), or references that
            do not differ (the same model given twice).
    """
    refs = np.asarray(references, dtype=np.float64)
    if refs.ndim != 2 or refs.shape[1] < 1:
        raise ValueError(f"expected losses [R, K] with at least 1 record, got {refs.shape}")
    if len(refs) < 2:
        raise ValueError("one reference shows no spread between honest retrainings; give at least 2, better 4 to 8")
    if not np.isfinite(refs).all():
        raise ValueError("losses must be finite")
    if any(given is not None and len(given) != refs.shape[1] for given in (subjects, texts)):
        raise ValueError(f"expected a subject and a text for each of {refs.shape[1]} records")
    # s_M is of the models' means over the set: independent between models, while records of one model are not.
    spread = float(refs.mean(axis=1).std(ddof=1))
    # A copy would pass for an independent retraining and make the spread too small.
    if spread == 0 or len(np.unique(refs, axis=0)) < len(refs):
        raise ValueError("the references do not differ: give models trained with different seeds, each once")
    distinct, standing_for = distinct_rows(range(refs.shape[1]) if texts is None else texts)
    own = refs[:, distinct]
    variances = moderated_variances(own.var(axis=0, ddof=1), len(refs) - 1)
    left_out = leave_one_out_statistics(own) if len(refs) >= 3 else None
    tail, far_tail = (None, None) if left_out is None else (fit_scaled_t(left_out), fit_far_tail(left_out))
    panel = ReferencePanel(
        losses=refs,
        mean=refs.mean(axis=0),
        spread=spread,
        variances=replace(variances, variances=variances.variances[standing_for]),
        tail=tail,
        far_tail=far_tail,
        distinct=distinct,
        standing_for=standing_for,
    )
    if subjects is None:
        return panel
    numbers = subject_numbers(subjects)
    several = 1 < numbers.max() + 1 < len(numbers)
    return replace(panel, numbers=numbers, by_subject=reference_panel(subject_means(refs, numbers)) if several else None)


def leave_one_out_statistics(references: ArrayLike) -> Array:
    """Judge each reference by the others, as a target with nothing left would be; returns t statistics [R * K].

    Args:
        references: mean losses, nats per token [R, K], R >= 3.
    """
    refs = np.asarray(references, dtype=np.float64)
    count = len(refs)
    statistics = []
    for held_out in range(count):
        others = np.delete(refs, held_out, axis=0)
        # R - 1 references remain, so their variances have R - 2 degrees of freedom.
        variances = moderated_variances(others.var(axis=0, ddof=1), count - 2).variances
        statistics.append((others.mean(axis=0) - refs[held_out]) / np.sqrt(variances * (1 + 1 / (count - 1))))
    return np.concatenate(statistics)


def distinct_rows(texts: Sequence[Hashable]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first row of each text, and for every row which of these it repeats."""
    order: dict[Hashable, int] = {}
    standing_for = np.array([order.setdefault(text, len(order)) for text in texts], dtype=np.intp)
    return np.unique(standing_for, return_index=True)[1], standing_for

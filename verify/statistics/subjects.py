"""Averages by subject: records of one subject rise and fall together, so tests that generalise count subjects, not records."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def subject_numbers(subjects: Sequence[str]) -> NDArray[np.intp]:
    """Number the subjects of records from 0, in sorted order [K]."""
    return np.unique(np.asarray(subjects, dtype=str), return_inverse=True)[1] if len(subjects) else np.empty(0, np.intp)


def subject_means(values: Array, numbers: NDArray[np.intp]) -> Array:
    """Average the last axis by subject: [..., K] becomes [..., S]."""
    counts = np.bincount(numbers)
    rows = np.atleast_2d(values)
    means = np.stack([np.bincount(numbers, weights=row, minlength=len(counts)) / counts for row in rows])
    return means.reshape(*values.shape[:-1], len(counts))


def rank_within(numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return how many earlier records belong to the same subject [K]."""
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], numbers[order], side="left")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(numbers)) - starts
    return ranks

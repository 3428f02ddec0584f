"""Blind baseline: how well a text classifier separates forget records from controls without any model.

A bag-of-words classifier that never sees the model: TF-IDF and a linear least-squares classifier, scored out of fold. Where the
controls differ from the forget set in topic or style, it wins, and a membership attack's AUC against those controls measures the
difference of texts (Das et al. 2024, arXiv 2406.16201; Duan et al. 2024, arXiv 2402.07841).

The classifier is refitted in every resample. Ridge regression makes that cheap: with the kernel matrix K of the texts, one inverse
(K + ridge/w)^-1 gives the scores of every held-out fold, and in a permutation test even the inverse is always the same.

Shapes: T texts, P permutations.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from sklearn.feature_extraction.text import TfidfVectorizer

from verify.errors import InputError
from verify.statistics.estimate import Estimate
from verify.statistics.roc import membership_auc

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

FOLDS = 5
RIDGE = 1.0
"""Weight of the penalty, relative to TF-IDF rows of length one."""
MOST_TEXTS = 1000
"""Largest number of texts per side; more are subsampled. The interval is narrow enough, and the inverse costs the cube."""
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words: Thai to Khmer, Japanese, Chinese."""
WORD = rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w){{2,}}"
"""A token: two or more word characters, or a single character of an unspaced script (its bigrams then act as words)."""


class NothingSharedError(InputError):
    """No word occurs in two texts, so no bag-of-words classifier can be fitted and nothing was examined."""


def blind_auc(
    forget: Sequence[str],
    controls: Sequence[str],
    forget_groups: Sequence[str],
    control_groups: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 100,
    seed: int = 0,
) -> Estimate:
    """Compute the out-of-fold AUC of the blind classifier, oriented to at least one half: max(AUC, 1 - AUC).

    The interval is a bootstrap over groups with the classifier refitted in every resample, because the classifier's own chance
    is part of the uncertainty. Records of one group (one person) stay in one fold: otherwise the classifier would recognise
    individual people instead of differences between the two sets.

    Args:
        forget, controls: whole texts, at least 2 groups of each; of more than 1,000 on a side, 1,000 are drawn.
        forget_groups, control_groups: which person or document each text belongs to.
        confidence: level of the interval.
        resamples: bootstrap resamples.
        seed: seed of the folds and the bootstrap.

    Raises:
        InputError: either side has fewer than two groups, so cross-validation is impossible.
        NothingSharedError: no word occurs in two texts.
    """
    rng = np.random.default_rng(seed)
    kernel, labels, group = _texts(forget, controls, forget_groups, control_groups, rng)
    area = _auc(kernel, labels, _folds(labels, group, rng)[group], np.ones(len(labels)))
    draws = []
    for _ in range(resamples):
        times = _times_drawn(labels, group, rng)[group]
        kept = np.flatnonzero(times)
        folds = _folds(labels[kept], group[kept], rng)[group[kept]]
        draws.append(_auc(kernel[np.ix_(kept, kept)], labels[kept], folds, times[kept].astype(float)))
    # Shifted to the estimate: a refitted classifier on resampled texts sees fewer distinct ones and is a little worse.
    spread = np.array(draws) - np.mean(draws)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = (float(np.clip(area + np.quantile(spread, tail), 0, 1)) for tail in tails)
    # An AUC below one half separates the sets as well: fold the interval at one half.
    folded_low = 0.5 if low <= 0.5 <= high else min(max(low, 1 - low), max(high, 1 - high))
    value = max(area, 1 - area)
    return Estimate(value, min(folded_low, value), max(high, 1 - low, value), len(labels), confidence, seed)


def blind_permutation_p(
    forget: Sequence[str],
    controls: Sequence[str],
    forget_groups: Sequence[str],
    control_groups: Sequence[str],
    *,
    permutations: int = 199,
    seed: int = 0,
) -> float:
    """Compute the label-permutation p-value of the blind classifier: (1 + #{permuted AUC >= observed}) / (permutations + 1).

    Whole groups are permuted, since records of one person belong together. For controls drawn at random the p-value is valid, and
    a small one shows that they were not. Folds are drawn without regard to the labels, so that all permutations share them.

    Args:
        forget, controls, forget_groups, control_groups: as `blind_auc`.
        permutations: 199 give p-values down to 0.005.
        seed: seed of folds and permutations.

    Raises:
        InputError: as `blind_auc`.
    """
    rng = np.random.default_rng(seed)
    kernel, labels, group = _texts(forget, controls, forget_groups, control_groups, rng)
    side = labels[np.unique(group, return_index=True)[1]]
    sides = np.array([side, *(rng.permutation(side) for _ in range(permutations))])[:, group]
    folds = rng.permutation(np.arange(len(side)) % min(FOLDS, len(side)))[group]
    scores = held_out_scores(kernel, sides.T, folds, np.ones(len(labels)))
    areas = [membership_auc(row[one == 1], row[one == 0]).value for row, one in zip(scores.T, sides, strict=True)]
    return (1 + sum(area >= areas[0] for area in areas[1:])) / (permutations + 1)


def held_out_scores(kernel: Array, labels: Array | Indices, folds: Indices, weights: Array) -> Array:
    """Compute each text's out-of-fold score, by the classifier fitted without its fold.

    Weighted kernel ridge regression on targets that balance the sides; the leave-one-fold-out scores follow from the inverse G of
    K + ridge/w without another fit (Rasmussen and Williams 2006, section 5.4.2, for blocks):

        f_b = y_b - (G_bb)^-1 (G y)_b

    Args:
        kernel: inner products of the texts [T, T].
        labels: 1 forget, 0 control, [T] or [T, P].
        folds: number of each text's fold [T].
        weights: how often each text counts [T], more than 0.

    Returns:
        scores of the shape of `labels`.
    """
    share = np.average(labels, axis=0, weights=weights)
    targets = np.where(labels == 1, 1 / share, -1 / (1 - share))
    factor, _ = lapack.dpotrf(kernel + np.diag(RIDGE / weights), lower=1)
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    alpha = inverse @ targets
    scores = np.empty_like(targets)
    for fold in np.unique(folds):
        block = np.flatnonzero(folds == fold)
        scores[block] = targets[block] - np.linalg.solve(inverse[np.ix_(block, block)], alpha[block])
    return scores


def _texts(
    forget: Sequence[str],
    controls: Sequence[str],
    forget_groups: Sequence[str],
    control_groups: Sequence[str],
    rng: np.random.Generator,
) -> tuple[Array, Indices, Indices]:
    """Build the centred kernel of the (subsampled) texts [T, T], with their labels and group numbers [T]."""
    texts = [*forget, *controls]
    labels = np.repeat([1, 0], [len(forget), len(controls)])
    names = np.array([*(f"f{name}" for name in forget_groups), *(f"c{name}" for name in control_groups)])
    chosen = np.concatenate([np.sort(rng.permutation(np.flatnonzero(labels == side))[:MOST_TEXTS]) for side in (1, 0)])
    labels, group = labels[chosen], np.unique(names[chosen], return_inverse=True)[1]
    if min(len(np.unique(group[labels == side])) for side in (0, 1)) < 2:
        raise InputError(
            "the blind baseline needs at least two people or documents on each side. With one person, leave out --twins."
        )
    # Vocabulary, document frequencies and mean use no labels, so they can be computed once for all folds and resamples.
    kernel = _alike([texts[index] for index in chosen])
    mean = kernel.mean(axis=0)
    return kernel - mean - mean[:, None] + mean.mean(), labels, group


def _alike(texts: Sequence[str]) -> Array:
    """Compute inner products of the texts' TF-IDF rows."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=WORD)
    try:
        features = words.fit_transform(texts)
    except ValueError:  # empty vocabulary: scikit-learn raises nothing more specific
        raise NothingSharedError(
            "no word occurs in two texts of the two sets, so whether they are distinguishable by words alone cannot be tested. "
            "Give more records, or leave out --twins."
        ) from None
    return np.asarray((features @ features.T).todense())


def _folds(labels: Indices, group: Indices, rng: np.random.Generator) -> Indices:
    """Assign a fold to every group, each side's groups spread evenly."""
    count = min(FOLDS, *(len(np.unique(group[labels == side])) for side in (0, 1)))
    folds = np.zeros(int(group.max()) + 1, dtype=np.intp)
    for side in (0, 1):
        there = np.unique(group[labels == side])
        folds[rng.permutation(there)] = np.arange(len(there)) % count
    return folds


def _times_drawn(labels: Indices, group: Indices, rng: np.random.Generator) -> Indices:
    """Draw bootstrap counts per group within each side; at least two groups of a side are drawn."""
    times = np.zeros(int(group.max()) + 1, dtype=np.intp)
    for side in (0, 1):
        there = np.unique(group[labels == side])
        drawn = rng.choice(there, size=len(there))
        while len(np.unique(drawn)) < 2:
            drawn = rng.choice(there, size=len(there))
        np.add.at(times, drawn, 1)
    return times


def _auc(kernel: Array, labels: Indices, folds: Indices, weights: Array) -> float:
    """Compute the AUC of held-out scores, texts weighted by how often they were drawn."""
    scores, times = held_out_scores(kernel, labels, folds, weights), weights.astype(int)
    forget, controls = (np.repeat(scores[labels == side], times[labels == side]) for side in (1, 0))
    return membership_auc(forget, controls).value

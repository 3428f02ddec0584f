"""Could one tell forget records from controls without any model? Then no attack on the model shows anything.

A bag-of-words classifier that never sees the model: TF-IDF and logistic regression, scored out of fold. Where the controls
differ from the forget set in topic or style, it wins, and a membership attack's AUC against those controls measures the
difference of texts (Das et al. 2024, arXiv 2406.16201; Duan et al. 2024, arXiv 2402.07841).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from verify.errors import InputError
from verify.statistics.estimate import Estimate
from verify.statistics.roc import membership_auc

Labels = NDArray[Any]

FOLDS = 5


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
    """Out-of-fold AUC of the blind classifier, oriented so that it is at least one half: max(AUC, 1 - AUC).

    The interval is a bootstrap over groups with the classifier refitted in every resample, because the classifier's own chance
    is part of the uncertainty. Records of one group (one person) stay in one fold: otherwise the classifier would recognise
    people instead of kinds of people.

    Args:
        forget, controls: whole texts, at least 2 groups of each.
        forget_groups, control_groups: which person or document each text belongs to.
        confidence: level of the interval.
        resamples: bootstrap resamples.
        seed: of the folds and the bootstrap.

    Raises:
        InputError: fewer than two groups on a side, which no fold can hold out.
    """
    # The vocabulary and its document frequencies know no labels, so they may be fitted once for all folds and resamples.
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform([*forget, *controls])
    labels = np.r_[np.ones(len(forget), dtype=int), np.zeros(len(controls), dtype=int)]
    groups = np.array([*(f"f{name}" for name in forget_groups), *(f"c{name}" for name in control_groups)])
    rng = np.random.default_rng(seed)
    area = _out_of_fold_auc(features, labels, groups, seed)
    draws = []
    for _ in range(resamples):
        chosen = _resample_groups(labels, groups, rng)
        draws.append(_out_of_fold_auc(features[chosen], labels[chosen], groups[chosen], int(rng.integers(1 << 31))))
    # Shifted to the estimate: a refitted classifier on resampled texts sees fewer distinct ones and is a little worse.
    spread = np.array(draws) - np.mean(draws)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = (float(np.clip(area + np.quantile(spread, tail), 0, 1)) for tail in tails)
    # Told apart in the wrong direction is told apart: fold the interval at one half.
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
    """Label-permutation p-value of the blind classifier: (1 + #{permuted AUC >= observed}) / (permutations + 1).

    Whole groups change sides, since records of one person were never apart. For twins drawn at random it is a valid p-value, and
    a small one says that they were not.

    Args:
        forget, controls, forget_groups, control_groups: as `blind_auc`.
        permutations: 199 reach down to 0.005.
        seed: of folds and permutations.

    Raises:
        InputError: as `blind_auc`.
    """
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform([*forget, *controls])
    labels = np.r_[np.ones(len(forget), dtype=int), np.zeros(len(controls), dtype=int)]
    groups = np.array([*(f"f{name}" for name in forget_groups), *(f"c{name}" for name in control_groups)])
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    observed = _out_of_fold_auc(features, labels, groups, seed)
    at_least = sum(
        _out_of_fold_auc(features, rng.permutation(labels[first])[member], groups, seed) >= observed for _ in range(permutations)
    )
    return (1 + at_least) / (permutations + 1)


def _resample_groups(labels: Labels, groups: Labels, rng: np.random.Generator) -> Labels:
    """Indices of texts whose groups were drawn with replacement, within each side."""
    chosen = []
    for side in (0, 1):
        names = np.unique(groups[labels == side])
        members = {name: np.flatnonzero(groups == name) for name in names}
        drawn = rng.choice(names, size=len(names))
        while len(np.unique(drawn)) < 2:
            drawn = rng.choice(names, size=len(names))
        chosen += [members[name] for name in drawn]
    return np.concatenate(chosen)


def _out_of_fold_auc(features: Any, labels: Labels, groups: Labels, seed: int) -> float:
    """Score every text by a classifier that was fitted without its group."""
    names, first = np.unique(groups, return_index=True)
    sides = labels[first]
    folds = min(FOLDS, int(np.bincount(sides, minlength=2).min()))
    if folds < 2:
        raise InputError("the blind baseline needs at least two people or documents on each side; give more controls.")
    scores = np.empty(len(labels))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(names, sides):
        fitted = np.isin(groups, names[train])
        held_out = np.isin(groups, names[test])
        classifier = LogisticRegression(C=10.0, class_weight="balanced")
        classifier.fit(features[fitted], labels[fitted])
        scores[held_out] = classifier.decision_function(features[held_out])
    return membership_auc(scores[labels == 1], scores[labels == 0]).value

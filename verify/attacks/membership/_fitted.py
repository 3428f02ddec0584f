"""Cross-fitting for learned attacks: every record is scored by a classifier fitted without it."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from verify.attacks.base import Observation
from verify.data.subjects import subject_groups

FOLDS = 5
INVERSE_PENALTY = 0.1
"""Inverse strength C of the ridge penalty: strong, since a probe has more features than records."""


def cross_fitted(
    target: Observation,
    members: Observation,
    controls: Observation,
    of_members: NDArray[np.float64],
    of_controls: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute out-of-fold log odds of membership for whichever of the two classes `target` is.

    Args:
        target: the records to score, either `members` or `controls`.
        members, controls: the audited records and the never-trained ones.
        of_members, of_controls: their features [N, D] and [M, D].

    Returns:
        float64 [N] or [M]; 0 for a fold without a classifier, because one of the classes has no record outside it.
    """
    features = np.concatenate([of_members, of_controls])
    label = np.repeat([1, 0], [len(of_members), len(of_controls)])
    fold = np.concatenate([_folds(members), _folds(controls)])
    scores = np.zeros(len(label))
    for number in np.unique(fold):
        held_out = fold == number
        if len(np.unique(label[~held_out])) < 2:
            continue
        # The scaler sees the training folds only, and the classes count alike whatever their sizes.
        scaler = StandardScaler().fit(features[~held_out])
        classifier = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=500)
        classifier.fit(scaler.transform(features[~held_out]), label[~held_out])
        scores[held_out] = classifier.decision_function(scaler.transform(features[held_out]))
    return np.asarray(scores[label == (0 if target.is_its_own_control else 1)], dtype=np.float64)


def _folds(observation: Observation) -> NDArray[np.int64]:
    """Assign folds by person (by record where none is named) from a hash, independent of order and batch [N]."""
    return np.array([int(hashlib.sha256(owner.encode()).hexdigest(), 16) % FOLDS for owner in subject_groups(observation.records)])

"""Attacks that learn: every record is scored by a rule that was fitted without it."""

import hashlib

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from verify.attacks.base import Observation
from verify.subjects import people_of

FOLDS = 5
STRENGTH = 0.1
"""Inverse strength of the ridge penalty; features outnumber records for probes."""


def cross_fitted(
    target: Observation,
    members: Observation,
    controls: Observation,
    of_members: NDArray[np.float64],
    of_controls: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log odds of being a member, out of fold, for the side that `target` is.

    Args:
        target: which side is asked about.
        members, controls: the two sides.
        of_members, of_controls: their features [N, D] and [M, D].

    Returns:
        float64 [N] or [M]; 0 for a fold whose rule could not be fitted because one side has no record outside it.
    """
    features = np.concatenate([of_members, of_controls])
    label = np.repeat([1, 0], [len(of_members), len(of_controls)])
    fold = np.concatenate([_folds(members), _folds(controls)])
    scores = np.zeros(len(label))
    for number in np.unique(fold):
        held_out = fold == number
        if len(np.unique(label[~held_out])) < 2:
            continue
        scaler = StandardScaler().fit(features[~held_out])
        rule = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500)
        rule.fit(scaler.transform(features[~held_out]), label[~held_out])
        scores[held_out] = rule.decision_function(scaler.transform(features[held_out]))
    return np.asarray(scores[label == (0 if target.is_its_own_control else 1)], dtype=np.float64)


def _folds(observation: Observation) -> NDArray[np.int64]:
    """One fold a person, or a record where no person is named; by content, so that order and company change nothing."""
    return np.array([int(hashlib.sha256(owner.encode()).hexdigest(), 16) % FOLDS for owner in people_of(observation.records)])

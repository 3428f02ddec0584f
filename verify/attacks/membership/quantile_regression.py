"""Quantile-regression attack: the loss relative to a predicted quantile for never-trained text like it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from verify.attacks.base import Family, Need, Observation, mean_log_probabilities, require_controls
from verify.data.records import Record
from verify.statistics.quantiles import quantile_regression


@dataclass(frozen=True)
class QuantileRegression:
    """Score by how far the log-likelihood lies above the upper quantile predicted for never-trained text like it.

        score = mean_t l_t - q_hat(features),  q_hat fitted on controls by quantile regression

    Bertran et al. 2023 (arXiv 2307.03694). Features need no model: length, compressibility, shares of digits and capitals, prompt
    length. It gives one threshold per record instead of one for all, without reference models; with fewer than about a hundred
    controls it is no better than `loss`.

    Attributes:
        quantile: the predicted quantile of the controls, in (0, 1).
        folds: number of cross-validation folds when the controls themselves are scored.
    """

    quantile: float = 0.9
    folds: int = 5

    idea: ClassVar[str] = "likelihood above what is usual for never-trained text of its kind"
    paper: ClassVar[str] = "Bertran et al. 2023 (arXiv 2307.03694)"
    family: ClassVar[Family] = "membership"
    needs: ClassVar[frozenset[Need]] = frozenset({"one pass", "controls"})
    cost: ClassVar[float] = 0.0
    references: ClassVar[int] = 0
    unit: ClassVar[str] = "nats per token"

    def score(self, target: Observation, references: Sequence[Observation]) -> NDArray[np.float64]:
        """Compute the score above, float64 [N].

        Raises:
            InputError: there are no controls.
        """
        controls = require_controls(target, "quantile_regression")
        known, values = _features(controls.records), mean_log_probabilities(controls)
        own = mean_log_probabilities(target)
        if not target.is_its_own_control or len(controls) < 2:
            return own - self._predict(known, values, _features(target.records))
        # A control is scored by a fit without its own fold.
        fold = np.arange(len(controls)) % min(self.folds, len(controls))
        predicted = np.empty(len(controls))
        for number in np.unique(fold):
            held_out = fold == number
            predicted[held_out] = self._predict(known[~held_out], values[~held_out], known[held_out])
        return own - predicted

    def _predict(self, known: NDArray[np.float64], values: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fit the quantile on features [M, 5] and values [M], and predict it for new features [N, 5]."""
        scaler = StandardScaler().fit(known)
        # A slight L1 penalty keeps the fit stable with few controls.
        coefficients, intercept = quantile_regression(scaler.transform(known), values, self.quantile, penalty=0.01)
        return np.asarray(scaler.transform(new) @ coefficients + intercept, dtype=np.float64)


def _features(records: Sequence[Record]) -> NDArray[np.float64]:
    """Compute model-free features of each text [N, 5]."""
    rows = []
    for record in records:
        text = record.scored_text
        size = max(1, len(text))
        capitals, digits = sum(map(str.isupper, text)), sum(map(str.isdigit, text))
        compressed = len(zlib.compress(text.encode())) / max(1, len(text.encode()))
        rows.append([np.log(size), compressed, digits / size, capitals / size, np.log1p(len(record.prompt))])
    return np.array(rows)

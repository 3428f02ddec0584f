"""Error over many deletion requests that are judged against the same controls.

Every audit of one model uses the same controls, so its p-values depend on those of the others: an unlucky draw of controls is
unlucky for all. Two accounts hold whatever the dependence:

    spending   request number j, by the date of its registration, is judged at level alpha_j with sum alpha_j <= alpha: the
               probability of any false accusation is at most alpha (Bonferroni)
    evidence   e_j = p_j^{-1/2} / 2 has a mean of at most 1 (Vovk and Wang 2021), so sum_j w_j e_j with fixed weights that sum to at
               most 1 does as well; it only grows, and ever reaches 1 / alpha with probability at most alpha (Markov)

The product of e-values, which canaries use (`one_run.deletion_e_value`), is not such an account: it needs fresh randomness in every
factor, as each batch of canaries has it and requests with common controls have not.

Certificates need no correction. A certificate is a claim about one request, made to those whom that request concerns, and is false
with probability at most alpha where that deletion failed, however many others were audited; honest deletions cannot be certified
falsely, so their number adds nothing. "All of these requests are forgotten" is false with probability at most alpha as well,
because every one of its parts has to be certified (intersection-union). What does need an account is looking again at the same
request: of several audits of one failed deletion the best is chosen, so each look has to be registered and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from verify.statistics.one_run import SequentialEvidence


@dataclass(frozen=True)
class Spending:
    """Levels at which requests are judged, fixed before the first.

    The first `expected` requests share `1 - reserve` of alpha equally; the k-th after them gets reserve alpha / (k (k + 1)), so
    that the account never runs out.

    Attributes:
        alpha: probability of any false accusation, over all requests together.
        expected: number of requests planned for, at least 1.
        reserve: share of alpha for those beyond, in (0, 1).

    Raises:
        ValueError: a value out of range.
    """

    alpha: float
    expected: int
    reserve: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.alpha < 0.5 or self.expected < 1 or not 0 < self.reserve < 1:
            raise ValueError(
                f"alpha lies in (0, 0.5), at least 1 request is expected and the reserve lies in (0, 1); got {self.alpha}, "
                f"{self.expected} and {self.reserve}"
            )

    def level(self, number: int) -> float:
        """Return the level of a request's accusations.

        Args:
            number: which request it is, from 1, by the date of its registration; every further look at the same one counts.

        Raises:
            ValueError: a number below 1.
        """
        if number < 1:
            raise ValueError(f"requests are numbered from 1, got {number}")
        if number <= self.expected:
            return (1 - self.reserve) * self.alpha / self.expected
        beyond = number - self.expected
        return self.reserve * self.alpha / (beyond * (beyond + 1))

    def spent(self, count: int) -> float:
        """Return the level that the first `count` requests have used together, at most alpha."""
        return sum(self.level(number) for number in range(1, count + 1))


def e_values(p_values: ArrayLike) -> np.ndarray:
    """Turn p-values into e-values, p^{-1/2} / 2 (Vovk and Wang 2021, "E-values: calibration, combination and applications", eq. 1).

    Args:
        p_values: [J], each in (0, 1].

    Raises:
        ValueError: a value outside (0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError("p-values lie in (0, 1]")
    return np.asarray(0.5 / np.sqrt(p))


def evidence_across_requests(p_values: Sequence[float], spending: Spending) -> SequentialEvidence:
    """Add up the evidence of requests that share controls: sum_j w_j e_j after each, with w_j = spending.level(j) / alpha.

    Args:
        p_values: of the requests, in the order of their registration [J], J >= 1.
        spending: gives the weights; the alarm is asked for at its alpha.

    Raises:
        ValueError: no p-value, or one outside (0, 1].
    """
    e = e_values(p_values)
    if e.ndim != 1 or not len(e):
        raise ValueError(f"expected the p-values of at least one request, got shape {e.shape}")
    weights = np.array([spending.level(number) for number in range(1, len(e) + 1)]) / spending.alpha
    return SequentialEvidence(np.log(np.cumsum(weights * e)))

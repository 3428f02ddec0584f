"""One-run audit (Tier A): exact tests and epsilon bounds from guesses about randomly assigned canaries.

Canaries come in pairs, a fair coin assigns one of each pair to the training data, and the trained one is then deleted. An auditor
who scores the model after deletion guesses r assignments and gets v right. Under perfect deletion the model holds no trace of the
assignments, so v is exactly Binomial(r, 1/2): no reference model and no assumption about scores is needed.

The number of guesses, and which pairs they are made on, must be fixed before the assignments are revealed: the best threshold
found afterwards reports a positive epsilon on pure noise about a third of the time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

LARGEST_EPSILON = 64.0
"""Search limit, nats: the probability of a wrong guess, e^-64, is then far below the rounding error of a double near 1."""


@dataclass(frozen=True)
class AssignmentTest:
    """Exact p-values of v correct guesses of r under perfect deletion.

    Attributes:
        guesses, correct: r and v.
        remembered: Pr[Bin(r, 1/2) >= v]: small where traces of the trained canaries remain.
        inverted: Pr[Bin(r, 1/2) <= v]: small where deletion overshot, so that the trained canaries score below the untrained ones.
    """

    guesses: int
    correct: int
    remembered: float
    inverted: float


@dataclass(frozen=True)
class OneRunBound:
    """A lower confidence bound on the epsilon of (epsilon, delta)-differential privacy, in nats.

    Attributes:
        epsilon: with confidence 1 - significance the procedure is not (epsilon', delta)-private for any epsilon' below it; 0
            where nothing is shown. Against the definition "as if retrained" the bound is half of it, see `against_retraining`.
        canaries, guesses, correct: numbers m of assignments, r of guesses, v of right ones.
        delta, significance: as given.
    """

    epsilon: float
    canaries: int
    guesses: int
    correct: int
    delta: float
    significance: float

    @property
    def against_retraining(self) -> float:
        """Bound under "as if retrained", nats: half of `epsilon`, as both models compared differ from the retrained one."""
        return self.epsilon / 2


def assignment_test(guesses: int, correct: int) -> AssignmentTest:
    """Test whether the number of correct guesses is that of chance, exactly and in both directions.

    Args:
        guesses: r >= 1, fixed before the assignments are revealed.
        correct: v in 0..r.

    Raises:
        ValueError: no guesses, or v outside 0..r.
    """
    _check_counts(guesses, guesses, correct)
    chance = stats.binom(guesses, 0.5)
    return AssignmentTest(guesses, correct, float(chance.sf(correct - 1)), float(chance.cdf(correct)))


def one_run_p_value(epsilon: float, canaries: int, guesses: int, correct: int, delta: float = 0.0) -> float:
    """Compute the p-value of "(epsilon, delta)-differentially private" (Steinke, Nasr and Jagielski 2023, theorem 5.2), O(v).

    With q = sigmoid(epsilon), beta = Pr[Bin(r, q) >= v] and a = max over i in 1..v of Pr[v - i <= Bin(r, q) < v] / i,
    p = min(1, beta + 2 m delta a).

    Args:
        epsilon: >= 0, nats.
        canaries: m, the number of independent assignments (with pairs: one a pair).
        guesses: r in 1..m.
        correct: v in 0..r.
        delta: in [0, 1).

    Raises:
        ValueError: impossible counts, a negative or infinite epsilon, or a delta outside [0, 1).
    """
    _check_counts(canaries, guesses, correct)
    if not 0 <= epsilon < np.inf or not 0 <= delta < 1:
        raise ValueError(f"epsilon is at least 0 and finite, delta in [0, 1); got {epsilon} and {delta}")
    right = stats.binom(guesses, special.expit(epsilon))
    beta = float(right.sf(correct - 1))  # sf(v - 1) = Pr[Bin >= v]
    if delta == 0 or correct == 0:
        return min(1.0, beta)
    # Pr[v - i <= Bin < v] for i = 1..v: cumulative sums over v - 1, v - 2, ..., 0 [v].
    below = np.cumsum(right.pmf(np.arange(correct - 1, -1, -1)))
    return float(min(1.0, beta + 2 * canaries * delta * (below / np.arange(1, correct + 1)).max()))


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float = 0.0, significance: float = 0.05) -> OneRunBound:
    """Compute the largest epsilon that the guesses reject: sup{epsilon: p(epsilon) <= significance}.

    Args:
        canaries, guesses, correct, delta: as `one_run_p_value`.
        significance: one-sided error probability of the bound, in (0, 1).

    Raises:
        ValueError: as `one_run_p_value`, or significance outside (0, 1).
    """
    if not 0 < significance < 1:
        raise ValueError(f"a significance lies between 0 and 1, got {significance}")

    def rejected(epsilon: float) -> bool:
        return one_run_p_value(epsilon, canaries, guesses, correct, delta) <= significance

    # p(epsilon) rises with epsilon, so the rejected ones form an interval from 0: bisection.
    low, high = 0.0, LARGEST_EPSILON
    if not rejected(low):
        return OneRunBound(0.0, canaries, guesses, correct, delta, significance)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return OneRunBound(low, canaries, guesses, correct, delta, significance)


@dataclass(frozen=True, eq=False)
class SequentialEvidence:
    """Sequential evidence against perfect deletion: an e-value after each batch of deletions.

    Attributes:
        log_e_values: natural logarithm of the e-value after each batch [B].
    """

    log_e_values: NDArray[np.float64]

    def alarm(self, alpha: float) -> int | None:
        """Return the index of the first batch after which the e-value reaches 1 / alpha, or None.

        Under perfect deletion it ever does so with probability at most alpha (Ville 1939), however often one looks.

        Raises:
            ValueError: alpha lies outside (0, 1).
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha lies between 0 and 1, got {alpha}")
        reached = np.flatnonzero(self.log_e_values >= -np.log(alpha))
        return int(reached[0]) if len(reached) else None


def deletion_e_value(guesses: ArrayLike, correct: ArrayLike, bet: float = 0.2) -> SequentialEvidence:
    """Compute the e-value of a bet against chance: prod_j (1 + bet (2 c_j - 1)), c_j = 1 where guess j was right.

    Args:
        guesses: r_b of each batch [B], B >= 1, integers >= 1.
        correct: v_b of each batch [B], integers in 0..r_b.
        bet: stake in (0, 1), fixed before the first assignment is revealed; where a share q of the guesses is right, the e-value
            grows fastest at 2q - 1.

    Returns:
        the e-value after each batch, as its logarithm: products of many batches overflow.

    Raises:
        ValueError: no batches, impossible counts, or a bet outside (0, 1).
    """
    made, right = np.asarray(guesses), np.asarray(correct)
    if made.ndim != 1 or made.shape != right.shape or not len(made):
        raise ValueError(f"expected counts of the same batches, at least one, got shapes {made.shape} and {right.shape}")
    if not np.issubdtype(made.dtype, np.integer) or not np.issubdtype(right.dtype, np.integer):
        raise ValueError("guesses and correct must be integers")
    if (made < 1).any() or (right < 0).any() or (right > made).any():
        raise ValueError("every batch needs at least one guess and between 0 and all of them correct")
    if not 0 < bet < 1:
        raise ValueError(f"a bet lies between 0 and 1, got {bet}")
    return SequentialEvidence(np.cumsum(right * np.log1p(bet) + (made - right) * np.log1p(-bet)))


def _check_counts(canaries: int, guesses: int, correct: int) -> None:
    if not 1 <= guesses <= canaries or not 0 <= correct <= guesses:
        raise ValueError(
            f"0 <= correct <= guesses <= canaries and at least one guess are needed, got {correct}, {guesses}, {canaries}"
        )

"""Alpha spending: the probability of any false accusation over many deletion requests that are judged against the same controls.

Every audit of one model uses the same controls, so its p-values depend on those of the others: an unlucky draw of controls is
unlucky for all. Audit number j, by the date of its beginning, accuses at level alpha_j with sum alpha_j <= alpha: the probability
of any false accusation is at most alpha whatever the dependence (Bonferroni).

The product of e-values, which canaries use (`verify.statistics.deletion_e_value`), cannot serve as such an account: it needs fresh
randomness in every factor, as each batch of canaries has it and requests with common controls have not.

Certificates need no correction. A certificate is a claim about one request, made to those whom that request concerns, and is false
with probability at most alpha where that deletion failed, however many others were audited; honest deletions cannot be certified
falsely, so their number adds nothing. "All of these requests are forgotten" is false with probability at most alpha as well,
because every one of its parts has to be certified (intersection-union). What does need an account is looking again at the same
request: of several audits of one failed deletion the best is chosen, so each look has to be registered and counted.

Numbers only, so that a certificate is checked without numpy.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Spending:
    """Levels at which audits accuse, fixed before the first.

    The first `expected` audits share `1 - reserve` of alpha equally; the k-th after them gets reserve alpha / (k (k + 1)), so
    that the account never runs out.

    Attributes:
        alpha: probability of any false accusation, over all audits together.
        expected: number of audits planned for, at least 1.
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
                f"alpha lies in (0, 0.5), at least 1 audit is expected and the reserve lies in (0, 1); got {self.alpha}, "
                f"{self.expected} and {self.reserve}"
            )

    def level(self, number: int) -> float:
        """Return the level of an audit's accusations.

        Args:
            number: which audit it is, from 1, by date; every further look at the same request counts.

        Raises:
            ValueError: a number below 1.
        """
        if number < 1:
            raise ValueError(f"audits are numbered from 1, got {number}")
        if number <= self.expected:
            return (1 - self.reserve) * self.alpha / self.expected
        beyond = number - self.expected
        return self.reserve * self.alpha / (beyond * (beyond + 1))

    def spent(self, count: int) -> float:
        """Return the level that the first `count` audits have used together, at most alpha."""
        planned = min(count, self.expected)
        # The levels beyond are a telescoping sum: 1 / (k (k + 1)) = 1 / k - 1 / (k + 1).
        beyond = max(count - self.expected, 0)
        return (1 - self.reserve) * self.alpha * planned / self.expected + self.reserve * self.alpha * (1 - 1 / (beyond + 1))


def level_of(alpha: float, expected: int | None, number: int) -> float:
    """Return the level of the accusations of an audit: its share of alpha where requests were planned for, else all of it."""
    return alpha if expected is None else Spending(alpha, expected).level(number)


def level_spent(alpha: float, expected: int | None, number: int) -> float:
    """Return the probability, at most, that any of the first `number` audits accuses an honest deletion."""
    return min(1.0, number * alpha) if expected is None else Spending(alpha, expected).spent(number)

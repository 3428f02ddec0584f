"""Linear quantile regression with an L1 penalty, exact and in nearly linear time.

The linear program of Koenker and Bassett 1978 has two variables and a row for each of n observations, and a simplex solver takes
about n^2 on it. Its dual has one bounded variable for each observation and one row for each of p coefficients. Portnoy and Koenker
1997 ("The Gaussian hare and the Laplacian tortoise") shorten that: a fit on n^(2/3) of the observations shows on which side of the
fit most others lie, and of such an observation only its sum with its like enters the program. The side of each is checked
afterwards, so the result is that of the whole program.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]

WHOLE = 5000
"""Largest number of observations that are solved for at once."""
BAND = 5
"""Observations whose side is left open, as a multiple of the first sample's number."""


def quantile_regression(features: ArrayLike, values: ArrayLike, quantile: float, penalty: float = 0.0) -> tuple[Array, float]:
    """Fit a quantile of the values as a linear function of the features.

        minimise over b, c:  1/n sum_i rho(y_i - x_i b - c) + penalty sum_j |b_j|,  rho(r) = max(quantile r, (quantile - 1) r)

    Args:
        features: x [N, P].
        values: y [N], at least one.
        quantile: in (0, 1).
        penalty: weight of the coefficients' absolute values, >= 0; the intercept is free.

    Returns:
        the coefficients b [P] and the intercept c; one of the best fits where several are equally good.

    Raises:
        ValueError: shapes that do not fit, nothing given, a number that is not finite, or parameters out of range.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(y):
        raise ValueError(f"expected features [N, P] and values [N], N >= 1, got {x.shape} and {y.shape}")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("features and values must be finite")
    if not 0 < quantile < 1 or not 0 <= penalty < np.inf:
        raise ValueError(f"the quantile lies in (0, 1) and the penalty is at least 0, got {quantile} and {penalty}")
    everything = np.ones(len(y), dtype=bool)
    if len(y) <= WHOLE:
        return _fit(x, y, quantile, penalty, everything, everything)
    size = int(np.ceil(len(y) ** (2 / 3)))
    sample = np.random.default_rng(0).choice(len(y), size, replace=False)
    coefficients, intercept = _fit(x[sample], y[sample], quantile, penalty, everything[:size], everything[:size])
    residual = y - x @ coefficients - intercept
    free = ~everything
    free[np.argsort(np.abs(residual))[: BAND * size]] = True
    side = np.where(residual > 0, 1.0, -1.0)
    while True:
        try:
            coefficients, intercept = _fit(x, y, quantile, penalty, free, side)
        except InfeasibleError:  # the fixed sides alone are out of balance, so the sample said too little
            return _fit(x, y, quantile, penalty, everything, side)
        wrong = ~free & ((y - x @ coefficients - intercept) * side < 0)
        if not wrong.any():
            return coefficients, intercept
        free |= wrong


class InfeasibleError(Exception):
    """No fit has all fixed observations on their sides."""


def _fit(x: Array, y: Array, quantile: float, penalty: float, free: NDArray[np.bool_], side: NDArray[Any]) -> tuple[Array, float]:
    """Solve the dual over the free observations, the others lying above (side 1) or below (side -1) the fit.

        maximise sum_i y_i d_i  over quantile - 1 <= d_i <= quantile,  |sum_i x_i d_i| <= n penalty,  sum_i d_i = 0

    An observation above the fit has d_i = quantile, one below quantile - 1; b and c are the multipliers of the constraints.
    """
    count, width = len(y), x.shape[1]
    fixed = np.where(side[~free] > 0, quantile, quantile - 1)
    taken, total = fixed @ x[~free], fixed.sum()
    rows = x[free].T
    solved = linprog(
        -y[free],
        A_ub=np.vstack([rows, -rows]),
        b_ub=np.concatenate([count * penalty - taken, count * penalty + taken]),
        A_eq=np.ones((1, int(free.sum()))),
        b_eq=[-total],
        bounds=(quantile - 1, quantile),
        method="highs-ipm",
    )
    if solved.status == 2:
        raise InfeasibleError
    if solved.status != 0:
        raise ValueError(f"the quantile regression was not solved: {solved.message}")
    upper, lower = np.split(-solved.ineqlin.marginals, [width])
    return upper - lower, float(-solved.eqlin.marginals[0])

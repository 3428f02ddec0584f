"""Residual tests against retrained references (Tier B): equivalence (C1, C2) and accusation (A1, A2).

R references were trained without the forget set. With m a record's mean loss in nats per token, for record i of K

    d_i = mean_r m_i(reference r) - m_i(target)       residual: what the target still remembers of it
    g_i = mean_r m_i(reference r) - m_i(original)     gap: what the original remembered of it
    rho = N / G,  N = mean d_i,  G = mean g_i         0 gone, 1 untouched, below 0 over-forgotten

Two honest retrainings differ, so rho = 0 is the wrong null: under it the target is one more draw from the references' distribution.
With s_M the standard deviation over references of their mean loss on the set, N - x G has the standard error
f(x) = s_M sqrt(1 + (1 - x)^2 / R): the target's own draw, and the references' mean, which enters N - x G with the weight 1 - x. The
K records are the population that the claim is about, not a sample from one.

Two tests certify (both must pass, so no correction is needed), two accuse (each at alpha / 2), all against the margin rho*:

    C1  mean    N - rho* G + t f(rho*) < 0  and  N + rho* G - t f(-rho*) > 0             t = t_{1 - alpha, R - 1}
    C2  spread  rms(d) + t s_M sqrt(1 + 1/R) < 2 rho* rms(g)
    A1  set     N - rho* G > t' f(rho*)  or  N + rho* G < -t' f(-rho*)                   t' = t_{1 - alpha / 4, R - 1}
    A2  records any Benjamini-Hochberg rejection at q = alpha / 2 of H0_i: |d_i| <= rho* g_i

With K = 1 the same tests apply to that record: s_M is its own standard deviation over the references, without shrinkage towards
other records (d0 = 0), and the variance of the target's own draw, which more references do not reduce, counts in full.

C2 prevents over-forgotten records from offsetting remembered ones in the mean; A2 names the records.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from verify.statistics.estimate import Estimate
from verify.statistics.moderation import ModeratedVariances, moderated_variances
from verify.statistics.multiplicity import Rejections, benjamini_hochberg
from verify.statistics.tails import ScaledT, fit_far_tail, fit_scaled_t

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MeanTest:
    """C1 and A1: the two one-sided comparisons of the set's mean residual with the margin.

    Attributes:
        above: (N - rho* G) / f(rho*), positive where more than the margin is remembered.
        below: -(N + rho* G) / f(-rho*), positive where the set is over-forgotten beyond the margin.
        certify_at, accuse_at: critical values t_{1 - alpha} and t_{1 - alpha / 4}, R - 1 degrees of freedom.
        certified: C1. accused: A1.
    """

    above: float
    below: float
    certify_at: float
    accuse_at: float
    certified: bool
    accused: bool


@dataclass(frozen=True, eq=False)
class SpreadTest:
    """C2: the root mean square of the residuals against twice the margin.

    Attributes:
        upper_limit: rms(d) + t s_M sqrt(1 + 1/R), nats per token.
        allowed: 2 rho* rms(g), nats per token.
        certified: whether the limit is below what is allowed.
    """

    upper_limit: float
    allowed: float
    certified: bool


@dataclass(frozen=True, eq=False)
class RecordTest:
    """A2: every record against the margin.

    Attributes:
        statistic: t_i, the larger of the two one-sided statistics [K].
        remembered: whether it is the upper one (else over-forgotten) [K].
        p_values: the largest of the moderated t's and the fitted tails' [K].
        rejections: Benjamini-Hochberg at q = alpha / 2.
        variances: the moderated variances and their prior.
        tail: the tail fitted to the leave-one-reference-out statistics; None with two references, which leave nothing to fit,
            so that no record is accused.
        far_tail: the same fitted to the largest of them alone; None whenever `tail` is.
    """

    statistic: Array
    remembered: NDArray[np.bool_]
    p_values: Array
    rejections: Rejections
    variances: ModeratedVariances
    tail: ScaledT | None
    far_tail: ScaledT | None

    @property
    def accused(self) -> NDArray[np.bool_]:
        """Which records exceed the margin, bool [K]."""
        return self.rejections.rejected


@dataclass(frozen=True, eq=False)
class ResidualVerdict:
    """Outcome of Tier B with every intermediate value.

    Attributes:
        margin, alpha: rho* and the level.
        references, records: R and K.
        residual, gap: d_i and g_i, nats per token [K].
        mean_residual, mean_gap: N and G.
        spread: s_M, nats per token.
        rho: N / G with its 1 - 2 alpha interval (Fieller 1954; its n is R); None where the gap is not distinguishable from zero,
            so that the ratio has no meaning.
        mean_test: C1 and A1. spread_test: C2. record_test: A2.
    """

    margin: float
    alpha: float
    references: int
    records: int
    residual: Array
    gap: Array
    mean_residual: float
    mean_gap: float
    spread: float
    rho: Estimate | None
    mean_test: MeanTest
    spread_test: SpreadTest
    record_test: RecordTest

    @property
    def accused(self) -> bool:
        """Whether A1 or A2 found a residual beyond the margin."""
        return self.mean_test.accused or bool(self.record_test.accused.any())

    @property
    def certified(self) -> bool:
        """Whether C1 and C2 hold and nothing is accused: equivalence within the margin."""
        return self.mean_test.certified and self.spread_test.certified and not self.accused

    @property
    def outcome(self) -> Literal["NOT_FORGOTTEN", "EQUIVALENT_WITHIN", "INCONCLUSIVE"]:
        """The verdict of these tests alone, before the gates of the audit."""
        if self.accused:
            return "NOT_FORGOTTEN"
        return "EQUIVALENT_WITHIN" if self.certified else "INCONCLUSIVE"


@dataclass(frozen=True, eq=False)
class ReferencePanel:
    """Statistics of the references among themselves, which do not depend on the target and are computed once.

    Attributes:
        losses: mean losses, nats per token [R, K].
        mean: over references [K].
        spread: s_M, standard deviation over references of their mean loss on the set.
        variances: moderated variances per record.
        tail, far_tail: of the leave-one-reference-out statistics, all of them and the largest; None for R = 2.
    """

    losses: Array
    mean: Array
    spread: float
    variances: ModeratedVariances
    tail: ScaledT | None
    far_tail: ScaledT | None


def reference_panel(references: ArrayLike) -> ReferencePanel:
    """Prepare references for judging several targets.

    Args:
        references: mean losses of the K forget records under each reference, nats per token [R, K], R >= 2, K >= 1.

    Returns:
        the references' statistics, for `residual_verdict`.

    Raises:
        ValueError: the shape does not fit, a loss is not finite, R < 2 (one reference shows no spread), or references that
            do not differ (the same model given twice).
    """
    refs = np.asarray(references, dtype=np.float64)
    if refs.ndim != 2 or refs.shape[1] < 1:
        raise ValueError(f"expected losses [R, K] with at least 1 record, got {refs.shape}")
    if len(refs) < 2:
        raise ValueError("one reference shows no spread between honest retrainings; give at least 2, better 4 to 8")
    if not np.isfinite(refs).all():
        raise ValueError("losses must be finite")
    # s_M is of the models' means over the set: independent between models, while records of one model are not.
    spread = float(refs.mean(axis=1).std(ddof=1))
    # A copy would pass for an independent retraining and make the spread too small.
    if spread == 0 or len(np.unique(refs, axis=0)) < len(refs):
        raise ValueError("the references do not differ: give models trained with different seeds, each once")
    variances = moderated_variances(refs.var(axis=0, ddof=1), len(refs) - 1)
    left_out = leave_one_out_statistics(refs) if len(refs) >= 3 else None
    tail, far_tail = (None, None) if left_out is None else (fit_scaled_t(left_out), fit_far_tail(left_out))
    return ReferencePanel(refs, refs.mean(axis=0), spread, variances, tail, far_tail)


def residual_verdict(
    original: ArrayLike,
    target: ArrayLike,
    references: ArrayLike | ReferencePanel,
    margin: float = 0.10,
    alpha: float = 0.05,
    share: float = 1.0,
) -> ResidualVerdict:
    """Judge a target against retrained references.

    Args:
        original, target: mean losses of the K forget records, nats per token [K], K >= 1.
        references: the same under each reference [R, K], R >= 2, or the `reference_panel` of them.
        margin: rho*, the largest residual fraction that counts as forgotten, in (0, 1).
        alpha: level, in (0, 0.5). Certification uses all of it.
        share: the share of it that accusations use, in (0, 1]; other tests of the same claim have the rest.

    Returns:
        the outcome with every intermediate value.

    Raises:
        ValueError: shapes do not fit, a loss is not finite, a level is out of range, or as `reference_panel`.
    """
    if not 0 < margin < 1 or not 0 < alpha < 0.5 or not 0 < share <= 1:
        raise ValueError(f"margin and share lie in (0, 1) and alpha in (0, 0.5), got {margin}, {share} and {alpha}")
    panel = references if isinstance(references, ReferencePanel) else reference_panel(references)
    m0, m1 = (np.asarray(values, dtype=np.float64) for values in (original, target))
    if m0.shape != panel.mean.shape or m1.shape != panel.mean.shape:
        raise ValueError(f"expected losses of {len(panel.mean)} records, got shapes {m0.shape} and {m1.shape}")
    if not np.isfinite(m0).all() or not np.isfinite(m1).all():
        raise ValueError("losses must be finite")
    count = len(panel.losses)
    d, g = panel.mean - m1, panel.mean - m0  # residuals and gaps, positive where target or original know a record better [K]
    n, gap = float(d.mean()), float(g.mean())
    t = float(stats.t.ppf(1 - alpha, count - 1))
    # s_M sqrt(1 + 1/R) is f(0), the standard error of the mean residual.
    upper = _rms(d) + t * panel.spread * np.sqrt(1 + 1 / count)
    allowed = 2 * margin * _rms(g)
    return ResidualVerdict(
        margin=margin,
        alpha=alpha,
        references=count,
        records=len(d),
        residual=d,
        gap=g,
        mean_residual=n,
        mean_gap=gap,
        spread=panel.spread,
        rho=_fieller(n, gap, panel.spread, count, alpha),
        mean_test=_mean_test(n, gap, panel.spread, count, margin, alpha, share),
        spread_test=SpreadTest(float(upper), float(allowed), bool(upper < allowed)),
        record_test=_record_test(d, g, panel, margin, alpha * share),
    )


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _mean_test(n: float, gap: float, spread: float, count: int, margin: float, alpha: float, share: float) -> MeanTest:
    def standard_error(x: float) -> float:
        return spread * float(np.sqrt(1 + (1 - x) ** 2 / count))

    # Positive where the bound is exceeded; C1 needs both clearly negative, A1 needs one clearly positive.
    above = (n - margin * gap) / standard_error(margin)
    below = -(n + margin * gap) / standard_error(-margin)
    certify, accuse = (float(stats.t.ppf(1 - level, count - 1)) for level in (alpha, alpha * share / 4))
    return MeanTest(above, below, certify, accuse, max(above, below) < -certify, max(above, below) > accuse)


def _fieller(n: float, gap: float, spread: float, count: int, alpha: float) -> Estimate | None:
    """Solve Fieller's quadratic inequality for its interval: all x with |N - x G| <= t f(x), that is a x^2 - 2 b x + rest <= 0."""
    c = float(stats.t.ppf(1 - alpha, count - 1) * spread) ** 2
    a, b, rest = gap**2 - c / count, n * gap - c / count, n**2 - c * (1 + 1 / count)
    if gap <= 0 or a <= 0:  # a <= 0: the gap is within its own error, and the solution set is unbounded
        return None
    root = float(np.sqrt(max(b**2 - a * rest, 0.0)))
    return Estimate(n / gap, min((b - root) / a, n / gap), max((b + root) / a, n / gap), count, 1 - 2 * alpha)


def _record_test(d: Array, g: Array, panel: ReferencePanel, margin: float, alpha: float) -> RecordTest:
    count, moderated = len(panel.losses), panel.variances
    # Where the original fits a record no better than the references do (g <= 0), the margin is zero, never negative.
    allowed = margin * np.maximum(g, 0.0)
    error_above, error_below = (np.sqrt(moderated.variances * (1 + (1 - x) ** 2 / count)) for x in (margin, -margin))
    above, below = (d - allowed) / error_above, (-d - allowed) / error_below
    statistic, width = np.maximum(above, below), 2 * allowed / error_below
    p = np.ones_like(statistic)  # without a fitted tail no record is accused
    tails = [tail for tail in (panel.tail, panel.far_tail) if tail is not None]
    if tails:
        nominal = stats.t(moderated.degrees) if np.isfinite(moderated.degrees) else stats.norm()
        fitted = [stats.t(tail.degrees, scale=tail.scale) for tail in tails]
        p = np.max([_interval_p(distribution, statistic, width) for distribution in (nominal, *fitted)], axis=0)
    return RecordTest(statistic, above >= below, p, benjamini_hochberg(p, alpha / 2), moderated, panel.tail, panel.far_tail)


def _interval_p(distribution: Any, statistic: Array, width: Array) -> Array:
    """Largest Pr[max(above, below) > t] over |d_i| <= rho* g_i, reached at the ends (Hodges and Lehmann 1954).

    Where the margin is small against the noise, the opposite limit can be exceeded by chance too, hence the second term.
    """
    return np.asarray(np.minimum(distribution.sf(statistic) + distribution.sf(statistic + width), 1.0), dtype=np.float64)


def leave_one_out_statistics(references: ArrayLike) -> Array:
    """Judge each reference by the others, as a target with nothing left would be; returns t statistics [R * K].

    Args:
        references: mean losses, nats per token [R, K], R >= 3.
    """
    refs = np.asarray(references, dtype=np.float64)
    count = len(refs)
    statistics = []
    for held_out in range(count):
        others = np.delete(refs, held_out, axis=0)
        # R - 1 references remain, so their variances have R - 2 degrees of freedom.
        variances = moderated_variances(others.var(axis=0, ddof=1), count - 2).variances
        statistics.append((others.mean(axis=0) - refs[held_out]) / np.sqrt(variances * (1 + 1 / (count - 1))))
    return np.concatenate(statistics)

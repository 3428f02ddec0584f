"""Residual tests against retrained references (Tier B): equivalence (C1, C2) and accusation (A1, A2, A3).

R references were trained without the forget set. With m a record's mean loss in nats per token, for record i of K

    d_i = mean_r m_i(reference r) - m_i(target)       residual: what the target still remembers of it
    g_i = mean_r m_i(reference r) - m_i(original)     gap: what the original remembered of it
    rho = N / G,  N = mean d_i,  G = mean g_i         0 gone, 1 untouched, below 0 over-forgotten

Two honest retrainings differ, so rho = 0 is the wrong null: under it the target is one more draw from the references' distribution.
With s_M the standard deviation over references of their mean loss on the set, N - x G has the standard error
f(x) = s_M sqrt(1 + (1 - x)^2 / R): the target's own draw, and the references' mean, which enters N - x G with the weight 1 - x. The
K records are the population that the claim is about, not a sample from one.

Two tests certify (both must pass, so no correction is needed), the others accuse (they share alpha), all against the margin rho*:

    C1  mean     N - rho* G + t f(rho*) < 0  and  N + rho* G - t f(-rho*) > 0             t = t_{1 - alpha, R - 1}
    C2  spread   E + t se_E < (2 rho*)^2 mean g^2,  E = mean d^2 - noise of the controls
        without controls:  rms(d) + t s_M sqrt(1 + 1/R) < 2 rho* rms(g)
    A1  set      N - rho* G > t' f(rho*)  or  N + rho* G < -t' f(-rho*)                   t' = t_{1 - alpha / 4, R - 1}
    A2  records  any Benjamini-Hochberg rejection of H0_i: |d_i| <= rho* g_i
    A3  subjects any Holm rejection of the same of subject means: one person wholly kept among hundreds

A1 has half of alpha, A2 and A3 the other half, divided equally where A3 applies (two or more subjects, one of them with several
records). Where never-trained controls were scored, the variances of A2 and A3 are multiplied by lambda (`controls`).

With K = 1 the same tests apply to that record: s_M is its own standard deviation over the references, without shrinkage towards
other records (d0 = 0), and the variance of the target's own draw, which more references do not reduce, counts in full.

C2 prevents over-forgotten records from offsetting remembered ones in the mean; A2 and A3 name records and subjects.

Rule 1 is what versions before channels computed (C2 without controls, no lambda, no A3); their evidence recomputes under it.

Tried and left out, on simulated audits (40 records, 4 references unless said):
- Moderation and tails within terciles of the references' variance: classes chosen by the very variance they use accuse 7 % (normal
  errors, nominal 2.5) to 84 % (t4, 400 records) of honest retrainings. With classes formed again for each reference left out the
  level holds and nothing is gained: a person keeping 0.6 among 40 records padded with 40 noisy ones is found in 6 % against 1 %.
  Within terciles of g: 2 of 100 records keeping half are found in 70 instead of 77 %, and t(2.5) errors accuse more, not fewer.
- No p-value of A2 below 1 / (R K + 1): with it no case with few records is ever found (2 of 40 wholly kept: 99 % without, 0 with),
  because Benjamini-Hochberg then needs half of the records at the floor.
- The tails' degrees of freedom at their lower confidence limit: t(2.5) errors accuse 1.5 instead of 4.5 %, but 2 of 40 wholly kept
  are found in 87 instead of 97 %, 2 of 100 keeping half in 40 instead of 63 %.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verify.statistics.controls import Controls, ExcessSpread, NoiseRatio, excess_spread, noise_ratio
from verify.statistics.critical_values import t_quantile
from verify.statistics.estimate import Estimate
from verify.statistics.multiplicity import benjamini_hochberg, holm
from verify.statistics.panel import ReferencePanel, reference_panel
from verify.statistics.record_test import RecordTest, record_test
from verify.statistics.subjects import subject_means

Array = NDArray[np.float64]
Rule = Literal[1, 2, 3, 4]
"""Version of the rule: 1 as before channels, 2 with controls and subjects, 3 and 4 by a level table (`level_table`)."""


@dataclass(frozen=True, eq=False)
class MeanTest:
    """C1 and A1: the two one-sided comparisons of the set's mean residual with the margin.

    Attributes:
        above: (N - rho* G) / f(rho*), positive where more than the margin is remembered.
        below: -(N + rho* G) / f(-rho*), positive where the set is over-forgotten beyond the margin.
        certify_at, accuse_at: critical values t_{1 - alpha} and t_{1 - alpha share / 4}, R - 1 degrees of freedom.
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
        upper_limit: with controls sqrt(E + t se_E), 0 where that is negative, else rms(d) + t s_M sqrt(1 + 1/R); nats per token.
        allowed: 2 rho* rms(g), nats per token.
        certified: whether the limit is below what is allowed.
        beyond_noise: E and its error; None without controls, where noise counts as residual.
    """

    upper_limit: float
    allowed: float
    certified: bool
    beyond_noise: ExcessSpread | None = None


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
        subject_test: A3, in the order of the subjects' sorted names; None where it does not apply.
        noise: lambda; None where it was not measured, so that the target counts as no noisier than the references.
        rule: the version of the rule.
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
    subject_test: RecordTest | None = None
    noise: NoiseRatio | None = None
    rule: Rule = 1

    @property
    def accused(self) -> bool:
        """Whether A1, A2 or A3 found a residual beyond the margin."""
        units = [test for test in (self.record_test, self.subject_test) if test is not None]
        return self.mean_test.accused or any(bool(test.accused.any()) for test in units)

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


def residual_verdict(
    original: ArrayLike,
    target: ArrayLike,
    references: ArrayLike | ReferencePanel,
    margin: float = 0.10,
    alpha: float = 0.05,
    share: float = 1.0,
    controls: Controls | None = None,
) -> ResidualVerdict:
    """Judge a target against retrained references.

    Args:
        original, target: mean losses of the K forget records, nats per token [K], K >= 1.
        references: the same under each reference [R, K], R >= 2, or the `reference_panel` of them. A panel with subjects is judged
            by rule 2, everything else by rule 1.
        margin: rho*, the largest residual fraction that counts as forgotten, in (0, 1).
        alpha: level, in (0, 0.5). Certification uses all of it.
        share: the share of it that accusations use, in (0, 1]; other tests of the same claim have the rest.
        controls: losses of never-trained controls under the same models; needs a panel with subjects.

    Returns:
        the outcome with every intermediate value.

    Raises:
        ValueError: shapes do not fit, a loss is not finite, a level is out of range, controls without subjects, or as
            `reference_panel`.
    """
    if not 0 < margin < 1 or not 0 < alpha < 0.5 or not 0 < share <= 1:
        raise ValueError(f"the margin lies in (0, 1), alpha in (0, 0.5) and share in (0, 1], got {margin}, {alpha} and {share}")
    panel = references if isinstance(references, ReferencePanel) else reference_panel(references)
    if controls is not None and (panel.numbers is None or len(controls.references) != len(panel.losses)):
        raise ValueError("controls are used with a panel that was given subjects, and need the same references")
    m0, m1 = (np.asarray(values, dtype=np.float64) for values in (original, target))
    if m0.shape != panel.mean.shape or m1.shape != panel.mean.shape:
        raise ValueError(f"expected losses of {len(panel.mean)} records, got shapes {m0.shape} and {m1.shape}")
    if not np.isfinite(m0).all() or not np.isfinite(m1).all():
        raise ValueError("losses must be finite")
    count = len(panel.losses)
    d, g = panel.mean - m1, panel.mean - m0  # residuals and gaps, positive where target or original know a record better [K]
    n, gap = float(d.mean()), float(g.mean())
    noise = None if controls is None else noise_ratio(controls, alpha)
    records, subjects = _unit_tests(d, g, panel, margin, share * alpha / 2, noise)
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
        spread_test=_spread_test(d, g, panel, margin, alpha, controls),
        record_test=records,
        subject_test=subjects,
        noise=noise,
        rule=1 if panel.numbers is None else 2,
    )


def _unit_tests(
    d: Array, g: Array, panel: ReferencePanel, margin: float, level: float, noise: NoiseRatio | None
) -> tuple[RecordTest, RecordTest | None]:
    """Run A2 and, where it differs from A2, A3; together at `level`."""
    of_records, of_subjects = (1.0, 1.0) if noise is None else (noise.applied, noise.applied_by_subject)
    if panel.by_subject is None or panel.numbers is None:
        return record_test(d, g, panel, margin, partial(benjamini_hochberg, q=level), of_records), None
    own, gaps = (subject_means(values, panel.numbers) for values in (d, g))
    return (
        record_test(d, g, panel, margin, partial(benjamini_hochberg, q=level / 2), of_records),
        record_test(own, gaps, panel.by_subject, margin, partial(holm, level=level / 2), of_subjects),
    )


def _spread_test(d: Array, g: Array, panel: ReferencePanel, margin: float, alpha: float, controls: Controls | None) -> SpreadTest:
    count, allowed = len(panel.losses), 2 * margin * _rms(g)
    beyond = None
    if controls is not None and panel.numbers is not None:
        beyond = excess_spread(d, panel.losses, panel.numbers, controls)
    if beyond is None:
        t = t_quantile(1 - alpha, count - 1)
        # s_M sqrt(1 + 1/R) is f(0), the standard error of the mean residual.
        upper = float(_rms(d) + t * panel.spread * np.sqrt(1 + 1 / count))
    else:
        limit = beyond.excess + t_quantile(1 - alpha, beyond.degrees) * beyond.standard_error
        upper = float(np.sqrt(max(limit, 0.0)))
    return SpreadTest(upper, float(allowed), bool(upper < allowed), beyond)


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _mean_test(n: float, gap: float, spread: float, count: int, margin: float, alpha: float, share: float) -> MeanTest:
    def standard_error(x: float) -> float:
        return spread * float(np.sqrt(1 + (1 - x) ** 2 / count))

    # Positive where the bound is exceeded; C1 needs both clearly negative, A1 needs one clearly positive.
    above = (n - margin * gap) / standard_error(margin)
    below = -(n + margin * gap) / standard_error(-margin)
    certify, accuse = (t_quantile(1 - level, count - 1) for level in (alpha, share * alpha / 4))
    return MeanTest(above, below, certify, accuse, max(above, below) < -certify, max(above, below) > accuse)


def _fieller(n: float, gap: float, spread: float, count: int, alpha: float) -> Estimate | None:
    """Solve Fieller's quadratic inequality for its interval: all x with |N - x G| <= t f(x), that is a x^2 - 2 b x + rest <= 0."""
    c = (t_quantile(1 - alpha, count - 1) * spread) ** 2
    a, b, rest = gap**2 - c / count, n * gap - c / count, n**2 - c * (1 + 1 / count)
    if gap <= 0 or a <= 0:  # a <= 0: the gap is within its own error, and the solution set is unbounded
        return None
    root = float(np.sqrt(max(b**2 - a * rest, 0.0)))
    return Estimate(n / gap, min((b - root) / a, n / gap), max((b + root) / a, n / gap), count, 1 - 2 * alpha)

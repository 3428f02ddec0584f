"""Audit by a level table: the record claim against models that were trained once, before any request.

A pool of M models, each trained without a random part of the subjects, scored what it never saw; a signed table holds the numbers.
Models trained on a part of the data have another level and another slope than the target, so they are no references: they
normalise. Controls, which neither the pool nor the original nor the target was trained on, calibrate the levels l (`level_fit`) for
the target and the original, and their residuals are the noise under which the forget set is judged:

    d_i = a + b l_i - m_i(target)       r_c = the same of a control, by the line of the other control subjects
    g_i = a0 + b0 l_i - m_i(original)   r0_c likewise;   N, G: means over subjects of their means of d and g
    se(N - x G)^2 = s^2 u / n_F + jackknife variance of the line at lbar_F,   s^2 = sum_C rbar_s^2 / (n_C - 2) of the outcome
                    m(target) - x m(original);   u >= 1: variance of forget subjects between models in units of control subjects',
                    from their numbers of records and the pool's variances of records

    C1'  N - rho* G + t se(N - rho* G) < 0  and  -N - rho* G + t se(N + rho* G) < 0            t = t_{1 - alpha, n_C - 2}
    C2'  E + t se_E < (2 rho*)^2 (mean_F g^2 - mean_C r0^2),   E = mean_F d^2 - mean_C r^2      means by subject
    A1'  either statistic of C1' above t_{1 - alpha / 4, n_C - 2}
    A2'  records: t_i = (|d_i| - rho* g_i) / sqrt(lambda v_i (1 + 1/R)), Benjamini-Hochberg     v moderated over both sides, along l
         lambda = max(1, mean_C r^2 / mean_C v (1 + 1/R)); the tail is fitted to the controls' own statistics
    A3'  subjects: the same of subject means, Holm; only where there are several subjects, one of them with several records

Rule 3 is what earlier versions computed (v of A2' moderated to one prior, whatever l); their evidence recomputes under it.

A1' has half of the level, A2' and A3' the other half. The error comes from the target's own residuals on controls: a target of
another length or with more noise is not accused for that, and its own model effect cancels, which no number of retrained references
achieves. Other channels make the same contrast (`channels`); the precision asked of them is the original's on the controls,
which the target cannot influence.

What simulation showed of plainer formulas (20 control subjects, M = 8, R = 4 unless said):
- Least squares without the reliability of l: of forget records a standard deviation harder than the controls N / G is off by -0.020
  (reliability 0.92), of records 0.3 nats harder at a reliability of 0.65 by -0.027; with it by 0.001 and 0.002.
- Without u: where forget subjects have one record and control subjects eight, or controls half the noise, the standard error is
  0.70 to 0.77 of the true deviation, and 9 % are certified at the margin; with it 1.0 or more, and 6 %.
- A separate fit to the far tail of the controls' residuals changed no verdict in 1,500 audits with t4 errors, and is left out.
- Weak: R = 2 finds one whole subject of twenty in 83 %; at a gap of four noise deviations hardly anything is certified.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from verify.statistics.channels import EXACT_TEXT
from verify.statistics.contrasts import CHANNEL_SHARE, ChannelsVerdict, ChannelTest, judge_contrasts
from verify.statistics.controls import ExcessSpread, NoiseRatio
from verify.statistics.critical_values import f_quantile, t_quantile
from verify.statistics.estimate import Estimate
from verify.statistics.level_contrast import TableContrast, TableLosses
from verify.statistics.level_fit import MIN_CONTROL_SUBJECTS, Calibration
from verify.statistics.level_units import NONE_UNASKED, Conformal, Unasked, conformal, unit_tests
from verify.statistics.residual import MeanTest, ResidualVerdict, Rule, SpreadTest
from verify.statistics.subjects import subject_means
from verify.statistics.two_samples import TINY, difference_error

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TableFit:
    """The calibration of levels on controls, exact text: what the target and the original would lose on a record never trained on.

    Attributes:
        a, b: level and slope for the target: it loses a + b l on a record of level l, nats per token.
        a0, b0: the same for the original.
        reliability: kappa, share of the controls' variance of l that is not noise of the pool; the slopes are corrected for it.
        levels, control_levels: l_i [K] and l_c [N], nats per token.
        standard_error, degrees: of N - rho* G, nats per token, and its degrees of freedom.
        subjects, control_subjects: n_F and n_C.
        models: R, pool models that left a record out.
        noise: variance of the target's residuals on controls in units of the original's, which saw no control either and is trained
            as the target should be. Noise that a target has on controls widens every error: where it is not `trained_alike`, what
            it kept of one subject among hundreds may hide in that.
    """

    a: float
    b: float
    a0: float
    b0: float
    reliability: float
    levels: Array
    control_levels: Array
    standard_error: float
    degrees: float
    subjects: int
    control_subjects: int
    models: int
    noise: NoiseRatio


@dataclass(frozen=True, eq=False)
class TableResidual(ResidualVerdict):
    """The residual test of an audit by a level table; one subject can be accused, never certified.

    Attributes:
        several: whether the records are about more than one subject.
    """

    several: bool = True

    @property
    def certified(self) -> bool:
        """Whether C1' and C2' hold, nothing is accused, and there is more than one subject."""
        return super().certified and self.several


@dataclass(frozen=True, eq=False)
class TableVerdict:
    """Outcome of an audit by a level table.

    Attributes:
        residual: C1', C2', A1', A2', A3' on the exact text, in the classes of the residual test; its `references` is R, its
            `spread` the standard error of N, its rule 3 or 4.
        channels: the tests on every channel, the exact text first.
        fit: the calibration on the exact text.
        conformal: distribution-free p-values per subject.
        share: the share of alpha that accusations used.
    """

    residual: TableResidual
    channels: ChannelsVerdict
    fit: TableFit
    conformal: Conformal
    share: float = 1.0

    @property
    def tests(self) -> tuple[ChannelTest, ...]:
        """One test per channel, the exact text first."""
        return self.channels.tests

    @property
    def noise(self) -> float | None:
        """Lambda of the record test; None where it could not be estimated."""
        return None if self.residual.noise is None else self.residual.noise.applied

    @property
    def accused(self) -> bool:
        """Whether any test on any channel found a residual beyond the margin."""
        return self.residual.accused or self.channels.accused

    @property
    def p_value(self) -> float:
        """The smallest alpha at which these tests accuse, at most 1.

        It is that of the accusations' shares and corrections; which channels are valid was decided at the audit's own alpha.
        """
        judged = self.residual
        share = self.share * (1 - CHANNEL_SHARE) if len(self.tests) > 1 else self.share
        units = [test for test in (judged.record_test, judged.subject_test) if test is not None]
        # A1' has half of the share in two directions; A2' and A3' the other half together.
        of_set = 4 * float(stats.t.sf(max(judged.mean_test.above, judged.mean_test.below), self.fit.degrees))
        smallest = [of_set, *(2 * len(units) * float(test.rejections.adjusted.min()) for test in units)]
        asked = [test.p_value / self.channels.share for test in self.tests]
        return min(1.0, *(p / share for p in smallest), *asked)

    @property
    def certified(self) -> bool:
        """Whether C1' and C2' hold, every channel that may certify does, and nothing is accused."""
        return self.residual.certified and self.channels.certified


def judge_table(
    losses: Mapping[str, TableLosses],
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float,
    alpha: float,
    seed: int,
    texts: Sequence[Hashable] | None = None,
    share: float = 1.0,
    unasked: Unasked = NONE_UNASKED,
    rule: Rule = 4,
    chosen_at: float | None = None,
) -> TableVerdict:
    """Judge a target by a level table.

    Args:
        losses: by channel, "exact text" among them.
        subjects: whom each forget record is about [K]; a record without a subject is its own.
        control_subjects: the same for the controls [N], at least `MIN_CONTROL_SUBJECTS` different ones.
        margin: rho*, the largest residual fraction that counts as forgotten, in (0, 1).
        alpha: level, in (0, 0.5). Certification uses all of it; accusations share it.
        seed: draws which R pool models stand for each control subject; a number from the table's committed design.
        texts: anything equal for records of equal text [K]: in the test per record a text counts once.
        share: the share of alpha that accusations use, in (0, 1].
        unasked: further records and subjects that the tests per record and subject are corrected for.
        rule: 4; 3 for what older versions computed, with one prior for the variances of all records in A2'.
        chosen_at: as for `verify.statistics.channels.judge_channels`.

    Returns:
        the outcome on every channel with every intermediate value.

    Raises:
        ValueError: shapes do not fit, a loss is infinite, no exact text, too few control subjects, records that different
            numbers of pool models left out, or another rule.
    """
    if not 0 < margin < 1 or not 0 < alpha < 0.5 or not 0 < share <= 1:
        raise ValueError(f"the margin lies in (0, 1), alpha in (0, 0.5) and share in (0, 1], got {margin}, {alpha} and {share}")
    if rule not in (3, 4):
        raise ValueError(f"a level table judges by rule 3 or 4, got {rule}")
    if EXACT_TEXT not in losses:
        raise ValueError(f'expected the losses of the channel "{EXACT_TEXT}", got {list(losses)}')
    contrasts = {name: TableContrast.of(channel, subjects, control_subjects, seed) for name, channel in losses.items()}
    exact = contrasts[EXACT_TEXT]
    if exact.calibration is None or len(exact.calibration.residual) < len(subjects):
        raise ValueError(
            f"on the exact text every record has to be scored, and controls about {MIN_CONTROL_SUBJECTS} subjects; got "
            f"{exact.counts[0]} subjects of the forget set and {exact.counts[1]} of the controls"
        )
    channels = judge_contrasts(contrasts, margin, alpha, share * CHANNEL_SHARE, chosen_at)
    # Alone, the channel of the exact text accuses nothing that A1' does not.
    rest = share * (1 - CHANNEL_SHARE) if len(losses) > 1 else share
    rho = next(test.residual for test in channels.tests if test.name == EXACT_TEXT)
    judged = _residual(exact.calibration, rho, margin, alpha, rest, texts, unasked, rule)
    return TableVerdict(judged, channels, _described(exact.calibration, margin, alpha), conformal(exact.calibration, margin), share)


def _residual(
    found: Calibration,
    rho: Estimate | None,
    margin: float,
    alpha: float,
    share: float,
    texts: Sequence[Hashable] | None,
    unasked: Unasked,
    rule: Rule,
) -> TableResidual:
    """Judge the exact text: C1', C2', A1', A2' and A3', the accusations at `share` of alpha."""
    n, gap = float(found.subject_residual.mean()), float(found.subject_gap.mean())
    records, by_subject, noise = unit_tests(found, margin, share * alpha / 2, alpha, texts, unasked, one_prior=rule == 3)
    return TableResidual(
        margin=margin,
        alpha=alpha,
        references=len(found.forget.unseen),
        records=len(found.residual),
        residual=found.residual,
        gap=found.gap,
        mean_residual=n,
        mean_gap=gap,
        spread=found.standard_error(1.0, 0.0).size,
        rho=rho,
        mean_test=_mean_test(found, n, gap, margin, alpha, share),
        spread_test=_spread_test(found, margin, alpha),
        record_test=records,
        subject_test=by_subject,
        noise=noise,
        rule=rule,
        several=found.forget.subjects > 1,
    )


def _mean_test(found: Calibration, n: float, gap: float, margin: float, alpha: float, share: float) -> MeanTest:
    above, below = ((sign * n - margin * gap) / found.standard_error(1.0, -sign * margin).size for sign in (1, -1))
    certify, accuse = (t_quantile(1 - level, found.degrees) for level in (alpha, share * alpha / 4))
    return MeanTest(above, below, certify, accuse, max(above, below) < -certify, max(above, below) > accuse)


def _spread_test(found: Calibration, margin: float, alpha: float) -> SpreadTest:
    """Test C2': the mean square of d beyond the target's noise, against that of g beyond the original's."""
    # Controls noisier than the forget set would hide remembered records in "noise": the pool shows by how much they are.
    scale = min(1.0, float(found.forget.variances.mean() / found.control.variances.mean()))
    forget, control = found.forget.numbers, found.control.numbers
    own, noise = subject_means(found.residual**2, forget), subject_means(scale * found.control_residual**2, control)
    error = difference_error(own, noise)
    excess = float(own.mean() - noise.mean())
    limit = excess + t_quantile(1 - alpha, error.degrees) * error.size
    # The noise of g would widen what is allowed where the gap is small.
    gaps = float(subject_means(found.gap**2, forget).mean() - subject_means(found.control_gap**2, control).mean())
    upper, allowed = float(np.sqrt(max(limit, 0.0))), 2 * margin * float(np.sqrt(max(gaps, 0.0)))
    beyond = ExcessSpread(excess, float(noise.mean()), error.size, error.degrees)
    return SpreadTest(upper, allowed, upper < allowed, beyond)


def _described(found: Calibration, margin: float, alpha: float) -> TableFit:
    error = found.standard_error(1.0, -margin)
    return TableFit(
        a=float(found.target.a[0]),
        b=float(found.target.b[0]),
        a0=float(found.original.a[0]),
        b0=float(found.original.b[0]),
        reliability=float(found.target.reliability[0]),
        levels=found.forget.levels,
        control_levels=found.control.levels,
        standard_error=error.size,
        degrees=error.degrees,
        subjects=found.forget.subjects,
        control_subjects=found.control.subjects,
        models=len(found.forget.unseen),
        noise=_noise_against_original(found, alpha),
    )


def _noise_against_original(found: Calibration, alpha: float) -> NoiseRatio:
    """Compare residuals on controls; both share the noise of the levels, so that the F distribution's limit is a wide one."""
    numbers, subjects = found.control.numbers, found.control.subjects
    both = found.control_residual, found.control_gap
    records = [max(float(np.mean(values**2)), TINY) for values in both]
    means = [max(float(np.mean(subject_means(values, numbers) ** 2)), TINY) for values in both]
    ratio = records[0] / records[1]
    quantile = f_quantile(1 - alpha, found.degrees, found.degrees)
    return NoiseRatio(ratio, ratio / quantile, means[0] / means[1], len(numbers), subjects)

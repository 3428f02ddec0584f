"""Channel tests: whether a model asked in another way still knows the forget set, against never-trained controls.

A channel is one way of asking a model about the records (their exact text, a rewording, a middle layer, reduced precision). It
gives one mean loss m per record, in nats per token. R references were trained without the forget set; controls are records that
no model was trained on. Per record, as in the residual test,

    d = mean_r m(reference r) - m(target)       g = mean_r m(reference r) - m(original)

and per subject their means. Records of one subject rise and fall together, so subjects are the units: n_F in the forget set, n_C
among the controls. Controls are contrasted out, so that a change that touches all text alike (precision, a prefix) cancels:

    N = mean_F d - mean_C d,    G = mean_F g - mean_C g,    N / G: 1 untouched, 0 as retrained
    T = max[(N - rho* G) / se(d - rho* g),  (-N - rho* G) / se(d + rho* g)]

    accuse   2 C p(T) < share alpha on any of C valid channels        (Bonferroni, both directions)
    certify  T < -t_{1 - alpha} on every channel that may certify     (intersection-union: no correction)

A channel is valid where G >= 0.5 nats and the same rule accuses the original: one on which the original itself stays hidden proves
nothing. It is asked for a certificate where moreover an honest retraining would pass it with a probability of 95 %, by the standard
error that the references show when each is judged by the others: se <= rho* G / (t_{1 - alpha} + 1.96), 0.027 G at the defaults.
At 0.04 G an honest retraining passes one channel in 56 %, so that a certificate over several would hardly ever be given.

Standard errors hold for few subjects and for unequal variances (`two_samples`).

Bonferroni instead of the maximum over permutations of the subjects' labels: in simulation (12 channels, residual 0.2 on all or
0.35 on one, 20 against 20 subjects) permutations find 0 to 6 points more where the channels' noise correlates at 0.5 and up to 15
where it correlates at 0.9. But one person against 20 controls has a smallest permutation p-value of 1/21, which no correction
survives, and most deletion requests are of one person. One rule for all, without random numbers, is worth the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from verify.statistics.estimate import Estimate
from verify.statistics.subjects import rank_within, subject_means, subject_numbers
from verify.statistics.two_samples import StandardError, difference_error

Array = NDArray[np.float64]

EXACT_TEXT = "exact text"
"""The channel of the audit's own pass, which every certificate rests on."""

MIN_GAP = 0.5
"""Smallest contrast of the original, nats per token, on which a channel is judged."""

PASSES = 0.95
"""Probability with which an honest retraining must pass a channel for the channel to be asked for a certificate."""

CHANNEL_SHARE = 0.25
"""Share of alpha that accusations by channels use; the residual test (A1 to A3) has the rest, which rests on fewer units."""


@dataclass(frozen=True, eq=False)
class ChannelLosses:
    """Losses on one channel, in nats per token; NaN where a record was not scored on it.

    Attributes:
        original, target: forget records [K].
        references: forget records under each reference [R, K].
        control_original, control_target: controls [N].
        control_references: controls under each reference [R, N].
    """

    original: Array
    target: Array
    references: Array
    control_target: Array
    control_original: Array
    control_references: Array


@dataclass(frozen=True)
class ChannelTest:
    """Outcome on one channel.

    Attributes:
        name: of the channel.
        subjects, control_subjects: n_F and n_C, those with a scored record.
        contrast, gap: N and G, nats per token; None where either side has no scored record.
        standard_error: of the larger of the two one-sided statistics, nats per token; None where it cannot be estimated.
        statistic: T; None as above.
        p_value: 2 C p(T), at most 1; 1 where the channel is not valid.
        direction: "remembered" or "over-forgotten", the side of the larger statistic.
        valid: whether the channel may accuse. certifiable: whether it may certify.
        reason: why it may not, one plain sentence; empty where it may do both.
        accused, certified: the outcome.
        residual: N / G with its 1 - 2 alpha interval (delta method; its n is n_F); None where there is no gap.
    """

    name: str
    subjects: int
    control_subjects: int
    contrast: float | None
    gap: float | None
    standard_error: float | None
    statistic: float | None
    p_value: float
    direction: Literal["remembered", "over-forgotten"]
    valid: bool
    certifiable: bool
    reason: str
    accused: bool
    certified: bool
    residual: Estimate | None


@dataclass(frozen=True)
class ChannelsVerdict:
    """Outcome over all channels.

    Attributes:
        tests: one per channel, in the order given.
        margin, alpha, share: rho*, the level, and the share of it that accusations use.
    """

    tests: tuple[ChannelTest, ...]
    margin: float
    alpha: float
    share: float

    @property
    def valid(self) -> int:
        """C: how many channels could accuse."""
        return sum(test.valid for test in self.tests)

    @property
    def accused(self) -> bool:
        """Whether any channel shows a residual beyond the margin, corrected for their number."""
        return any(test.accused for test in self.tests)

    @property
    def asked(self) -> tuple[str, ...]:
        """The channels that a certificate names: those precise enough to certify."""
        return tuple(test.name for test in self.tests if test.certifiable)

    @property
    def certified(self) -> bool:
        """Whether every channel that may certify does, and none accuses.

        True where none may: the certificate then rests on C1 and C2 of the exact text alone, and has to say so.
        """
        return all(test.certified for test in self.tests if test.certifiable) and not self.accused


def judge_channels(
    channels: Mapping[str, ChannelLosses],
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float = 0.10,
    alpha: float = 0.05,
    share: float = CHANNEL_SHARE,
) -> ChannelsVerdict:
    """Judge a target on every channel.

    Args:
        channels: losses by name of the channel.
        subjects: whom each forget record is about [K]; a record without a subject is its own.
        control_subjects: the same for the controls [N]. A subject on both sides makes the test conservative.
        margin: rho*, the largest residual fraction that counts as forgotten, in (0, 1).
        alpha: level, in (0, 0.5). Certification uses all of it.
        share: the share of it that accusations use, in (0, 1].

    Returns:
        one test per channel and the outcome over all.

    Raises:
        ValueError: shapes do not fit, a loss is infinite, no reference, or a level out of range.
    """
    if not 0 < margin < 1 or not 0 < alpha < 0.5 or not 0 < share <= 1:
        raise ValueError(f"margin and share lie in (0, 1) and alpha in (0, 0.5), got {margin}, {share} and {alpha}")
    contrasts = {name: _Contrast.of(losses, subjects, control_subjects) for name, losses in channels.items()}
    return judge_contrasts(contrasts, margin, alpha, share)


class Contrast(Protocol):
    """One channel's residual and gap of forget subjects, against controls, with their standard errors."""

    @property
    def counts(self) -> tuple[int, int]:
        """n_F and n_C, those with a scored record."""

    @property
    def known(self) -> bool:
        """Whether N and G can be computed."""

    @property
    def testable(self) -> bool:
        """Whether standard errors can be estimated."""

    @property
    def contrast(self) -> float:
        """N, nats per token."""

    @property
    def gap(self) -> float:
        """G, nats per token."""

    @property
    def degrees(self) -> float:
        """Degrees of freedom by which the precision that a certificate needs is computed."""

    def error(self, margin: float) -> StandardError:
        """Return the standard error of N - margin G; the margin may be negative."""

    def error_of_original(self, margin: float) -> StandardError:
        """Return the standard error of N - margin G where the target is the original, so that N = G."""

    def relative_error(self) -> float | None:
        """Return the standard error of an honest target's N over G, by models that the target cannot influence; None if unknown."""

    @property
    def judged_by(self) -> str:
        """The models that `relative_error` is based on, in words."""


def judge_contrasts(contrasts: Mapping[str, Contrast], margin: float, alpha: float, share: float) -> ChannelsVerdict:
    """Judge a target by its contrast on every channel; arguments as `judge_channels`."""
    large = [name for name, contrast in contrasts.items() if contrast.testable and contrast.gap >= MIN_GAP]
    # The original is judged as a target would be: corrected for every channel on which there is a gap to find.
    detected = [name for name in large if _judged_original(contrasts[name], margin) * 2 * len(large) < share * alpha]
    tests = tuple(
        _test(
            name, contrast, _obstacle(contrast, name in large, name in detected, margin, alpha), len(detected), margin, alpha, share
        )
        for name, contrast in contrasts.items()
    )
    return ChannelsVerdict(tests, margin, alpha, share)


def _judged_original(contrast: Contrast, margin: float) -> float:
    """p-value of the original, whose residual is the gap itself: N = G."""
    error = contrast.error_of_original(margin)
    return float(stats.t.sf((1 - margin) * contrast.gap / error.size, error.degrees))


@dataclass(frozen=True, eq=False)
class _Contrast:
    """Residuals and gaps of one channel by subject.

    Attributes:
        residual, gaps: d and g of forget subjects [S].
        left_out: d of each reference judged by the others [R, S]; empty for R = 1.
        control_*: the same of control subjects.
    """

    residual: Array
    gaps: Array
    left_out: Array
    control_residual: Array
    control_gaps: Array
    control_left_out: Array

    @classmethod
    def of(cls, losses: ChannelLosses, subjects: Sequence[str], control_subjects: Sequence[str]) -> "_Contrast":
        """Average the channel's losses by subject."""
        forget = _by_subject(losses.original, losses.target, losses.references, subjects)
        # A single forget subject borrows the controls' variance, so control subjects may not average more records than it has.
        most = int(forget.records[0]) if len(forget.records) == 1 else None
        control = _by_subject(losses.control_original, losses.control_target, losses.control_references, control_subjects, most)
        if len(losses.references) != len(losses.control_references):
            raise ValueError("forget records and controls need the same references")
        return cls(forget.residual, forget.gaps, forget.left_out, control.residual, control.gaps, control.left_out)

    @property
    def testable(self) -> bool:
        """Whether there are subjects on both sides and a variance can be estimated."""
        return min(len(self.gaps), len(self.control_gaps)) >= 1 and len(self.gaps) + len(self.control_gaps) >= 3

    @property
    def gap(self) -> float:
        """G, nats per token."""
        return float(self.gaps.mean() - self.control_gaps.mean())

    @property
    def contrast(self) -> float:
        """N, nats per token."""
        return float(self.residual.mean() - self.control_residual.mean())

    @property
    def counts(self) -> tuple[int, int]:
        """n_F and n_C."""
        return len(self.residual), len(self.control_residual)

    @property
    def known(self) -> bool:
        """Whether there is a scored subject on both sides."""
        return min(self.counts) > 0

    @property
    def degrees(self) -> float:
        """n_F + n_C - 2."""
        return len(self.gaps) + len(self.control_gaps) - 2

    def error(self, margin: float) -> StandardError:
        """Return the standard error of N - margin G."""
        return difference_error(self.residual - margin * self.gaps, self.control_residual - margin * self.control_gaps)

    def error_of_original(self, margin: float) -> StandardError:
        """Return the standard error of G - margin G."""
        return difference_error((1 - margin) * self.gaps, (1 - margin) * self.control_gaps)

    @property
    def judged_by(self) -> str:
        """The references, each judged by the others."""
        return "among the references"

    def relative_error(self) -> float | None:
        """Root mean square standard error of the references, each judged by the others, over G; None for one reference."""
        if len(self.left_out) < 2:
            return None
        count = len(self.left_out)
        errors = [
            difference_error(forget, control).size for forget, control in zip(self.left_out, self.control_left_out, strict=True)
        ]
        # Judged by R - 1 others, a residual has the variance 1 + 1/(R - 1) instead of 1 + 1/R.
        return float(np.sqrt(np.mean(np.square(errors)) * (1 + 1 / count) / (1 + 1 / (count - 1))) / self.gap)


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of a contrast by subject: d and g [S], d of each reference judged by the others [R, S], scored records [S]."""

    residual: Array
    gaps: Array
    left_out: Array
    records: NDArray[np.intp]


def _by_subject(original: Array, target: Array, references: Array, subjects: Sequence[str], most: int | None = None) -> _Side:
    """Average by subject over records scored under every model, at most the first `most` of each subject."""
    shape = (len(subjects),)
    if original.shape != shape or target.shape != shape or references.ndim != 2 or references.shape[1:] != shape:
        raise ValueError(
            f"expected losses of {len(subjects)} records, got {original.shape}, {target.shape} and references {references.shape}"
        )
    if not len(references):
        raise ValueError("a channel needs at least one reference")
    losses = np.vstack([original, target, references]).astype(np.float64)
    if np.isinf(losses).any():
        raise ValueError("losses must be finite, or NaN where a record was not scored")
    scored = np.flatnonzero(~np.isnan(losses).any(axis=0))
    subject = subject_numbers([subjects[index] for index in scored.tolist()])
    losses = losses[:, scored]
    if most is not None:
        kept = rank_within(subject) < most
        losses, subject = losses[:, kept], subject[kept]
    records, means = np.bincount(subject), subject_means(losses, subject)
    mean = means[2:].mean(axis=0)
    count = len(references)
    # mean of the others - reference r = (mean of all - reference r) R / (R - 1)
    left_out = (mean - means[2:]) * count / (count - 1) if count > 1 else np.empty((0, len(records)))
    return _Side(mean - means[1], mean - means[0], left_out, records)


def _obstacle(contrast: Contrast, large: bool, detected: bool, margin: float, alpha: float) -> tuple[bool, bool, str]:
    """Return whether a channel is valid, whether it may certify, and why not."""
    if not contrast.testable:
        return False, False, "fewer than three subjects were scored on it, or none on one side"
    if not large:
        return False, False, f"the original shows too little on it ({contrast.gap:.2f} nats per token; {MIN_GAP:g} are needed)"
    if not detected:
        return False, False, "the same test does not find the forget set in the model before unlearning"
    relative = contrast.relative_error()
    if relative is None:
        return True, False, "one reference does not show how precise the channel is"
    largest = margin / float(stats.t.ppf(1 - alpha, contrast.degrees) + stats.norm.ppf((1 + PASSES) / 2))
    if relative > largest:
        return (
            True,
            False,
            f"too noisy to certify: {contrast.judged_by} the standard error is {relative:.3f} of the gap, "
            f"at most {largest:.3f} is allowed",
        )
    return True, True, ""


def _test(
    name: str, contrast: Contrast, obstacle: tuple[bool, bool, str], valid: int, margin: float, alpha: float, share: float
) -> ChannelTest:
    """Test one channel; `valid` is C."""
    usable, certifiable, reason = obstacle
    counts = contrast.counts
    if not contrast.testable:
        n, gap = (contrast.contrast, contrast.gap) if contrast.known else (None, None)
        return ChannelTest(
            name,
            *counts,
            n,
            gap,
            None,
            None,
            1.0,
            "remembered",
            False,
            False,
            reason,
            accused=False,
            certified=False,
            residual=None,
        )
    n, gap = contrast.contrast, contrast.gap
    errors = contrast.error(margin), contrast.error(-margin)
    above, below = (n - margin * gap) / errors[0].size, (-n - margin * gap) / errors[1].size
    statistic, error = (above, errors[0]) if above >= below else (below, errors[1])
    p = min(1.0, float(stats.t.sf(statistic, error.degrees)) * 2 * max(valid, 1)) if usable else 1.0
    within = all(t < -float(stats.t.ppf(1 - alpha, one.degrees)) for t, one in zip((above, below), errors, strict=True))
    return ChannelTest(
        name=name,
        subjects=counts[0],
        control_subjects=counts[1],
        contrast=n,
        gap=gap,
        standard_error=error.size,
        statistic=statistic,
        p_value=p,
        direction="remembered" if above >= below else "over-forgotten",
        valid=usable,
        certifiable=certifiable,
        reason=reason,
        accused=usable and p < share * alpha,
        certified=certifiable and within,
        residual=_ratio(contrast, alpha),
    )


def _ratio(contrast: Contrast, alpha: float) -> Estimate | None:
    """Return N / G with its interval by the delta method, whose standard error is that of mean(d - N/G g), over G."""
    n, gap = contrast.contrast, contrast.gap
    if gap <= 0:
        return None
    error = contrast.error(n / gap)
    half = float(stats.t.ppf(1 - alpha, error.degrees)) * error.size / gap
    return Estimate(n / gap, n / gap - half, n / gap + half, contrast.counts[0], 1 - 2 * alpha)

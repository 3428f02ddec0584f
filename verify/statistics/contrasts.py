"""Tests of a target by its contrasts: on every channel the residual N and the gap G of forget subjects, against controls.

The formulas, and when a channel may accuse or certify, are those of `verify.statistics.channels`. Contrasts come from retrained
references, as there, or from a level table (`verify.statistics.level_table`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from scipy import stats

from verify.statistics.critical_values import normal_quantile, t_quantile
from verify.statistics.estimate import Estimate
from verify.statistics.two_samples import StandardError

MIN_GAP = 0.5
"""Smallest contrast of the original, nats per token, on which a channel is judged."""

PASSES = 0.95
"""Probability with which an honest retraining must pass a channel for the channel to be asked for a certificate."""

CHANNEL_SHARE = 0.25
"""Share of alpha that accusations by channels use; the residual test (A1 to A3) has the rest, which rests on fewer units."""


@dataclass(frozen=True)
class ChannelTest:
    """Outcome on one channel.

    Attributes:
        name: name of the channel.
        subjects, control_subjects: n_F and n_C, those with a scored record.
        contrast, gap: N and G, nats per token; None where either side has no scored record.
        standard_error: standard error of the larger of the two one-sided statistics, nats per token; None where it cannot be
            estimated.
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


def judge_contrasts(
    contrasts: Mapping[str, Contrast], margin: float, alpha: float, share: float, chosen_at: float | None = None
) -> ChannelsVerdict:
    """Judge a target by its contrast on every channel; arguments as `verify.statistics.channels.judge_channels`."""
    chosen_at = margin if chosen_at is None else chosen_at
    large = [name for name, contrast in contrasts.items() if contrast.testable and contrast.gap >= MIN_GAP]
    # The original is judged as a target would be: corrected for every channel on which there is a gap to find.
    detected = [name for name in large if _judged_original(contrasts[name], chosen_at) * 2 * len(large) < share * alpha]
    tests = tuple(
        _test(
            name,
            contrast,
            _obstacle(contrast, name in large, name in detected, chosen_at, alpha),
            len(detected),
            margin,
            alpha,
            share,
        )
        for name, contrast in contrasts.items()
    )
    return ChannelsVerdict(tests, margin, alpha, share)


def _judged_original(contrast: Contrast, margin: float) -> float:
    """Compute the p-value of the original, whose residual is the gap itself: N = G."""
    error = contrast.error_of_original(margin)
    return float(stats.t.sf((1 - margin) * contrast.gap / error.size, error.degrees))


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
    largest = margin / (t_quantile(1 - alpha, contrast.degrees) + normal_quantile((1 + PASSES) / 2))
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
            name=name,
            subjects=counts[0],
            control_subjects=counts[1],
            contrast=n,
            gap=gap,
            standard_error=None,
            statistic=None,
            p_value=1.0,
            direction="remembered",
            valid=False,
            certifiable=False,
            reason=reason,
            accused=False,
            certified=False,
            residual=None,
        )
    n, gap = contrast.contrast, contrast.gap
    errors = contrast.error(margin), contrast.error(-margin)
    above, below = (n - margin * gap) / errors[0].size, (-n - margin * gap) / errors[1].size
    statistic, error = (above, errors[0]) if above >= below else (below, errors[1])
    p = min(1.0, float(stats.t.sf(statistic, error.degrees)) * 2 * max(valid, 1)) if usable else 1.0
    within = all(t < -t_quantile(1 - alpha, one.degrees) for t, one in zip((above, below), errors, strict=True))
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
    half = t_quantile(1 - alpha, error.degrees) * error.size / gap
    return Estimate(n / gap, n / gap - half, n / gap + half, contrast.counts[0], 1 - 2 * alpha)

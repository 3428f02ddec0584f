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

A channel is valid where G >= 0.5 nats and the same rule accuses the original: one on which the original itself goes undetected
shows nothing. A certificate also rests on it where an honest retraining would pass it with a probability of 95 %, by the standard
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

import numpy as np
from numpy.typing import NDArray

from verify.statistics.contrasts import CHANNEL_SHARE, ChannelsVerdict, judge_contrasts
from verify.statistics.subjects import rank_within, subject_means, subject_numbers
from verify.statistics.two_samples import StandardError, difference_error

Array = NDArray[np.float64]

EXACT_TEXT = "exact text"
"""The channel of the audit's own pass, which every certificate rests on."""


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


def judge_channels(
    channels: Mapping[str, ChannelLosses],
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float = 0.10,
    alpha: float = 0.05,
    share: float = CHANNEL_SHARE,
    chosen_at: float | None = None,
) -> ChannelsVerdict:
    """Judge a target on every channel.

    Args:
        channels: losses by name of the channel.
        subjects: whom each forget record is about [K]; a record without a subject is its own.
        control_subjects: the same for the controls [N]. A subject on both sides makes the test conservative.
        margin: rho*, the largest residual fraction that counts as forgotten, in (0, 1).
        alpha: level, in (0, 0.5). Certification uses all of it.
        share: the share of it that accusations use, in (0, 1].
        chosen_at: the margin by which it is decided which channels are valid and precise enough to certify; None for `margin`. At a
            smaller one fewer are precise enough, so that a certificate can be easier to get.

    Returns:
        one test per channel and the outcome over all.

    Raises:
        ValueError: shapes do not fit, a loss is infinite, no reference, or a level out of range.
    """
    if not 0 < margin < 1 or not 0 < (chosen_at or margin) < 1 or not 0 < alpha < 0.5 or not 0 < share <= 1:
        raise ValueError(f"margin and share lie in (0, 1) and alpha in (0, 0.5), got {margin}, {share} and {alpha}")
    contrasts = {name: _Contrast.of(losses, subjects, control_subjects) for name, losses in channels.items()}
    return judge_contrasts(contrasts, margin, alpha, share, chosen_at)


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
        """Return the root mean square standard error of the references, each judged by the others, over G; None for one."""
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

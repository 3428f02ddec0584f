"""Exact rank test of a rebuilt shard among its siblings: models that never saw the forget set because it lies in another shard.

A model of S shards is trained on S disjoint parts of the subjects, drawn by a keyed hash. After a subject's shard was rebuilt
without the subject, none of the S models saw it. What each shard was trained on then no longer depends on which of them had held
the subject, and that one was drawn uniformly: each of the S ranks of its loss on the forget set is equally likely, however the
shards differ in size, data, seed or level. (It takes whole subjects: a record that stays stays in the same shard.) With y_k the
mean loss of forget subjects less that of never-trained control subjects under shard k,

    p = (1 + #{siblings k : y_k <= y_rebuilt + rho* gap}) / S,    gap = mean of the siblings' y - y of the shard before the deletion

No distribution is assumed and no model is trained. The smallest p-value is 1 / S, though: eight shards never accuse at 0.05, and
both directions together need S >= 2 / alpha = 40. A rank certifies nothing: it is about the mean of the records, in which what was
kept of one can hide behind what was over-forgotten of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from verify.statistics.subjects import subject_means, subject_numbers

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShardLosses:
    """Losses of the models of one sharded training, nats per token.

    Attributes:
        before, rebuilt: forget records under the shard that held them, before and after the deletion [K].
        siblings: the same under the other shards [S - 1, K].
        control_before, control_rebuilt, control_siblings: never-trained controls [N], [N] and [S - 1, N].
    """

    before: Array
    rebuilt: Array
    siblings: Array
    control_before: Array
    control_rebuilt: Array
    control_siblings: Array


@dataclass(frozen=True)
class SiblingRank:
    """Rank of a rebuilt shard among all shards.

    Attributes:
        shards: S.
        contrast: mean of the siblings' y less that of the rebuilt shard, nats per token: what it still knows.
        gap: the same of the shard before the deletion.
        remembered, over_forgotten: p-values in both directions, at the margin.
        smallest: 1 / S, which neither can lie below.
    """

    shards: int
    contrast: float
    gap: float
    remembered: float
    over_forgotten: float
    smallest: float

    def accused(self, alpha: float) -> bool:
        """Return whether either direction is rejected, both together at level alpha; never where S < 2 / alpha."""
        return 2 * min(self.remembered, self.over_forgotten) <= alpha


def sibling_rank(
    losses: ShardLosses, subjects: Sequence[str], control_subjects: Sequence[str], margin: float = 0.10
) -> SiblingRank:
    """Rank a rebuilt shard among the shards that never saw the forget set.

    Args:
        losses: losses of all shards. All forget records were in the rebuilt one; several rebuilt shards are ranked one by one.
        subjects, control_subjects: whom the records are about; they count by subject.
        margin: rho*, in [0, 1).

    Returns:
        both p-values; exact for rho* = 0 and conservative for an honest rebuild otherwise.

    Raises:
        ValueError: shapes do not fit, a loss is not finite, no sibling, or a margin out of range.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"the margin lies in [0, 1), got {margin}")
    forget = _stacked(losses.before, losses.rebuilt, losses.siblings, len(subjects))
    control = _stacked(losses.control_before, losses.control_rebuilt, losses.control_siblings, len(control_subjects))
    if len(forget) != len(control):
        raise ValueError("forget records and controls need the same shards")
    means = [
        subject_means(values, subject_numbers(names)).mean(axis=1)
        for values, names in ((forget, subjects), (control, control_subjects))
    ]
    before, rebuilt, *siblings = (means[0] - means[1]).tolist()
    others, shards = np.array(siblings), len(siblings) + 1
    gap = float(others.mean() - before)
    allowed = margin * max(gap, 0.0)
    return SiblingRank(
        shards=shards,
        contrast=float(others.mean() - rebuilt),
        gap=gap,
        remembered=float(1 + (others <= rebuilt + allowed).sum()) / shards,
        over_forgotten=float(1 + (others >= rebuilt - allowed).sum()) / shards,
        smallest=1 / shards,
    )


def controls_p_value(losses: ShardLosses, control_subjects: Sequence[str]) -> float | None:
    """Compare a rebuilt shard's mean loss on controls with its siblings', which never saw them either.

        t = (c_rebuilt - mean c) / (s sqrt(1 + 1 / (S - 1))),  S - 2 degrees of freedom,  s over the S - 1 siblings

    A shard that was not trained as its siblings were (more, less, by other options) lies apart from them.

    Returns:
        the two-sided p-value; None with fewer than two siblings or where these do not differ.

    Raises:
        ValueError: as `sibling_rank`.
    """
    control = _stacked(losses.control_before, losses.control_rebuilt, losses.control_siblings, len(control_subjects))
    _, rebuilt, *siblings = subject_means(control, subject_numbers(control_subjects)).mean(axis=1)
    others = np.array(siblings)
    if len(others) < 2 or not others.std() > 0:
        return None
    t = (rebuilt - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / len(others)))
    return float(2 * stats.t.sf(abs(t), len(others) - 1))


def sibling_power(
    shards: int, kept: float, gap: float, spread: float, margin: float, alpha: float, *, draws: int = 4000, seed: int = 0
) -> float:
    """Simulate how often a rank accuses a shard that kept a share of what it had memorized.

    Args:
        shards: S.
        kept: the share, as a fraction of the gap.
        gap: how much lower the shard's y was before the deletion, nats per token.
        spread: standard deviation of y between shards, nats per token.
        margin, alpha: rho* and the level of both directions together.
        draws, seed: number of draws and seed of the simulation.
    """
    y = np.random.default_rng(seed).normal(0.0, spread, (draws, shards))
    rebuilt = y[:, 0] - kept * gap
    remembered = (1 + (y[:, 1:] <= (rebuilt + margin * gap)[:, None]).sum(axis=1)) / shards
    return float((2 * remembered <= alpha).mean())


def _stacked(before: Array, rebuilt: Array, siblings: Array, records: int) -> Array:
    """Stack the losses of all shards [2 + S - 1, K]."""
    if before.shape != (records,) or rebuilt.shape != (records,) or siblings.ndim != 2 or siblings.shape[1:] != (records,):
        raise ValueError(f"expected losses of {records} records, got {before.shape}, {rebuilt.shape} and {siblings.shape}")
    losses = np.vstack([before, rebuilt, siblings]).astype(np.float64)
    if not records or len(losses) < 3 or not np.isfinite(losses).all():
        raise ValueError("at least one record and one sibling are needed, and losses must be finite")
    return losses

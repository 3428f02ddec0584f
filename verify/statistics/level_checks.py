"""Validity checks of an audit by a level table, as numbers (work in progress: signatures)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.statistics.estimate import Estimate
from verify.statistics.level_table import TableLosses, TableVerdict

Array = NDArray[np.float64]


def with_original(losses: Mapping[str, TableLosses]) -> dict[str, TableLosses]:
    """Put the original in the target's place, for the positive control: `judge_table` must accuse it."""
    raise NotImplementedError


def planted_subject_rate(
    losses: TableLosses,
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float,
    alpha: float,
    seed: int,
    draws: int = 100,
) -> Estimate:
    """Estimate how often the rule accuses a target that kept one subject and forgot all others.

    Control subjects stand in for forget subjects: the target's own losses on them are those of a model that never saw them, and
    what the original would lose had it seen them is imputed by taking a forget subject's gaps off its losses. In one of them,
    drawn at random, the target gets these values. The test per subject is corrected for as many subjects as the forget set has.

    Args:
        losses: of the exact text. Others: as `judge_table`.
        draws: number of draws.

    Returns:
        the share of draws that are accused, with its exact 95 % interval.
    """
    raise NotImplementedError


def planted_records_rate(
    losses: TableLosses,
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    margin: float,
    alpha: float,
    seed: int,
    share: float = 0.20,
    draws: int = 100,
) -> Estimate:
    """Estimate how often the rule accuses a target that kept a share of the records; otherwise as `planted_subject_rate`."""
    raise NotImplementedError


@dataclass(frozen=True)
class Support:
    """Whether levels of forget records lie within the range on which the calibration rests.

    Attributes:
        low, high: smallest and largest level of a control, nats per token.
        outside: forget records whose level lies beyond that range. records: K.
        distance: |lbar_F - lbar_C| in standard deviations of control subjects' mean levels.
        inflation: standard error of the predicted level at lbar_F, over that at the controls' mean level; at least 1.
    """

    low: float
    high: float
    outside: int
    records: int
    distance: float
    inflation: float

    @property
    def held(self) -> bool:
        """Whether at most `MOST_OUTSIDE` of the records lie outside."""
        raise NotImplementedError


def support(verdict: TableVerdict, subjects: Sequence[str], control_subjects: Sequence[str]) -> Support:
    """Compare the levels of forget records with those of the controls."""
    raise NotImplementedError


@dataclass(frozen=True, eq=False)
class PoolModelCheck:
    """One pool model, judged as a target by the others on the forget records that it should never have seen.

    Attributes:
        model: its number in the pool, from 0.
        subjects: forget subjects that the design leaves out of it.
        accused: whether it remembers any of them beyond the margin, at level alpha / M.
        verdict: the outcome; None where the design leaves no forget subject out of it, or too few models remain to judge it.
    """

    model: int
    subjects: int
    accused: bool
    verdict: TableVerdict | None


def pool_innocence(
    losses: TableLosses, subjects: Sequence[str], control_subjects: Sequence[str], margin: float, alpha: float, seed: int
) -> tuple[PoolModelCheck, ...]:
    """Judge every pool model by the others: one that saw what its design says it did not remembers it.

    Args:
        losses: of the exact text. Others: as `judge_table`; each model is judged at level alpha / M.

    Returns:
        one check per pool model, in order.
    """
    raise NotImplementedError

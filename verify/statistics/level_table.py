"""Audit by a level table: the record claim against models that were trained before any request (work in progress: signatures)."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.statistics.channels import ChannelsVerdict, ChannelTest
from verify.statistics.residual import ResidualVerdict

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TableLosses:
    """Mean losses on one channel, nats per token; M pool models, K forget records, N controls.

    Attributes:
        pool: forget records under each pool model [M, K]; NaN where the model was trained on the record. Every record is left out
            by the same number R of models; one that was not scored on this channel is NaN in all of them, or in a model below.
        control_pool: controls under each pool model [M, N]; no pool model was trained on any of them.
        original, target: forget records under the model before unlearning and under the model that is judged [K].
        control_original, control_target: controls under the same [N].
    """

    pool: Array
    control_pool: Array
    original: Array
    target: Array
    control_original: Array
    control_target: Array


@dataclass(frozen=True, eq=False)
class TableFit:
    """The calibration of levels on controls, exact text: what the target and the original would lose on a record never trained on.

    Attributes:
        a, b: level and slope for the target: it loses a + b l on a record of level l, nats per token.
        a0, b0: the same for the original.
        reliability: share of the controls' variance of l that is not noise of the pool, in (0, 1]; b is corrected for it.
        levels, control_levels: l_i [K] and l_c [N], nats per token.
        standard_error, degrees: of N - rho* G, nats per token, and its degrees of freedom.
        subjects, control_subjects: n_F and n_C.
        models: R, pool models that left a record out.
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


@dataclass(frozen=True, eq=False)
class Conformal:
    """Distribution-free p-values of subjects among the control subjects, at the margin.

    Attributes:
        remembered, over_forgotten: p-values of both directions, subjects in the order of their sorted names [S].
        smallest: 1 / (n_C + 1), which no p-value lies below.
    """

    remembered: Array
    over_forgotten: Array
    smallest: float


@dataclass(frozen=True, eq=False)
class TableVerdict:
    """Outcome of an audit by a level table.

    Attributes:
        residual: C1', C2', A1', A2', A3' on the exact text, in the classes of the residual test; its `references` is R, its
            `spread` the standard error of N, its rule 3. Its `certified` is False where all records are about one subject.
        channels: the tests on every channel, the exact text first.
        fit: the calibration on the exact text.
        conformal: distribution-free p-values per subject.
    """

    residual: ResidualVerdict
    channels: ChannelsVerdict
    fit: TableFit
    conformal: Conformal

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

    Returns:
        the outcome on every channel with every intermediate value.

    Raises:
        ValueError: shapes do not fit, a loss is infinite, no exact text, too few control subjects, or records that different
            numbers of pool models left out.
    """
    raise NotImplementedError

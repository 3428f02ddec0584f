"""The tilt, an attack on the verdict by a level table: controls are moved so that kept records lie on their line.

The table's levels are known to the operator, who made it. A target that loses less on hard records and more on easy ones, of the
controls and of the forget set alike, turns the line from level to loss: every residual stays what it was, and the hard records are
still known. The mean loss on the controls does not change. It takes the auditor's controls, or texts that move them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verify.statistics.level_contrast import TableLosses, calibrate
from verify.statistics.subjects import subject_means

Array = NDArray[np.float64]
Shape = Literal["turned", "bent", "records alone", "controls alone"]
"""What is moved: all by level in a straight line; the hardest fifth down and all others up; the same of the forget records alone,
as without the auditor's controls; or the controls in a straight line and no forget record, which frames an honest deletion."""

FIFTH = 0.2


def tilted(
    honest: TableLosses, subjects: Sequence[str], control_subjects: Sequence[str], seed: int, kept: float, shape: Shape
) -> TableLosses:
    """Turn an honest target into one whose hardest fifth of forget records keeps a share of its gap.

    Args:
        honest: losses of an audit whose target never saw the forget set, every record scored.
        subjects, control_subjects, seed: as `judge_table`.
        kept: mean share of its gap that the hardest fifth of the forget records, by level, keeps.
        shape: how.
    """
    found, _, _ = calibrate(honest, subjects, control_subjects, seed)
    assert found is not None, "an audit that can be judged"
    levels, controls = found.forget.levels, found.control.levels
    hardest = levels >= np.quantile(levels, 1 - FIFTH)
    hidden = kept * float(found.gap[hardest].mean())  # nats that the hardest fifth is to lose less, in the mean
    middle = float(subject_means(controls, found.control.numbers).mean())
    if shape in ("bent", "records alone"):
        own = controls if shape == "bent" else levels
        ends = np.quantile(own, 1 - FIFTH)
        down = np.mean(own >= ends)
        moves = [np.where(level >= ends, hidden, -hidden * down / (1 - down)) for level in (levels, controls)]
    else:
        slope = hidden / float((levels[hardest] - middle).mean())
        moves = [slope * (level - middle) for level in (levels, controls)]
    forget, control = moves
    return replace(
        honest,
        target=honest.target - (0.0 if shape == "controls alone" else forget),
        control_target=honest.control_target - (0.0 if shape == "records alone" else control),
    )

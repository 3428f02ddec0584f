"""One channel of an audit by a level table: losses of records and controls, calibrated, and the contrast that tests are made of.

A channel counts the records and controls that every model was asked about. The calibration (`level_fit`) says what the target and
the original would lose on a record that they never saw. Their residuals against it are judged on the exact text (`level_table`)
and, by their means, on every channel (`contrasts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.statistics.level_fit import MIN_CONTROL_SUBJECTS, Calibration, control_side, forget_side, model_effects
from verify.statistics.subjects import subject_numbers
from verify.statistics.two_samples import StandardError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


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


def calibrate(
    losses: TableLosses, subjects: Sequence[str], control_subjects: Sequence[str], seed: int
) -> tuple[Calibration | None, Mask, Mask]:
    """Calibrate one channel, and say which records [K] and controls [N] every model was asked about; arguments as `judge_table`.

    Returns:
        the calibration, None where too few subjects were scored, and both masks.
    """
    _check_shapes(losses, len(subjects), len(control_subjects))
    scored = ~np.isnan(losses.pool).all(axis=0) & ~np.isnan(losses.original) & ~np.isnan(losses.target)
    on_controls = np.vstack([losses.control_pool, losses.control_original, losses.control_target])
    usable = np.asarray(~np.isnan(on_controls).any(axis=0))
    whose, others = _chosen(subjects, scored), _chosen(control_subjects, usable)
    if not whose or len(set(others)) < MIN_CONTROL_SUBJECTS:
        return None, scored, usable
    control_pool, control_original, control_target = on_controls[:-2, usable], on_controls[-2, usable], on_controls[-1, usable]
    effects = model_effects(control_pool, subject_numbers(others))
    forget = forget_side(losses.pool[:, scored], effects, whose)
    control = control_side(control_pool, effects, others, len(forget.unseen), seed)
    own = losses.target[scored], losses.original[scored]
    return Calibration.of(forget, control, *own, (control_target, control_original)), scored, usable


def _chosen(names: Sequence[str], kept: Mask) -> list[str]:
    return [names[index] for index in np.flatnonzero(kept).tolist()]


@dataclass(frozen=True, eq=False)
class TableContrast:
    """The contrast of one channel, for `contrasts.judge_contrasts`.

    Attributes:
        counts: n_F and n_C, subjects that were scored.
        calibration: None where too few were.
    """

    counts: tuple[int, int]
    calibration: Calibration | None

    @classmethod
    def of(cls, losses: TableLosses, subjects: Sequence[str], control_subjects: Sequence[str], seed: int) -> "TableContrast":
        """Calibrate a channel on the records and controls that every model was asked about."""
        calibration, scored, usable = calibrate(losses, subjects, control_subjects, seed)
        return cls((len(set(_chosen(subjects, scored))), len(set(_chosen(control_subjects, usable)))), calibration)

    @property
    def fitted(self) -> Calibration:
        """The calibration, where there is one."""
        assert self.calibration is not None, "only asked where the channel is testable"
        return self.calibration

    @property
    def known(self) -> bool:
        """Whether the channel was calibrated."""
        return self.calibration is not None

    @property
    def testable(self) -> bool:
        """Whether the channel was calibrated."""
        return self.calibration is not None

    @property
    def contrast(self) -> float:
        """N: the controls' mean residual is zero by the fit."""
        return float(self.fitted.subject_residual.mean())

    @property
    def gap(self) -> float:
        """G: the mean of g over the forget subjects."""
        return float(self.fitted.subject_gap.mean())

    @property
    def degrees(self) -> float:
        """n_C - 2."""
        return self.fitted.degrees

    def error(self, margin: float) -> StandardError:
        """Return the standard error of N - margin G."""
        return self.fitted.standard_error(1.0, -margin)

    def error_of_original(self, margin: float) -> StandardError:
        """Return the standard error of G - margin G."""
        return self.fitted.standard_error(0.0, 1 - margin)

    @property
    def judged_by(self) -> str:
        """The original, which saw no control and is trained as the target would be."""
        return "by the original's residuals on the controls"

    def relative_error(self) -> float:
        """Return the standard error of G over G."""
        return self.fitted.standard_error(0.0, 1.0).size / self.gap


def _check_shapes(losses: TableLosses, records: int, controls: int) -> None:
    models = len(losses.pool)
    expected: list[tuple[tuple[int, ...], Array]] = [((models, records), losses.pool), ((models, controls), losses.control_pool)]
    expected += [((records,), losses.original), ((records,), losses.target)]
    expected += [((controls,), losses.control_original), ((controls,), losses.control_target)]
    if any(values.shape != shape for shape, values in expected):
        raise ValueError(
            f"expected losses of {records} records and {controls} controls under {models} pool models, got "
            f"{[values.shape for _, values in expected]}"
        )
    if any(np.isinf(values).any() for _, values in expected):
        raise ValueError("losses must be finite, or NaN where a model was trained on the record or it was not scored")

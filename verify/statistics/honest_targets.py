"""Simulated honest targets: models that never saw the forget set, drawn from how far given models differ.

By retrained references. With x_r the losses of reference r on one set (and one way of asking), deviations from the references' mean
are split into the model's effect and each record's own noise, and a further model is

    mean + sqrt(w) sum_r (z_r / sqrt(R) + z'_r) effect_r / sqrt(R - 1)  +  s_c e_c / sqrt(R - 1)  +  s e sqrt(R / (R - 1))

z, z' ~ N(0, 1), w = (R - 1) / chi^2_{R - 1}: the set's mean follows the predictive t distribution with R - 1 degrees of freedom.
Own noise is that of a reference drawn for each subject, with a random sign; so records of a subject keep their correlation, and
so do ways of asking. z and (s_c, e_c), the error of the references' mean, are common to all models of a draw. Variances: effect_r
and e have 1 - 1/R of a model's own, hence the factors; together a model varies by 1 + 1/R around the mean of R references.

By a level table. The original saw no control, so its residuals on controls, by the line from level to loss, are those of an honest
target on records that it never saw. A target loses what that line predicts, less the residuals of a control subject drawn for each
subject, the same one on every channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verify.statistics.level_contrast import TableLosses, calibrate
from verify.statistics.subjects import rank_within, subject_numbers

Array = NDArray[np.float64]
Losses = dict[tuple[str, str], Array]
"""By set and way of asking, nats per token."""
Numbers = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Spread:
    """How references differ on one set, in one way of asking.

    Attributes:
        mean: over the references [N]; NaN where a record was not scored.
        effects: mean deviation of each reference [R].
        noise: deviations of each record beyond it [R, N].
        numbers: the subject of each record, from 0 [N].
    """

    mean: Array
    effects: Array
    noise: Array
    numbers: Numbers

    @classmethod
    def of(cls, losses: Array, numbers: Numbers) -> "Spread":
        """Split the references' losses, nats per token [R, N]."""
        mean = losses.mean(axis=0)
        effects = np.nanmean(losses - mean, axis=1)
        noise = losses - mean - effects[:, None]
        # Drawn again and centred, independent subjects lose 1 / S of their variance.
        subjects = len(np.unique(numbers))
        return cls(mean, effects, noise * np.sqrt(subjects / max(1, subjects - 1)), numbers)


def honest_models(spreads: Mapping[tuple[str, str], Spread], count: int, rng: np.random.Generator) -> list[Losses]:
    """Draw further honest retrainings: their losses by set and way of asking.

    Args:
        spreads: by (set, way of asking); the spreads of one set have the same records and subjects.
        count: number of models. They share the error of the references' mean.
        rng: source of randomness.
    """
    references = len(next(iter(spreads.values())).effects)
    scale = np.sqrt((references - 1) / rng.chisquare(references - 1))
    common, own = rng.standard_normal(references) / np.sqrt(references), rng.standard_normal((count, references))
    subjects = {role: int(spread.numbers.max()) + 1 for (role, _), spread in spreads.items()}
    # One more than the models: the first choice is that of the common error.
    chosen = {role: rng.integers(references, size=(count + 1, number)) for role, number in subjects.items()}
    signs = {role: rng.choice([-1.0, 1.0], size=(count + 1, number)) for role, number in subjects.items()}
    weights = scale * (common + own) / np.sqrt(references - 1)
    factors = np.r_[np.sqrt(1 / (references - 1)), np.full(count, np.sqrt(references / (references - 1)))]
    models: list[Losses] = [{} for _ in range(count)]
    for (role, asked), spread in spreads.items():
        place = np.arange(len(spread.mean))
        noise = np.stack(
            [
                factor * sign[spread.numbers] * spread.noise[choice[spread.numbers], place]
                for factor, sign, choice in zip(factors, signs[role], chosen[role], strict=True)
            ]
        )
        noise -= np.nanmean(noise, axis=1, keepdims=True)
        for number, model in enumerate(models):
            model[role, asked] = spread.mean + weights[number] @ spread.effects + noise[0] + noise[number + 1]
    return models


@dataclass(frozen=True, eq=False)
class TableSpread:
    """What the original's residuals on controls say of an honest target, on one channel.

    Attributes:
        forget, controls: losses that the line predicts [K] and [N]; NaN where a record was not scored.
        residual: residual of the original on each control [N]; 0 where it was not scored.
    """

    forget: Array
    controls: Array
    residual: Array


def table_spreads(
    losses: Mapping[str, TableLosses], subjects: Sequence[str], control_subjects: Sequence[str], seed: int
) -> dict[str, TableSpread]:
    """Predict losses by the original's line on every channel that can be calibrated; arguments as `judge_table`.

    The target's losses are not read.
    """
    found = {}
    for name, channel in losses.items():
        own = replace(channel, target=channel.original, control_target=channel.control_original)
        calibration, scored, usable = calibrate(own, subjects, control_subjects, seed)
        if calibration is not None:
            forget, controls = np.full(len(scored), np.nan), np.full(len(usable), np.nan)
            forget[scored] = calibration.original.at(calibration.forget.levels)
            controls[usable] = calibration.original.at(calibration.control.levels)
            residual = np.zeros(len(usable))
            residual[usable] = calibration.control_gap
            found[name] = TableSpread(forget, controls, residual)
    return found


def honest_table_target(
    losses: Mapping[str, TableLosses],
    spreads: Mapping[str, TableSpread],
    subjects: Sequence[str],
    control_subjects: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, TableLosses]:
    """Draw an honest target in the place of the one that is there, on the channels that have a spread.

    Args:
        losses, subjects, control_subjects: as `judge_table`.
        spreads: of the same losses.
        rng: source of randomness.
    """
    forget, controls = subject_numbers(subjects), subject_numbers(control_subjects)
    rows = [np.flatnonzero(controls == number) for number in range(int(controls.max()) + 1)]
    ours, theirs = (_drawn_rows(numbers, rows, rng) for numbers in (forget, controls))
    return {
        name: replace(
            losses[name],
            target=spread.forget - spread.residual[ours],
            control_target=spread.controls - spread.residual[theirs],
        )
        for name, spread in spreads.items()
    }


def _drawn_rows(numbers: Numbers, rows: Sequence[Numbers], rng: np.random.Generator) -> Numbers:
    """Draw a control subject for every subject, and one of its rows for every record, in turn where it has fewer [K]."""
    chosen, ranks = rng.integers(len(rows), size=int(numbers.max()) + 1), rank_within(numbers)
    return np.array(
        [rows[chosen[number]][rank % len(rows[chosen[number]])] for number, rank in zip(numbers, ranks, strict=True)], np.intp
    )

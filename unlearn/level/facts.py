"""Outcome of the methods that aim at a never-trained level: the level, how close the result came, and what it cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlearn.level.estimate import (
    Floats,
    Levels,
    encoded,
    log_probabilities,
    per_window,
    retraining_passes,
    trained_options,
    window_of_tokens,
)
from unlearn.training.lora import in_form_of
from unlearn.training.method import Context, Outcome
from unlearn.training.options import TrainingResult, together
from verify.data.encoding import Encoded


def outcome_near_level(
    context: Context,
    trained: Any,
    levels: Levels,
    windows: Sequence[Encoded],
    parts: Sequence[TrainingResult],
    rate: float | None,
    about: Mapping[str, Any] | None = None,
) -> Outcome:
    """Measure how close a trained model came to the level, and describe it.

    Args:
        context: of the method; a new adapter is merged into its model.
        trained: the model after the steps.
        levels: the level of the exact texts.
        windows: the exact texts, as many as `levels` has.
        parts: everything that was trained on the way.
        rate: learning rate of the steps.
        about: what else the manifest is to say, named first.
    """
    model = in_form_of(context.loaded.model, trained, context.options.seed)
    reached = log_probabilities(dataclasses.replace(context.loaded, model=model), windows, context.options)
    near = _level_facts(levels, -per_window(reached, window_of_tokens(windows)))
    return Outcome(model, together(parts), {**(about or {}), **near, **_cost_facts(context, parts, rate)})


def _level_facts(levels: Levels, reached: Floats) -> dict[str, Any]:
    """Describe the level and how close the result came, from the losses that it reached [K]."""
    aim = levels.losses()
    found: dict[str, Any] = {
        "level": float(aim.mean()),
        "level_spread": float(aim.std()),
        "reached": float(reached.mean()),
        "distance": float(np.sqrt(np.mean((reached - aim) ** 2))),
        "calibrated": levels.calibrated,
        "control_correlation": levels.control_correlation,
    }
    if not levels.calibrated:
        found["warning"] = (
            "there was no holdout set to calibrate the level on, so it is that of a model trained for a shorter time, and probably "
            "too low: expect the audit to find a residual. Give never-trained records with --holdout FILE."
        )
    return found


def _cost_facts(context: Context, trained: Sequence[TrainingResult], rate: float | None) -> dict[str, Any]:
    """Compute the cost in retrainings, by tokens."""
    options, windows = trained_options(context), encoded(context.loaded, context.retain, "split")
    whole = retraining_passes(options, len(windows)) * sum(len(window.input_ids) for window in windows)
    return {
        "learning_rate": rate,
        "share_of_retraining_tokens": sum(result.tokens for result in trained) / whole if whole else None,
    }

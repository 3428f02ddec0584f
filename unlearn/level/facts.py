"""Manifest entries of the methods that aim at a never-trained level: the level, how close the result came, and what it cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unlearn.level.estimate import Floats, Levels, encoded, retraining_passes, trained_options
from unlearn.training.method import Context
from unlearn.training.options import TrainingResult


def level_facts(levels: Levels, reached: Floats) -> dict[str, Any]:
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


def cost_facts(context: Context, trained: Sequence[TrainingResult], rate: float | None) -> dict[str, Any]:
    """Compute the cost in retrainings, by tokens."""
    options, windows = trained_options(context), encoded(context.loaded, context.retain, "split")
    whole = retraining_passes(options, len(windows)) * sum(len(window.input_ids) for window in windows)
    return {
        "learning_rate": rate,
        "share_of_retraining_tokens": sum(result.tokens for result in trained) / whole if whole else None,
    }

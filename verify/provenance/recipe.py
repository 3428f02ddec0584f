"""Recipe of a training: what a second training with other seeds and records must have in common with it.

It holds the order of stages, options with their defaults filled in, and arithmetic; not the seed, nor options that only watch or
store the run.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from verify.provenance.training_history import Stage
from verify.provenance.training_log import resolved

WATCHING = frozenset({"seed", "save_steps", "keep_checkpoints", "logging_steps", "report_to"})
"""Options without an influence on what is trained in the mean."""


def recipe_of_stages(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return the recipe of the trainings that have a log, first to last."""
    found = []
    for stage in stages:
        if stage.log is not None:
            options = {name: value for name, value in resolved(stage.log.options).items() if name not in WATCHING}
            found.append({"options": options, "defense": stage.log.defense, "arithmetic": stage.log.arithmetic})
    return found


def recipe_digest(stages: Sequence[Stage]) -> str | None:
    """Compute SHA-256 of the recipe of the trainings that have a log; None where none has one."""
    recipe = recipe_of_stages(stages)
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest() if recipe else None

"""How a model was fine-tuned: what a retraining repeats, and what an unlearned model must not lose.

A model that was trained here has a training log. The result of an approximate method has none, as no training gave those weights;
its manifest hands the recipe on, so that the next deletion from it knows how long a retraining is, and under which defence.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn.defenses import defense_of
from unlearn.defenses.base import Defense
from unlearn.provenance import LOG_NAME, TrainingLog
from verify.errors import InputError
from verify.files import MANIFEST, read_json

RECIPE = "recipe"
"""Where a manifest hands it on."""


@dataclass(frozen=True)
class Recipe:
    """How a model was fine-tuned.

    Attributes:
        options: the training options by name.
        defense: what the manifest says of the defence that it was trained under, or None.
    """

    options: Mapping[str, Any]
    defense: Mapping[str, Any] | None

    def described(self) -> dict[str, Any]:
        """For a manifest."""
        return {"options": dict(self.options), "defense": None if self.defense is None else dict(self.defense)}

    def trained_under(self) -> Defense | None:
        """The defence itself.

        Raises:
            InputError: it is none of this version.
        """
        return defense_of(dataclasses.asdict(self))


def recipe_of(folder: Path | None) -> Recipe | None:
    """The recipe of the model in a folder, by its log or handed on by its manifest; None where nobody wrote it down.

    Raises:
        InputError: the log is damaged, or names a defence whose settings the manifest does not have.
    """
    if folder is None:
        return None
    about = read_json(folder / MANIFEST).get("about", {}) if (folder / MANIFEST).is_file() else {}
    if (folder / LOG_NAME).is_file():
        log, defense = TrainingLog.read(folder / LOG_NAME), about.get("defense") or (about.get("facts") or {}).get("defense")
        if log.defense is not None and log.defense != "federated" and defense is None:
            raise InputError(
                f"the log of {folder} says that it was trained under {log.defense}, and its manifest not with which settings. A "
                "retraining without them would protect nobody. Take the folder as `unlearn` made it."
            )
        return Recipe(log.options, defense)
    handed_on = about.get(RECIPE)
    return Recipe(handed_on["options"], handed_on["defense"]) if isinstance(handed_on, Mapping) else None

"""A batch's folder: one process at a time works in it, and what is done there is told by manifests.

deletions/B-.../plan.json
                model-0/registration.json
                        rung-0-sisa/        the new model; its manifest is written last
                        audit-0-1f2e.../    the audit of it; likewise
                deletion.json, certificate.json
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from unlearn.requests.plan import Plan, PlannedModel
from unlearn.training.checkpoints import WORK
from verify.io.files import is_complete

CACHE = "cache"
"""Token statistics between audits, under keyed hashes; it goes when the batch is deployed."""


def place_of(folder: Path, plan: Plan, model: PlannedModel) -> Path:
    """Where a model's results are."""
    return folder / f"model-{plan.models.index(model)}"


def rung_folder(folder: Path, plan: Plan, model: PlannedModel, rung: int) -> Path:
    """Where the result of one method is."""
    return place_of(folder, plan, model) / f"rung-{rung}-{model.ladder[rung]}"


def audit_folder(folder: Path, plan: Plan, model: PlannedModel, rung: int, references: Sequence[str]) -> Path:
    """Where the audit of one method's result against these references is: other references, another audit."""
    name = hashlib.sha256("\n".join(references).encode()).hexdigest()[:12]
    return place_of(folder, plan, model) / f"audit-{rung}-{name}"


def clear_if_cut_off(folder: Path, kind: str, resumable: bool = False) -> None:
    """Remove what a killed run left, unless it is whole, or can be taken up again."""
    if folder.exists() and not is_complete(folder, kind) and not (resumable and (folder / WORK).is_dir()):
        shutil.rmtree(folder)

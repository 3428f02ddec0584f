"""Layout of a batch's folder, in which one process works at a time and a manifest marks each finished result.

deletions/B-.../plan.json
                model-0/registration.json
                        rung-0-sisa/        the new model of the first attempt; its manifest is written last
                        audit-0-1f2e.../    its audit; its manifest is written last
                deletion.json, certificate.json

Attempts are folders named "rung-N-METHOD", and the plan lists the methods under "ladder": names that release 0.1.0 wrote, kept so
that its batches can be continued.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from unlearn.requests.plan import Plan, PlannedModel
from unlearn.training.checkpoints import WORK
from verify.io.files import is_complete

REGISTRATION = "registration.json"
"""Registration of a model's audit, in the folder of its attempts."""
FOUND = "found.json"
"""File with the copies that searches found and nobody removed, under keyed hashes of their paths."""
REMOVING = "removing.json"
"""File with the copies that a cleaning is about to remove, under keyed hashes of their paths."""
CACHE = "cache"
"""Subfolder for token statistics that audits share, under keyed hashes; removed when the batch is deployed."""


def model_folder(folder: Path, plan: Plan, model: PlannedModel) -> Path:
    """Return the folder of a model's attempts and audits."""
    return numbered_folder(folder, plan.models.index(model))


def numbered_folder(folder: Path, number: int) -> Path:
    """Return the same for the model of this number in the plan, from 0."""
    return folder / f"model-{number}"


def attempt_folder(folder: Path, plan: Plan, model: PlannedModel, attempt: int) -> Path:
    """Return the folder of an attempt's result; attempts count from 0 in the order of `model.ladder`."""
    return model_folder(folder, plan, model) / f"rung-{attempt}-{model.ladder[attempt]}"


def audit_folder(folder: Path, plan: Plan, model: PlannedModel, attempt: int, references: Sequence[str]) -> Path:
    """Return the folder of an attempt's audit against these references; each set of references has its own."""
    name = hashlib.sha256("\n".join(references).encode()).hexdigest()[:12]
    return model_folder(folder, plan, model) / f"audit-{attempt}-{name}"


def clear_if_cut_off(folder: Path, kind: str, resumable: bool = False) -> None:
    """Remove what a killed run left, unless it is complete or can be resumed."""
    if folder.exists() and not is_complete(folder, kind) and not (resumable and (folder / WORK).is_dir()):
        shutil.rmtree(folder)

"""Checkpoints of a training run: finding the last complete one, and loading one into a model.

A checkpoint is valid only if its manifest verifies. The manifest is written last, so that a run killed while writing leaves no
folder that looks complete.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from verify.errors import IntegrityError
from verify.io.files import verify_manifest
from verify.models.adapter_types import is_adapter
from verify.models.checked_loading import put_adapter_file, put_weights
from verify.models.weight_files import ADAPTER, weight_files


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder: its path.
        step: optimizer steps done.
    """

    folder: Path
    step: int


def last_complete_checkpoint(work_dir: Path) -> Checkpoint | None:
    """Return the latest checkpoint whose manifest verifies, or None; incomplete checkpoints are deleted."""
    found = []
    for folder in work_dir.glob("checkpoint-*"):
        try:
            manifest = verify_manifest(folder, "checkpoint")
        except IntegrityError:
            shutil.rmtree(folder)
            continue
        found.append(Checkpoint(folder, int(manifest["about"]["step"])))
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def put_checkpoint(model: nn.Module, folder: Path) -> None:
    """Load a checkpoint's weights (or adapter) into a model.

    Raises:
        IntegrityError: the checkpoint lacks weights, or has weights that this model does not have.
    """
    if is_adapter(model):
        put_adapter_file(model, folder / ADAPTER)
        return
    weights: dict[str, Any] = {}
    for file in weight_files(folder):
        weights.update(load_file(file))
    put_weights(model, weights, str(folder))

"""The working folder of a run: whose it is, and where it can go on from.

A folder belongs to one run, told by a digest of what the run is made of. A checkpoint counts only if its manifest verifies: the
manifest is written last, so a run killed while writing leaves a folder that nothing trusts.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from unlearn import processes
from unlearn.options import TrainingOptions
from verify.adapter_types import is_adapter
from verify.errors import InputError, IntegrityError
from verify.files import MANIFEST, new_output, read_json, verify_manifest, write_json
from verify.loading import put_adapter_file, put_weights
from verify.weight_files import ADAPTER, weight_files

WORK = "work"
"""Subfolder for checkpoints of an unfinished run; they may hold what is being removed, so it goes when the run ends."""
WORK_FILE = "run.json"


def claim_output(output_dir: str | Path) -> Path:
    """A new folder for a result, or one whose run was cut off; among several processes the main one claims it.

    Raises:
        InputError: it holds something else.
    """
    output = Path(output_dir)
    if processes.is_main():
        new_output(output, resumable=lambda folder: (folder / WORK).is_dir() and not (folder / MANIFEST).exists())
    processes.wait()
    return output


def empty_work(output: Path) -> None:
    """Empty a run's working folder. The folder itself stays until the manifest is written: it marks an unfinished run."""
    for path in (output / WORK).glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def keep_checkpoints(work_dir: Path, output: Path) -> None:
    """Move a run's checkpoints beside its model, for exact deletion later; those of a run that was cut off here are replaced."""
    for folder in work_dir.glob("checkpoint-*"):
        shutil.rmtree(output / folder.name, ignore_errors=True)  # a move into a folder that exists would end inside it
        shutil.move(folder, output / folder.name)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder: where it is.
        step: optimizer steps done.
    """

    folder: Path
    step: int


def run_digest(what: str, options: TrainingOptions, fingerprints: Sequence[str], model_digest: str) -> str:
    """SHA-256 of everything that decides a run's result: method, options, records in order, starting weights."""
    content = [what, asdict(options), list(fingerprints), model_digest]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_work(work_dir: Path, what: str, options: TrainingOptions, fingerprints: Sequence[str], model_digest: str) -> None:
    """Claim a working folder for a run, or accept it as the same run cut off.

    Raises:
        InputError: the folder holds another run, or something else.
    """
    digest = run_digest(what, options, fingerprints, model_digest)
    file = work_dir / WORK_FILE
    if file.exists() and read_json(file).get("run") != digest:
        raise InputError(
            f"{work_dir} holds an unfinished run with other settings, records or weights. "
            "Run that command again to finish it, or give a new --output."
        )
    if processes.is_main():
        new_output(work_dir, resumable=lambda folder: (folder / WORK_FILE).exists())
        write_json(file, {"run": digest})
    processes.wait()  # what another process writes here first would look like a run of somebody else


def last_complete_checkpoint(work_dir: Path) -> Checkpoint | None:
    """The latest checkpoint whose manifest verifies; incomplete ones are removed, so that nothing is built on them."""
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
        IntegrityError: the checkpoint lacks weights, or holds others than this model has.
    """
    if is_adapter(model):
        put_adapter_file(model, folder / ADAPTER)
        return
    weights: dict[str, Any] = {}
    for file in weight_files(folder):
        weights.update(load_file(file))
    put_weights(model, weights, str(folder))

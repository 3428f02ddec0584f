"""What an operator can do to the files of a deletion: edit a log, flip a bit, rewrite the manifest that would give it away."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from verify.io.files import MANIFEST, read_json, write_manifest
from verify.provenance.training_log import LOG_NAME
from verify.training.replay import OPTIMIZER


def edit_log(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Edit the entries of a log."""
    path = folder / LOG_NAME
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    change(entries)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def microbatches(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a log that are microbatches."""
    return [entry for entry in entries if "microbatch" in entry]


def reseal(folder: Path) -> None:
    """Rewrite the manifest to list what the folder holds now."""
    write_manifest(folder, "model", read_json(folder / MANIFEST)["about"])


def reseal_checkpoint(folder: Path) -> None:
    """Rewrite a checkpoint's manifest."""
    write_manifest(folder, "checkpoint", read_json(folder / MANIFEST)["about"])


def flip(path: Path, name: str | None = None, place: int = 0, bit: int = 0) -> None:
    """Flip one bit of a number of a tensor; of the first one by default."""
    tensors = load_file(path)
    numbers = tensors[name or min(tensors)].view(-1).view(torch.int32)
    numbers[place % len(numbers)] ^= 1 << bit
    save_file(tensors, path)


def flip_moment(checkpoint: Path, place: int = 0, bit: int = 0) -> None:
    """Flip one bit of the optimizer's first moment of its first parameter."""
    state = torch.load(checkpoint / OPTIMIZER, weights_only=True)
    moments = next(value for value in state["state"][0].values() if value.dim())
    numbers = moments.view(-1).view(torch.int32)
    numbers[place % len(numbers)] ^= 1 << bit
    torch.save(state, checkpoint / OPTIMIZER)

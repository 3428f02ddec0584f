"""Saving of a trained model: weights in their stored types, tokenizer and, last, the manifest."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.training import distributed
from unlearn.training.checkpoints import WORK, empty_work
from unlearn.training.fsdp import gathered
from verify.io.files import disk_errors, write_manifest
from verify.models.quantized import quantization_of, remember_quantization
from verify.provenance.commitment import commitment_root
from verify.training.precision import as_stored, note_stored_type, stored_digest
from verify.training.sharding import is_sharded


def save_model(model: Any, tokenizer: Any, output_dir: Path, about: Mapping[str, Any]) -> str:
    """Write weights (safetensors, in their stored types), tokenizer and, last, the manifest; return the weights' digest.

    The main process writes. The run's working folder is deleted, since it may contain what was removed.

    Args:
        model: whole or sharded, with or without an adapter.
        tokenizer: its tokenizer.
        output_dir: the folder that the run claimed.
        about: the manifest's entries.

    Raises:
        RunError: the disk is full; the folder then has no manifest, so that it does not look complete, and the run can be repeated.
    """
    digest = stored_digest(model)
    weights = {"state_dict": as_stored(model, gathered(model))} if is_sharded(model) else {}
    if distributed.is_main():
        with disk_errors(output_dir):
            model.save_pretrained(output_dir, **weights)
            note_stored_type(model, output_dir)
            tokenizer.save_pretrained(output_dir)
            if (kind := quantization_of(model)) is not None:
                remember_quantization(output_dir, kind)
        empty_work(output_dir)
        root = commitment_root(output_dir)
        write_manifest(output_dir, "model", {**about, "weights": digest, **({} if root is None else {"commitment": root})})
        shutil.rmtree(output_dir / WORK, ignore_errors=True)
    distributed.wait()
    return digest

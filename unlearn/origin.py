"""What a result was made from: the inputs' places and digests, the software and the machine, for the manifest beside it.

Records are in none of it. `unlearn.reproduction` makes a result again from what is here.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from unlearn import processes
from verify.files import file_digest
from verify.records import Fields

PACKAGES = ("unlearn-verify", "torch", "transformers", "accelerate", "peft", "bitsandbytes", "numpy")


def environment() -> dict[str, Any]:
    """Software and hardware of this run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def inputs_of(
    models: Mapping[str, Any], sets: Mapping[str, Any], fields: Fields | None, dtype: str, quantize: str | None
) -> dict[str, Any] | None:
    """Places and digests of what a run reads; None where something of it is in memory alone.

    Args:
        models: role -> source, None where there is none.
        sets: role -> source, likewise.
        fields: which columns hold what.
        dtype, quantize: as they were asked for.
    """
    given = {name: source for name, source in {**models, **sets}.items() if source is not None}
    if not all(isinstance(source, (str, Path)) for source in given.values()):
        return None
    digests = {name: file_digest(source) for name, source in sets.items() if source is not None and Path(source).is_file()}
    return {
        "models": {name: _place(source) for name, source in models.items() if source is not None},
        "sets": {name: _place(source) for name, source in sets.items() if source is not None},
        "digests": digests,
        "fields": asdict(fields or Fields()),
        "dtype": dtype,
        "quantize": quantize,
    }


def made_from(models: Mapping[str, Any]) -> dict[str, str]:
    """Places of the models that a result was made from, whatever else was in memory: role -> folder or Hub name.

    An audit follows them back, to see what the model was trained on before.
    """
    return {role: _place(source) for role, source in models.items() if isinstance(source, (str, Path))}


def _place(source: str | Path) -> str:
    return str(Path(source).resolve()) if Path(source).exists() else str(source)

"""Inputs of a result for its manifest: paths and digests, software and hardware.

They contain no records. `unlearn.experiments.reproduction` reproduces a result from them.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from unlearn.training import distributed
from verify.data.records import Fields
from verify.io.files import file_digest
from verify.models.loading import LoadedModel

PACKAGES = ("unlearn-verify", "torch", "transformers", "accelerate", "peft", "bitsandbytes", "numpy")


def environment() -> dict[str, Any]:
    """Describe the software and hardware of this run."""
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
        "processes": distributed.count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def inputs_of(
    models: Mapping[str, Any], sets: Mapping[str, Any], fields: Fields | None, dtype: str, quantize: str | None
) -> dict[str, Any] | None:
    """Return paths and digests of a run's inputs; None if any of them exists in memory only.

    Args:
        models: role -> source; None for a role without a model.
        sets: role -> source; None for a role without records.
        fields: the columns of the records.
        dtype, quantize: as requested.
    """
    given = {name: source for name, source in {**models, **sets}.items() if source is not None}
    if not all(isinstance(source, (str, Path)) for source in given.values()):
        return None
    digests, files = (_file_digests(sources) for sources in (sets, models))
    return {
        "models": {name: _location(source) for name, source in models.items() if source is not None},
        **({"model_files": files} if files else {}),
        "sets": {name: _location(source) for name, source in sets.items() if source is not None},
        "digests": digests,
        "fields": asdict(fields or Fields()),
        "dtype": dtype,
        "quantize": quantize,
    }


def _file_digests(sources: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the sources that are files: record files, GGUF models, configurations of models from scratch."""
    return {name: file_digest(source) for name, source in sources.items() if source is not None and Path(source).is_file()}


def made_from(models: Mapping[str, Any]) -> dict[str, str]:
    """Return the models that a result was made from, role -> folder or Hub name, leaving out those that were never on disk.

    An audit follows them back to find what the model was trained on before.
    """
    places = {role: place_of(source) for role, source in models.items()}
    return {role: place for role, place in places.items() if place is not None}


def place_of(source: Any) -> str | None:
    """Return the absolute path of a model's folder, or its Hub name; None for a model in memory that was not loaded from either."""
    if isinstance(source, LoadedModel):
        return source.place
    return _location(source) if isinstance(source, (str, Path)) else None


def _location(source: str | Path) -> str:
    """Return the absolute path of a local source, or the Hub name as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)

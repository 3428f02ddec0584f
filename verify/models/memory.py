"""Memory that a run needs at least, compared with what is free before anything is loaded.

What is counted cannot be avoided: the weights and, while they are trained in float32, their gradients and two moments each. Text
in flight and the libraries come on top, so a run that passes can still run out of memory; one that is refused could not have run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from verify.errors import InputError
from verify.io.files import read_json
from verify.models.ensembles import ENSEMBLE
from verify.models.gguf_files import is_gguf, read_gguf
from verify.models.weight_files import tensors_of, weight_files

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRAINED_BYTES = 16
"""Bytes of a weight in training: float32 weight, gradient and the two moments of AdamW."""
QUANTIZED_BYTES = {"4bit": 0.5, "8bit": 1.0}


@dataclass(frozen=True)
class StoredWeights:
    """Size of a model in its files.

    Attributes:
        count: number of weights.
        item_bytes: bytes of a weight as `dtype="auto"` loads it.
    """

    count: int
    item_bytes: float

    def loaded_bytes(self, dtype: str = "auto", quantize: str | None = None) -> float:
        """Return the memory of the weights once loaded in a precision."""
        if quantize in QUANTIZED_BYTES:
            return self.count * QUANTIZED_BYTES[quantize]
        return self.count * ITEM_BYTES.get(dtype, self.item_bytes)


def stored_weights(source: Any) -> StoredWeights | None:
    """Read the size of a model from the headers of its files, for an adapter that of its base.

    Returns:
        None for a model in memory or on the Hub, or where the files cannot be read: loading says why.
    """
    if not isinstance(source, (str, Path)):
        return None
    try:
        if is_gguf(source):
            count = sum(prod(tensor.shape) for tensor in read_gguf(source).tensors.values())
            return StoredWeights(count, 4.0)
        folder = Path(source)
        for name, key in ((ENSEMBLE, "base"), ("adapter_config.json", "base_model_name_or_path")):
            if (folder / name).is_file():
                return stored_weights(read_json(folder / name, constants=True).get(key))
        if not folder.is_dir():
            return None
        files = weight_files(folder)
        count = sum(prod(shape) for file in files for shape in tensors_of(file).values())
        return StoredWeights(count, sum(file.stat().st_size for file in files) / count) if count else None
    except (InputError, OSError, AttributeError):
        return None


def is_adapter_folder(source: Any) -> bool:
    """Return whether a source is the folder of an adapter or of an ensemble of adapters."""
    return isinstance(source, (str, Path)) and any((Path(source) / name).is_file() for name in (ENSEMBLE, "adapter_config.json"))


def free_bytes(device: str | None = None) -> float | None:
    """Return the free memory of a device (the default is a GPU if there is one), or None where the system does not say.

    On a processor, it is what the system can give without swapping, and no more than the process's group is allowed.
    """
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda"):
        return float(torch.cuda.mem_get_info()[0])
    found = [value for value in (_system_bytes(), _group_bytes()) if value is not None]
    return min(found) if found else None


def require_memory(needed: float, what: str, remedy: str, device: str | None = None) -> None:
    """Refuse a run that needs more memory than is free.

    Args:
        needed: bytes that it needs at least.
        what: what needs them, as the subject of "needs".
        remedy: what to do instead.
        device: where it runs.

    Raises:
        InputError: there is less; the message has both figures.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise InputError(f"{what} needs at least {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. {remedy}")


def require_memory_for_loading(source: Any, dtype: str = "auto", device: str | None = None, *, beside: Sequence[Any] = ()) -> None:
    """Refuse to load a model that does not fit into memory together with others that are in memory at the same time.

    Raises:
        InputError: as `require_memory`.
    """
    size = stored_weights(source)
    if size is None:
        return
    others = [found for found in map(stored_weights, beside) if found is not None]
    what = f"{Path(source).name} ({size.count / 1e6:,.0f} million weights)"
    if others:
        what += f" beside {len(others)} other model{'s' if len(others) > 1 else ''}"
    needed = sum(found.loaded_bytes(dtype) for found in (size, *others))
    require_memory(needed, what, "Load it in half precision (--dtype bfloat16), or use a machine with more memory.", device)


def require_memory_for_training(
    source: Any, *, adapter: bool, dtype: str = "auto", quantize: str | None = None, base: Any = None
) -> None:
    """Refuse a training for which there is too little memory.

    Args:
        source: the model to train.
        adapter: whether an adapter is trained, which is small compared with the frozen weights.
        dtype, quantize: how the model is loaded.
        base: another model that is in memory at the same time, or None.

    Raises:
        InputError: as `require_memory`.
    """
    size = stored_weights(source)
    if size is None:
        return
    needed = size.loaded_bytes(dtype, quantize)
    if not adapter:
        stored = needed if needed < 4 * size.count else 0.0  # half precision is kept beside its float32 copies
        needed = stored + size.count * TRAINED_BYTES
    other = None if base is None else stored_weights(base)
    needed += 0.0 if other is None else other.loaded_bytes(dtype)
    kind = "an adapter on" if adapter else "all weights of"
    remedy = (
        "Load it in half precision (--dtype bfloat16) or quantized (--quantize 4bit), or use a machine with more memory."
        if adapter
        else "Train an adapter instead (--lora), or use a machine with more memory."
    )
    require_memory(needed, f"training {kind} {Path(source).name} ({size.count / 1e6:,.0f} million weights)", remedy)


def _system_bytes() -> float | None:
    """Return the memory that the system can give to new programs."""
    try:
        import psutil
    except ImportError:
        return None
    return float(psutil.virtual_memory().available)


def _group_bytes() -> float | None:
    """Return what is left of the limit of the process's control group (version 2), as in a container; None without one."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        # Cached files count as used, and are given up first.
        kept = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        return None if limit == "max" else float(int(limit) - int(used) + int(kept.get("file", 0)))
    except (OSError, ValueError):
        return None

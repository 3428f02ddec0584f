"""Weight files of a model folder, and names and shapes of the tensors in them.

A folder holds one file (`model.safetensors`) or an index with its shards, never both: a loader would silently pick one. Only the
headers of the files are read.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from verify.errors import InputError
from verify.io.files import read_json

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

Shape = tuple[int, ...]
AGAIN = "Copy the folder again, whole, or save the model again with save_pretrained(...) into an empty folder."


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted by name.

    Raises:
        InputError: there are none, an index does not match its shards, or there are more files than one model has.
    """
    index, single = folder / INDEX, folder / WHOLE
    shards = sorted(path.name for path in folder.iterdir() if SHARD.fullmatch(path.name))
    if not index.is_file():
        if shards:
            raise _unreadable(folder, f"it holds shards ({shards[0]}) and no {INDEX} that says which belong to the model.")
        if not single.is_file():
            raise _unreadable(folder, f"it holds neither {WHOLE} nor {INDEX}.")
        return [single]
    if single.is_file():
        raise InputError(
            f"{folder} holds both {WHOLE} and {INDEX} with its shards, which may be two models; loaders read only one of them. "
            "Remove the one that does not belong to the model."
        )
    named = sorted(set(read_json(index)["weight_map"].values()))
    missing, more = [name for name in named if not (folder / name).is_file()], [name for name in shards if name not in named]
    if missing or more or not named:
        lacking = f"{len(missing)} of {len(named)} shards are missing{_first(missing)}"
        raise _unreadable(folder, f"{INDEX} and the files do not agree: {lacking}, {len(more)} are not named{_first(more)}.")
    return [folder / name for name in named]


def stored_tensors(folder: Path) -> dict[str, Shape]:
    """Return names and shapes of all tensors in a model folder's weight files.

    Raises:
        InputError: as `weight_files`; or a file is truncated, or a tensor is in two files, or not in the file that the index names.
    """
    found: dict[str, Shape] = {}
    stored_in: dict[str, str] = {}
    files = weight_files(folder)
    for file in files:
        tensors = tensors_of(file)
        if twice := sorted(found.keys() & tensors.keys()):
            raise _unreadable(folder, f"{len(twice)} tensors are in more than one shard{_first(twice)}.")
        found |= tensors
        stored_in |= dict.fromkeys(tensors, file.name)
    if (folder / INDEX).is_file():
        planned = read_json(folder / INDEX)["weight_map"]
        if wrong := sorted(name for name in planned.keys() | stored_in.keys() if planned.get(name) != stored_in.get(name)):
            raise _unreadable(folder, f"{len(wrong)} tensors are not in the shard that {INDEX} names{_first(wrong)}.")
    return found


def tensors_of(file: Path) -> dict[str, Shape]:
    """Return names and shapes of the tensors in one safetensors file.

    Raises:
        InputError: the file is missing, truncated, or no safetensors file.
    """
    if not file.is_file():
        raise _unreadable(file.parent, f"{file.name} is missing.")
    try:
        with safe_open(file, framework="pt") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(file.parent, f"{file.name} is truncated or no safetensors file ({type(error).__name__}).") from None


def _unreadable(folder: Path, reason: str) -> InputError:
    if (folder / "adapter_config.json").is_file():
        return InputError(f"the adapter {folder} could not be loaded: {reason} {AGAIN}")
    return InputError(f"no causal language model could be loaded from {folder}: {reason} {AGAIN}")


def _first(names: Sequence[str]) -> str:
    return f" (first {names[0]})" if names else ""

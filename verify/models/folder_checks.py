"""Safety checks of a model folder before anything in it is opened.

A model folder is untrusted input. Its weights must be safetensors (a pickle runs code when it is opened), it may not ask to run
code of its own, no index may lead the loaders out of it, and if it has a manifest, every file that they read must be listed in it,
unchanged.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, file_digest, read_json, verify_manifest

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
FETCHED_FILES = ("*config.json", "*token*.json", "vocab.*", "merges.txt", "*.jinja", "ensemble.json", "*.safetensors.index.json")
"""Files fetched first from a Hub repository: they determine which weight files it has."""
LOADED_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*config.json",
    "*token*.json",
    "chat_template.json",
    "ensemble.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
)
"""Files that the loaders of this project read from a model's folder."""
CHAT_TEMPLATES = "additional_chat_templates"
"""Subfolder from which a tokenizer takes further templates, whatever else is in it."""
FOREIGN_FILES = (
    *(f"*{suffix}" for suffix in PICKLE_SUFFIXES),
    "*.index.json",
    "*.gguf",
    "*.ggml",
    "*.onnx",
    "*.npz",
    "*.py",
    "*.tflite",
    "*.mlmodel",
    "*.pte",
    "*.pt2",
    "*.engine",
    "*.plan",
    "*.llamafile",
    "modelfile*",
    "params.json",
    "tekken.json",
    "vocab*",
    "tokenizer.*",
    "*.spm",
    "bpe.codes",
    "dict.txt",
)
"""Files that other programs read from such a folder: other formats of weights, code, recipes of a model, other tokenizers."""
OWN_FOLDERS = ("checkpoint-*", "shard-*", "slice-*", "level-table", "holdout")
"""Subfolders that this project writes into a model's folder, each with a manifest of its own."""


def require_safe_folder(source: str | Path) -> None:
    """Check a local folder before anything in it is opened; a Hub name passes (its files are checked by the loaders).

    Raises:
        InputError: not a folder, pickle weights, code to run (`auto_map`), or a manifest that does not verify.
    """
    folder = Path(source)
    if folder.is_file():
        raise InputError(f"{source} is a file, and no GGUF file. Give the model's folder, such as {folder.parent}.")
    if not folder.is_dir():
        if str(source).count("/") > 1 or str(source).startswith((".", "/", "~")):
            raise InputError(f"{source} does not exist. Give a model's folder or a Hub name like owner/name.")
        return
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json", "tokenizer.json")):
        raise InputError(_no_model(source, folder))
    if (folder / MANIFEST).exists():
        require_listed(folder, verify_manifest(folder))
    _require_files_inside(folder)
    _require_no_code(folder)
    _require_no_pickle(folder)


def _no_model(source: str | Path, folder: Path) -> str:
    """Return the message for a folder without a model's configuration, with the model that it seems to hold."""
    if (file := next(iter(sorted(folder.glob("*.gguf"))), None)) is not None:
        return f"{source} is a folder of GGUF files. Give one of the files: {file}."
    if (file := next(iter(sorted(folder.glob("adapter*.safetensors"))), None)) is not None:
        return (
            f"{source} holds an adapter's weights ({file.name}) without its adapter_config.json, which names base and rank. "
            "Copy that file beside the weights, or save the adapter again with save_pretrained(...) of PEFT."
        )
    found = [path.parent for name in ("adapter_config.json", "config.json") for path in sorted(folder.glob(f"*/{name}"))]
    if found:
        more = f" ({len(found)} of its subfolders hold one)" if len(found) > 1 else ""
        return f"{source} holds no model itself, only in a subfolder. Give the one that is meant, such as {found[0]}{more}."
    return f"{source} holds no model (no config.json or adapter_config.json). Give a model's folder."


def require_adapter_weights(source: str | Path, folder: Path) -> None:
    """Refuse a folder with an adapter's configuration whose weights are missing or have another name.

    Raises:
        InputError: the message names the files that may be meant.
    """
    has = {name for name in ("config.json", "adapter_config.json", "adapter_model.safetensors") if (folder / name).is_file()}
    if has != {"adapter_config.json"}:  # beside a whole model it may be a leftover
        return
    start = f"{source} holds an adapter's configuration (adapter_config.json), but adapter_model.safetensors is missing"
    others = sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*.safetensors"))
    if not others:
        raise InputError(f"{start}. Copy the weights beside it, or save the adapter again with save_pretrained(...) of PEFT.")
    raise InputError(
        f"{start}, the name by which PEFT reads its weights. There is {', '.join(others[:3])}: if "
        "that is the adapter, give it that name in this folder; if it is a whole model, give it a folder of its own."
    )


def local_folder(source: str | Path) -> Path:
    """Return a model's folder on this machine, checked by `require_safe_folder`; a Hub repository is fetched without its pickles.

    Raises:
        InputError: it does not exist, cannot be fetched, or is unsafe to open.
    """
    require_safe_folder(source)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(source), allow_patterns=list(FETCHED_FILES)))
        # By name: huggingface_hub 1.x asks the Hub about a commit even if it is cached, which fails without a network.
        complete = Path(snapshot_download(str(source), allow_patterns=_weights_to_fetch(folder)))
    except Exception as error:  # noqa: BLE001 - of many unrelated types: a malformed name, no network, no access, no such repository
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"no causal language model could be loaded from {source}: {reason} "
            "Give a folder written by save_pretrained(...), or a Hub name (owner/name) that this machine can reach or has cached."
        ) from None
    if complete != folder:  # a snapshot's folder is named after its commit: files and weights must come from the same one
        raise InputError(f"{source} was changed on the Hub while it was fetched. Give the same command again.")
    require_safe_folder(folder)
    return folder


def _weights_to_fetch(folder: Path) -> list[str]:
    """Return the names of the weight files that a loader would read, without other formats of the same weights."""
    if (folder / "adapter_config.json").is_file():
        return ["adapter_model.safetensors"]
    if (folder / "ensemble.json").is_file():
        return ["*/adapter_model.safetensors"]
    if not (folder / "model.safetensors.index.json").is_file():
        return ["model.safetensors"]
    _require_files_inside(folder)
    return [*set(read_json(folder / "model.safetensors.index.json")["weight_map"].values()), "model.safetensors"]


def require_listed(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder with files that the loaders of this project would read and its manifest does not list.

    Raises:
        IntegrityError: the folder has such a file.
    """
    for name in _unlisted(folder, manifest["files"]):
        if _is_template(name) or ("/" not in name and _is_one_of(name, LOADED_FILES)):
            raise IntegrityError(
                f"{folder / name} was added after the directory was finished: the manifest does not list it. "
                "Remove the file, or make the directory again."
            )


def changed_adapters(folder: Path) -> list[str]:
    """Return the adapters of an ensemble whose files are missing or not those that its description names; empty without one.

    Each lies in a folder with a manifest of its own, which the manifest of the whole does not cover: only `ensemble.json`, which is
    listed there, binds them.

    Raises:
        InputError: the description is damaged.
    """
    adapters = ensemble_adapters(folder)

    def intact(path: Path, digest: Any) -> bool:
        return path.resolve().is_relative_to(folder.resolve()) and path.is_file() and file_digest(path) == digest

    return [
        str(name)
        for name, files in adapters.items()
        if not all(intact(folder / str(name) / str(file), digest) for file, digest in files.items())
    ]


def ensemble_adapters(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the digests of the files of every adapter of an ensemble, by its folder; empty without an ensemble.

    Raises:
        InputError: the description is damaged.
    """
    if not (folder / "ensemble.json").is_file():
        return {}
    about = read_json(folder / "ensemble.json")
    adapters = about.get("adapters") if isinstance(about, dict) else None
    if not isinstance(adapters, dict) or not all(isinstance(files, dict) and files for files in adapters.values()):
        raise InputError(f"{folder / 'ensemble.json'} is damaged. Restore the folder, or make it again.")
    return adapters


@dataclass(frozen=True)
class Unlisted:
    """Files of a model's folder, at any depth, that its manifest does not list.

    Attributes:
        loaded: relative paths of files that this or another program would take for a part of the model.
        others: relative paths of the rest; one of `OWN_FOLDERS` with a manifest of its own, such as a checkpoint, is one entry.
    """

    loaded: tuple[str, ...]
    others: tuple[str, ...]


def unlisted_files(folder: Path, manifest: Mapping[str, Any]) -> Unlisted:
    """List the files of a model's folder that its manifest does not list, by whether some program would load them."""
    loaded: list[str] = []
    others: list[str] = []
    for name in _unlisted(folder, manifest["files"]):
        (loaded if _is_template(name) or _is_one_of(name, (*LOADED_FILES, *FOREIGN_FILES)) else others).append(name)
    return Unlisted(tuple(loaded), tuple(others))


def _unlisted(folder: Path, listed: Collection[str]) -> Iterator[str]:
    """Yield relative paths of files that are not listed; for an own folder with a manifest, or a link, its path with a slash."""
    for parent, subfolders, files in os.walk(folder):
        here, there = Path(parent).relative_to(folder), Path(parent)
        # Any other folder with a manifest is searched: whoever adds weights could add a manifest, too.
        closed = {name for name in subfolders if _is_one_of(name, OWN_FOLDERS) and (there / name / MANIFEST).is_file()}
        closed |= {name for name in subfolders if (there / name).is_symlink()}  # not followed here, but by a loader
        subfolders[:] = sorted(set(subfolders) - closed)
        yield from (f"{here / name}/" for name in sorted(closed))
        names = ((here / name).as_posix() for name in sorted(files))
        yield from (name for name in names if name not in listed and name != MANIFEST)


def _is_template(name: str) -> bool:
    return name.startswith(f"{CHAT_TEMPLATES}/")


def _is_one_of(name: str, patterns: Collection[str]) -> bool:
    """Return whether the last part of a path matches a pattern, in whatever case: some file systems do not tell them apart."""
    last = name.rsplit("/", 1)[-1].lower()
    return any(fnmatch(last, pattern) for pattern in patterns)


def _require_files_inside(folder: Path) -> None:
    """Refuse a weight index that names files outside the folder, which the loader would follow."""
    for path in sorted(folder.glob("*.index.json")):
        index = read_json(path)
        files = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(files, dict) or any(not isinstance(name, str) or Path(name).name != name for name in files.values()):
            raise InputError(
                f"{path} names weights outside its folder, or is damaged. Save the model again with save_pretrained(...)."
            )


def _require_no_code(folder: Path) -> None:
    """Refuse a configuration that names classes to import from the folder."""
    for path in sorted(folder.glob("*config.json")):
        content = read_json(path, constants=True)
        if isinstance(content, dict) and "auto_map" in content:
            raise InputError(
                f"{path} asks to run code from the model's folder (auto_map); this tool never does. "
                "Convert the model to an architecture of transformers and remove that entry."
            )


def _require_no_pickle(folder: Path) -> None:
    """Refuse weights that a loader would read from a pickle because there are no safetensors."""
    adapter = (folder / "adapter_config.json").is_file()
    pickles = [path.name for path in sorted(folder.iterdir()) if path.name.startswith(("pytorch_model", "adapter_model"))]
    pickles = [name for name in pickles if name.endswith(PICKLE_SUFFIXES)]
    # PEFT opens adapter_model.bin whenever adapter_model.safetensors is missing, whatever other safetensors the folder has.
    has_safetensors = any(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors"))
    if pickles and not has_safetensors:
        raise InputError(
            f"{folder} holds its weights as pickle ({pickles[0]}), which can run code when opened; this tool never opens one. "
            "If you trust it, load it yourself and save it with save_pretrained(...), which writes safetensors."
        )

"""Residues of models that saw deleted records, by lineage: models, checkpoints, unfinished runs, and exports beside them.

Only the files in a folder's manifest are removed; foreign files stay. The manifest is first replaced by a list of the files to
remove: a folder without a manifest is not trusted by any command, and the next run finishes an interrupted removal by that list. A
checkpoint from before the first step with a deleted record stays: it never saw one, and an exact deletion can start there.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from unlearn.purge.residue import CannotCleanError, FoundResidue, Residue
from unlearn.scan.lineage import AffectedModel, stages_of
from unlearn.training.checkpoints import WORK
from verify.errors import InputError
from verify.io.files import MANIFEST, read_json, sync_directory, write_json
from verify.io.strict_json import parse_json
from verify.provenance.descent import trained_records
from verify.provenance.training_log import LOG_NAME

TOMBSTONE = f"{MANIFEST}.removing"
"""File in place of the manifest while a folder is being removed; lists the files to remove."""
UNFINISHED = "unfinished run"
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack")


def model_residues(folders: Sequence[Path], affected: Sequence[AffectedModel], names: Collection[str]) -> list[Residue]:
    """Find model residues among some folders.

    Args:
        folders: all searched folders, resolved; nothing outside of them is removed.
        affected: models that saw the records or descend from such models.
        names: keyed hashes of the records, to recognize unfinished runs.
    """
    inside = set(folders)
    unlearned = behind_unlearning(affected)
    found: list[Residue] = []
    for model in affected:
        folder = model.folder.resolve()
        kind = "adapter" if (folder / "adapter_config.json").is_file() else "model"
        how = f"trained on {model.records} of the records" if model.records else "made from an affected model"
        if folder not in inside:
            reason = "it is outside of the searched folders; name its folder as well"
            found.append(Residue(folder, kind, how, False, reason, model.weights))
        elif model.weights in unlearned and not model.records:
            reason = "it was unlearned from an affected model; spare it if it is in service, else remove it by hand"
            found.append(Residue(folder, kind, how, False, reason, model.weights))
        else:
            found += _of_model(folder, kind, how, model)
    homes = {model.folder.resolve() for model in affected}
    for folder in folders:
        if _base_of_adapter(folder) in homes and folder not in homes:
            reason = "its base is an affected model, and it may have seen the records itself; remove it by hand"
            found.append(Residue(folder, "adapter", "on an affected model", False, reason))
        if (folder / TOMBSTONE).is_file():
            found.append(FoundResidue(folder, "half-removed model", "its removal was interrupted", partial(remove_folder, folder)))
        elif folder.name == WORK and (reason := _unfinished(folder.parent, names)):
            found.append(FoundResidue(folder, UNFINISHED, reason, partial(shutil.rmtree, folder)))
        else:
            found += _without_manifest(folder, names)
    return found


def _without_manifest(folder: Path, names: Collection[str]) -> Iterator[Residue]:
    """Yield the weights in a folder whose log says that they saw a record, and which no manifest vouches for: they stay listed.

    A training that was killed before its last file leaves such weights; so does a model whose manifest was lost.
    """
    weights = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file()]
    if weights and (folder / LOG_NAME).is_file() and (reason := _unfinished(folder, names)):
        advice = "no manifest says which model they are of; make the model again under another name, and remove these by hand"
        yield from (Residue(path, UNFINISHED, reason, False, advice) for path in weights if not path.is_symlink())


def _base_of_adapter(folder: Path) -> Path | None:
    """Return the path of the base that an adapter's configuration names, or None."""
    config = folder / "adapter_config.json"
    try:
        base = (
            parse_json(config.read_text(encoding="utf-8"), constants=True)["base_model_name_or_path"] if config.is_file() else None
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Path(base).resolve() if isinstance(base, str) and "\x00" not in base else None


def covered_files(folder: Path, files: Collection[Path]) -> set[Path]:
    """Return those of the given files that are removed together with a residue."""
    manifest = next((folder / name for name in (TOMBSTONE, MANIFEST) if (folder / name).is_file()), None)
    if manifest is None:
        return {path for path in files if path.is_relative_to(folder)}
    try:
        own = {folder / name for name in _listed(manifest)} | {manifest}
    except CannotCleanError:
        return set()
    return own.union(*(covered_files(stage, files) for stage in stages_of(folder)))


def behind_unlearning(affected: Sequence[AffectedModel]) -> set[str]:
    """Return the digests of weights made by an unlearning method and of weights derived from those."""
    behind = {model.weights for model in affected if model.method is not None}
    while more := {model.weights for model in affected if model.parent in behind} - behind:
        behind |= more
    return behind


def _of_model(folder: Path, kind: str, how: str, model: AffectedModel) -> Iterator[Residue]:
    """Yield a model's checkpoints that saw a record, exports beside it, and last the model itself."""
    checkpoints = _checkpoints(folder)
    clean = [path for path in checkpoints if model.first_step is not None and _step(path) < model.first_step]
    for path in checkpoints:
        if path not in clean:
            seen = f"of step {_step(path)}; {how}"
            yield FoundResidue(path, "checkpoint", seen, partial(remove_folder, path))
    for path in _foreign_weights(folder):
        beside = "in the folder of an affected model"
        if path.parent == folder:
            yield FoundResidue(path, "exported weights", beside, path.unlink)
        else:
            yield Residue(
                path,
                "exported weights",
                beside,
                False,
                "it was probably made from that model; look at it, or remove it by hand",
            )
    going = partial(_remove_alone, folder) if model.alone else partial(remove_folder, folder, clean)
    yield FoundResidue(folder, kind, how, going, model.weights)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("checkpoint-*")) if path.is_dir() and not path.is_symlink() and _step(path) >= 0]


def _step(path: Path) -> int:
    """Return a checkpoint's optimizer step from its name, or -1."""
    named = re.fullmatch(r"checkpoint-(\d{1,12})", path.name)
    return int(named[1]) if named else -1


def _foreign_weights(folder: Path) -> Iterator[Path]:
    """Yield weight files in a model's folder that its manifest does not list, except in folders with their own manifest."""
    try:
        listed = _listed(folder / MANIFEST)
    except CannotCleanError:
        return  # a damaged manifest; removing the model reports that
    for path in _own_files(folder):
        name = path.relative_to(folder)
        if path.suffix.lower() in WEIGHT_SUFFIXES and name.as_posix() not in listed and _step(folder / name.parts[0]) < 0:
            yield path


def _own_files(folder: Path) -> Iterator[Path]:
    """Yield a folder's files recursively, without symbolic links and without subfolders that have a manifest."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not (path / MANIFEST).exists():
            yield from _own_files(path)


def _unfinished(folder: Path, names: Collection[str]) -> str:
    """Describe an unfinished run that saw a record, in the folder of its result; "" for any other."""
    if (folder / MANIFEST).exists():
        return ""
    try:
        seen = len(trained_records(folder) & set(names))
    except InputError:
        return ""
    return f"an interrupted run, trained on {seen} of the records" if seen else ""


def remove_folder(folder: Path, spare: Collection[Path] = ()) -> None:
    """Remove the files in a folder's manifest, and the folder if it is empty then.

    Args:
        folder: a model or checkpoint; without a manifest the whole folder is removed.
        spare: folders inside it that stay.

    Raises:
        CannotCleanError: the manifest is damaged, or names files outside of the folder; then nothing is removed.
    """
    tombstone = folder / TOMBSTONE
    if (folder / MANIFEST).is_file():
        names = [name for name in _listed(folder / MANIFEST) if not any((folder / name).is_relative_to(kept) for kept in spare)]
        _require_inside(folder, names)
        write_json(tombstone, {"files": sorted(names)})
        (folder / MANIFEST).unlink()
        sync_directory(folder)
    elif not tombstone.is_file():
        shutil.rmtree(folder)
        return
    names = sorted(_listed(tombstone))
    _require_inside(folder, names)
    for name in names:
        (folder / name).unlink(missing_ok=True)
        _remove_empty((folder / name).parent, folder)
    _remove_parts(folder)
    tombstone.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove_alone(stage: Path) -> None:
    """Remove a stage without a model around it, and what is empty then of the folders that the training had made for it."""
    remove_folder(stage)
    if stage.parent.name.startswith("shard-"):
        _remove_empty(stage.parent, stage.parents[2])


def _require_inside(folder: Path, names: Collection[str]) -> None:
    for name in names:
        path = folder / name
        if "\x00" in name or ".." in path.parts or not path.parent.resolve().is_relative_to(folder) or path.is_dir():
            raise CannotCleanError("its manifest names files outside of it; look at the folder, and remove it by hand")


def _remove_parts(folder: Path) -> None:
    """Remove the stages of a training in shards, which have manifests of their own; other models and spared checkpoints stay."""
    for stage in stages_of(folder):
        if _kind(stage / MANIFEST) == "shard" or (stage / TOMBSTONE).is_file():
            remove_folder(stage)
        _remove_empty(stage.parent, folder)


def _kind(manifest: Path) -> str:
    try:
        return str(read_json(manifest).get("kind"))
    except (InputError, AttributeError):
        return ""


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and its parents below `top`, as far as they are empty."""
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _listed(manifest: Path) -> set[str]:
    try:
        return {str(name) for name in parse_json(manifest.read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CannotCleanError("its manifest is damaged, so its files are not known; remove the folder by hand") from None

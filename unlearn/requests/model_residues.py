"""What is left of models that saw deleted records, by lineage: models, checkpoints, unfinished runs, and exports beside them.

A folder goes by what its manifest lists, file by file, so that a stranger's file in it stays. First of all the manifest gives way
to a list of what is to go: nobody trusts a folder without a manifest, and a removal that was cut off is known by that list, and
finished. A checkpoint from before the first step that saw a record stays: it never saw one, and an exact deletion can start there.
"""

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from unlearn.checkpoints import WORK
from unlearn.provenance import LOG_NAME, TrainingLog
from unlearn.requests.lineage import AffectedModel
from unlearn.requests.residues import CannotMendError, FoundResidue, Residue
from verify.errors import InputError
from verify.files import MANIFEST, read_json, sync_directory, write_json
from verify.strict_json import parse_json

TOMBSTONE = f"{MANIFEST}.removing"
"""What stands in a manifest's place while its folder is being removed: the files that are still to go."""
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".msgpack")


def model_residues(folders: Sequence[Path], affected: Sequence[AffectedModel], names: Collection[str]) -> list[Residue]:
    """Residues among some folders.

    Args:
        folders: every folder that was walked, resolved; nothing outside of them is removed.
        affected: models that saw the records or descend from those.
        names: keyed hashes of the records, for runs that never became a model.
    """
    inside = set(folders)
    unlearned = behind_unlearning(affected)
    found: list[Residue] = []
    for model in affected:
        folder = model.folder.resolve()
        kind = "adapter" if (folder / "adapter_config.json").is_file() else "model"
        how = f"trained on {model.records} of the records" if model.records else "made from an affected model"
        if folder not in inside:
            reason = "it lies outside of the folders that are searched; name its folder as well"
            found.append(Residue(folder, kind, how, False, reason, model.weights))
        elif model.weights in unlearned and not model.records:
            reason = "it was unlearned from an affected model: spare it if it is in service, else remove it by hand"
            found.append(Residue(folder, kind, how, False, reason, model.weights))
        else:
            found += _of_model(folder, kind, how, model)
    places = {model.folder.resolve() for model in affected}
    for folder in folders:
        if _base_of_adapter(folder) in places and folder not in places:
            reason = "its base is an affected model; whether it saw the records itself is not known; remove it by hand"
            found.append(Residue(folder, "adapter", "on an affected model", False, reason))
        if (folder / TOMBSTONE).is_file():
            found.append(FoundResidue(folder, "half-removed model", "its removal was cut off", partial(remove_folder, folder)))
        elif folder.name == WORK and (reason := _unfinished(folder, names)):
            found.append(FoundResidue(folder, "unfinished run", reason, partial(shutil.rmtree, folder)))
    return found


def _base_of_adapter(folder: Path) -> Path | None:
    config = folder / "adapter_config.json"
    try:
        base = (
            parse_json(config.read_text(encoding="utf-8"), constants=True)["base_model_name_or_path"] if config.is_file() else None
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Path(base).resolve() if isinstance(base, str) and "\x00" not in base else None


def covered_files(place: Path, files: Collection[Path]) -> set[Path]:
    """The files, of those given, that go when a residue is removed."""
    manifest = next((place / name for name in (TOMBSTONE, MANIFEST) if (place / name).is_file()), None)
    if manifest is None:
        return {path for path in files if path.is_relative_to(place)}
    try:
        return {place / name for name in _listed(manifest)} | {manifest}
    except CannotMendError:
        return set()


def behind_unlearning(affected: Sequence[AffectedModel]) -> set[str]:
    """Weights that an unlearning method made, and weights made from those."""
    behind = {model.weights for model in affected if model.method is not None}
    while more := {model.weights for model in affected if model.parent in behind} - behind:
        behind |= more
    return behind


def _of_model(folder: Path, kind: str, how: str, model: AffectedModel) -> Iterator[Residue]:
    clean = [place for place in _checkpoints(folder) if model.first_step is not None and _step(place) < model.first_step]
    for place in _checkpoints(folder):
        if place not in clean:
            seen = f"of step {_step(place)}; {how}"
            yield FoundResidue(place, "checkpoint", seen, partial(remove_folder, place))
    for path in _foreign_weights(folder):
        beside = "in the folder of an affected model"
        if path.parent == folder:
            yield FoundResidue(path, "exported weights", beside, path.unlink)
        else:
            yield Residue(path, "exported weights", beside, False, "that it was made from that model is likely, but not known")
    yield FoundResidue(folder, kind, how, partial(remove_folder, folder, clean), model.weights)


def _checkpoints(folder: Path) -> list[Path]:
    return [
        place for place in sorted(folder.glob("checkpoint-*")) if place.is_dir() and not place.is_symlink() and _step(place) >= 0
    ]


def _step(place: Path) -> int:
    """The optimizer step that a checkpoint holds the result of, by its name; -1 where the name tells none."""
    named = re.fullmatch(r"checkpoint-(\d{1,12})", place.name)
    return int(named[1]) if named else -1


def _foreign_weights(folder: Path) -> Iterator[Path]:
    """Weight files in a model's folder that its manifest does not know, folders with a manifest of their own left out."""
    try:
        listed = _listed(folder / MANIFEST)
    except CannotMendError:
        return  # what is whose is not known; removing the model itself says so
    for path in _own_files(folder):
        name = path.relative_to(folder)
        if path.suffix in WEIGHT_SUFFIXES and name.as_posix() not in listed and _step(folder / name.parts[0]) < 0:
            yield path


def _own_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not (path / MANIFEST).exists():
            yield from _own_files(path)


def _unfinished(work: Path, names: Collection[str]) -> str:
    """Whether a working folder is that of a run that saw a record, and never ended; "" where it is not."""
    log = work.parent / LOG_NAME
    if (work.parent / MANIFEST).exists() or not log.is_file():
        return ""
    try:
        seen = len(set(TrainingLog.read(log).records) & set(names))
    except InputError:
        return ""
    return f"a run that was cut off, trained on {seen} of the records" if seen else ""


def remove_folder(folder: Path, spare: Collection[Path] = ()) -> None:
    """Remove what a folder's manifest lists; other files stay, and with them the folder.

    Args:
        folder: a model or checkpoint; without a manifest the whole folder goes.
        spare: folders inside it that stay.

    Raises:
        CannotMendError: the manifest is damaged, or names files outside of the folder; nothing is removed then.
    """
    tombstone = folder / TOMBSTONE
    if (folder / MANIFEST).is_file():
        names = [name for name in _listed(folder / MANIFEST) if not any((folder / name).is_relative_to(place) for place in spare)]
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


def _require_inside(folder: Path, names: Collection[str]) -> None:
    for name in names:
        path = folder / name
        if "\x00" in name or ".." in path.parts or not path.parent.resolve().is_relative_to(folder) or path.is_dir():
            raise CannotMendError("its manifest names what is no file of it; look at the folder, and remove it by hand")


def _remove_parts(folder: Path) -> None:
    """The stages of shards have manifests of their own; other models inside it and spared checkpoints stay."""
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.is_symlink() and _kind(part / MANIFEST) == "shard":
            remove_folder(part)


def _kind(manifest: Path) -> str:
    try:
        return str(read_json(manifest).get("kind"))
    except (InputError, AttributeError):
        return ""


def _remove_empty(place: Path, top: Path) -> None:
    while place != top and place.is_dir() and not any(place.iterdir()):
        place.rmdir()
        place = place.parent


def _listed(manifest: Path) -> set[str]:
    try:
        return {str(name) for name in parse_json(manifest.read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CannotMendError("its manifest is damaged, so that its files are not known; remove the folder by hand") from None

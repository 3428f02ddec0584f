"""Models of which it is not known whether they saw a person's records, each with the reason and with what to do.

A model is asked by comparing the keyed hashes in its training log, or in what stands for it, with those of the records. Where its
list was written with another record key, or is of other files, no record is recognized, and silence would say that it saw none.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.scan.lineage import records_of_models
from verify.data.identity import KEY_VARIABLE, RecordKey
from verify.errors import InputError
from verify.io.files import MANIFEST
from verify.provenance.descent import key_check_of

WEIGHTS = ("*.safetensors", "*.gguf", "pytorch_model*.bin", "adapter_model.bin")
"""Names of the files by which a model of other programs is recognized."""


@dataclass(frozen=True)
class UnknownModel:
    """A model of which it is not known whether it saw the records.

    Attributes:
        folder: its folder.
        weights: digest of its weights; None for a model of another program.
        why: the reason, and what to do; it names nobody.
    """

    folder: Path
    weights: str | None
    why: str


def unknown_models(
    roots: Sequence[str | Path],
    known: Collection[str],
    key: RecordKey,
    *,
    affected: Collection[Path] = (),
    new_key: bool = False,
    whole: bool = False,
) -> list[UnknownModel]:
    """Return the models below some folders of which it is not known whether they saw the records of some files.

    Args:
        roots: folders to search.
        known: keyed hashes of all records in the searched files; those that no model lists may be left out.
        key: the key of these hashes.
        affected: folders of the models that are known to have seen some.
        new_key: whether the key file was missing and has just been made, so that no log can have been written with it.
        whole: whether a model that was also trained on records in none of the files counts: for a search by person.

    Raises:
        InputError: a root is not a folder, or a training log is damaged.
    """
    found: dict[Path, UnknownModel] = {}
    searched = frozenset(known)
    for folder, weights, seen in records_of_models(roots):
        if folder in affected:
            continue
        if seen.isdisjoint(searched):
            found[folder.resolve()] = UnknownModel(folder, weights, _why(folder, bool(seen), key, new_key))
        elif whole and (missing := len(seen - searched)):
            why = f"{missing} of {len(seen)} records that it was trained on are in none of these files, and may be this person's. "
            found[folder.resolve()] = UnknownModel(folder, weights, f"{why}Name all its training files with --data.")
    return list(found.values())


def _why(folder: Path, lists: bool, key: RecordKey, new_key: bool) -> str:
    """Return why a model that lists none of the records is not known to have seen none."""
    path, none = RecordKey.default_path(), "it lists none of the records in these files under this record key"
    if not lists:
        return (
            "nothing in its folder lists what it was trained on. Restore its training log, or treat it as trained on these records "
            "if it may have been."
        )
    if new_key:
        return (
            f"{none}: the key file {path} was missing, and this command made a new one. Give the key that its log was written "
            f"with: {KEY_VARIABLE}=FILE before the command."
        )
    check = key_check_of(folder)
    if check is None:
        return f"{none}. Give the key that its log was written with ({KEY_VARIABLE}), and the file that it was trained on (--data)."
    if check != key.check:
        return f"{none}: its log was written with another one than {path}. Give that key: {KEY_VARIABLE}=FILE before the command."
    return f"{none}, which its log was written with. Give the file that it was trained on (--data)."


def without_manifest(roots: Sequence[str | Path]) -> Iterator[Path]:
    """Yield folders with weights that are neither a model of this program nor lie inside one: nothing says what they saw.

    Raises:
        InputError: a root is not a folder.
    """
    for root in map(Path, roots):
        if not root.is_dir():
            raise InputError(f"{root} is not a folder. Name the folders that contain models with --models DIR ...")
        folders = {path.parent for pattern in WEIGHTS for path in root.rglob(pattern)}
        for folder in sorted(folders):
            above = (folder, *(parent for parent in folder.parents if parent.is_relative_to(root)))
            if not any((parent / MANIFEST).exists() for parent in above):
                yield folder

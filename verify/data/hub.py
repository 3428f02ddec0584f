"""Data sets of the `datasets` library: folders on this machine, and repositories on the Hub with their configurations and splits.

A data set is named `NAME`, `NAME:SPLIT`, `NAME:CONFIGURATION:SPLIT` or `NAME::SPLIT`, where NAME is a folder or `owner/name`.
The split may be left out only where there is one: the people of another would silently be missing.
Everything is streamed: an Arrow cache would keep a copy of what is to be deleted.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from verify.data.tabular import without_fill
from verify.errors import InputError

WAYS = "owner/name:split, or owner/name:configuration:split"
LISTED = 30
"""Largest number of names that a message lists."""
WHOLE = (".jsonl", ".ndjson", ".json")
PLAIN = (*WHOLE, ".csv", ".parquet")
"""Files that this project reads itself; those of `WHOLE` are checked to their end, the others by their columns and first row."""
OTHER_FILES = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""Files that the `datasets` library takes for descriptions, not for data."""
ABOUT, ABOUT_SUFFIXES = ("readme", "license", "licence"), ("", ".md", ".txt", ".rst")
"""Files for people who read about a data set, by name and suffix."""
OWN_FILES = ("state.json", "cache-*.arrow")
"""What else the library writes into the folder of a saved data set: a description, and what `map` made from the rows."""
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")
"""Pictures, such as those in a README; they hold no records."""

Reader = Callable[[str], Iterator[Mapping[str, Any]]]


class DatasetName(NamedTuple):
    """A parsed data-set name; None for parts that the source leaves open."""

    path: str
    configuration: str | None
    split: str | None


def dataset_name(source: str) -> DatasetName:
    """Split a data-set name at its colons; those within brackets belong to a slice of a split (`train[:100]`).

    Raises:
        InputError: it has more than three parts.
    """
    parts = re.split(r":(?![^\[]*\])", source)
    if len(parts) > 3:
        raise InputError(f"{source} has {len(parts)} parts between colons. Give {WAYS}.")
    path, *more = parts
    return DatasetName(path, (more[0] or None) if len(more) == 2 else None, (more[-1] or None) if more else None)


def names_dataset(source: str) -> bool:
    """Return whether a source that is not an existing path can be a folder with a split, or a Hub name."""
    path = re.split(r":(?![^\[]*\])", source)[0]
    if path != source and Path(path).is_dir():
        return True
    return not Path(path).suffix and path.count("/") == 1 and not path.startswith((".", "/", "~"))


def dataset_rows(source: str, read: Reader) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of one split of a data set.

    Args:
        source: the data set's name.
        read: this project's reader of a single file, which checks the files of a folder: the library renames repeated columns.

    Raises:
        InputError: there is no such data set, configuration or split (the message lists those that exist), no split is named and
            there are several, a file is ambiguous or cut off, or the Hub cannot be reached.
    """
    name = dataset_name(source)
    folder = Path(name.path)
    if folder.is_dir() and any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json", "dataset_info.json")):
        return _whole(source, _saved_rows(folder, name))
    return _whole(source, map(without_fill, _streamed(source, name, read)))


def _whole(source: str, rows: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield rows; an error of the library on the way becomes an InputError with the row's number."""
    number = 0
    try:
        for number, row in enumerate(rows, 1):  # noqa: B007 - the number is for the message
            yield row
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises many unrelated types
        raise InputError(
            f"{source} cannot be read after row {number} ({type(error).__name__}); a file of it may be cut off. "
            "Make it again, or give its .jsonl, .csv or .parquet file by name."
        ) from None


def _saved_rows(folder: Path, name: DatasetName) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a folder written by `save_to_disk`."""
    import datasets

    split = None
    try:
        loaded = datasets.load_from_disk(str(folder), keep_in_memory=False)
    except (FileNotFoundError, ValueError, OSError):
        raise _no_folder(folder) from None
    if name.configuration is not None:
        raise InputError(f"{folder} was written by save_to_disk and has no configurations. Give {folder}, or {folder}:split.")
    if isinstance(loaded, datasets.DatasetDict):
        if name.split is None and len(loaded) != 1:
            raise InputError(f"{folder} holds several splits ({_listed(list(loaded))}). Give one: {folder}:{next(iter(loaded))}.")
        if name.split is not None and name.split not in loaded:
            raise InputError(f"{folder} has no split {name.split!r}. It has: {_listed(list(loaded))}.")
        split = name.split or next(iter(loaded))
        loaded = loaded[split]
    elif name.split is not None:
        raise InputError(f"{folder} holds one split without a name. Give {folder} alone.")
    if name.split is None:
        own = [file for pattern in OWN_FILES for file in folder.rglob(pattern)]
        _require_nothing_left(folder, (*own, *(file["filename"] for file in loaded.cache_files)), split)
    return map(without_fill, iter(loaded))


def _no_folder(folder: Path) -> InputError:
    return InputError(
        f"{folder} is not a folder written by Dataset.save_to_disk, nor a data set's folder. "
        "Give such a folder, or a .jsonl, .csv or .parquet file."
    )


def _streamed(source: str, name: DatasetName, read: Reader) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a data set's folder or of a Hub repository, without a cache."""
    import datasets

    if Path(name.path).is_dir() and not any(Path(name.path).iterdir()):
        raise _no_folder(Path(name.path))
    try:
        split = name.split or _only_split(name)
        rows: Iterator[Mapping[str, Any]] = iter(datasets.load_dataset(name.path, name.configuration, split=split, streaming=True))
        if Path(name.path).is_dir():
            _require_plain(name, split, read)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises many unrelated types; the explanation is by what exists
        raise InputError(_explanation(source, name, error)) from None
    return rows


def _only_split(name: DatasetName) -> str:
    """Return a folder's only split, or "train" for a data set of the Hub.

    Raises:
        InputError: the folder has several splits.
    """
    import datasets

    splits = list(datasets.get_dataset_split_names(name.path, name.configuration))
    if len(splits) > 1:
        ways = f"{name.path}:{name.configuration or ''}:" if name.configuration else f"{name.path}:"
        raise InputError(
            f"{name.path} holds several splits ({_listed(splits)}), and each may hold other people. Give one: {ways}{splits[0]}."
        )
    return splits[0] if splits and Path(name.path).is_dir() else "train"


def _require_plain(name: DatasetName, split: str, read: Reader) -> None:
    """Require that the files of a folder's split are whole and unambiguous, and that no data file lies outside all splits.

    Raises:
        InputError: as `read`, or no split was named and a data file is in none.
    """
    import datasets

    folder = Path(name.path)
    config = datasets.load_dataset_builder(name.path, name.configuration).config
    files = {str(part): [Path(file) for file in listed] for part, listed in (config.data_files or {}).items()}
    if name.split is None and not _described(name):
        _require_nothing_left(folder, (file for listed in files.values() for file in listed), split)
    if getattr(config, "sep", ",") != "," or getattr(config, "field", None) is not None:
        return  # the folder's description sets another format, which the project's own readers do not read
    for file in files.get(split, []):
        if file.suffix.lower() in PLAIN and file.is_file():
            rows = read(str(file))
            next(rows, None)
            if file.suffix.lower() in WHOLE:
                for _ in rows:
                    pass


def _described(name: DatasetName) -> bool:
    """Return whether a folder's own description says which files its configuration has; the library then reads no others."""
    import yaml
    from huggingface_hub import DatasetCard

    folder, listed = Path(name.path), list[dict[str, Any]]()
    if (folder / "README.md").is_file():
        listed = DatasetCard.load(folder / "README.md").data.to_dict().get("configs") or []
    if (folder / ".huggingface.yaml").is_file():
        listed = (yaml.safe_load((folder / ".huggingface.yaml").read_text(encoding="utf-8")) or {}).get("configs") or listed
    chosen = [one for one in listed if name.configuration in (None, one["config_name"])]
    return any("data_files" in one or "data_dir" in one for one in chosen)


def _require_nothing_left(folder: Path, taken: Iterable[str | Path], split: str | None) -> None:
    """Require that a folder has no data file but those that are read.

    Args:
        folder: the folder.
        taken: the files that are read.
        split: the split, which can be given where only its files are meant; None where there is none to give.

    Raises:
        InputError: others would be left out; the message names them.
    """
    read = {Path(file).resolve() for file in taken}
    left = [str(file.relative_to(folder)) for file in _data_files(folder) if file.resolve() not in read]
    if left:
        meant = "" if split is None else f", give {folder}:{split} if that is meant"
        raise InputError(
            f"{folder} is read in part only: {_listed(left)} would be left out. "
            f"Move or rename them{meant}, or give each file by name."
        )


def _data_files(folder: Path) -> list[Path]:
    """Return whatever under a folder may hold records, of any kind: all but what is hidden, describes or depicts.

    A file of a kind that nobody here reads counts, too, as does a link that leads nowhere: its people would be missing.
    """
    found: list[Path] = []
    waiting, seen = [folder], set[Path]()
    while waiting:
        place = waiting.pop()
        if (real := place.resolve()) in seen:  # a link to a folder above
            continue
        seen.add(real)
        for entry in place.iterdir():
            if entry.is_dir():
                waiting += [] if entry.name.startswith((".", "__")) else [entry]
            elif not entry.name.startswith(".") and not _holds_no_records(entry):
                found.append(entry)
    return sorted(found)


def _holds_no_records(file: Path) -> bool:
    """Return whether a file describes a data set, or is a picture."""
    about = file.stem.lower() in ABOUT and file.suffix.lower() in ABOUT_SUFFIXES
    return about or file.name in OTHER_FILES or file.suffix.lower() in IMAGES


def _explanation(source: str, name: DatasetName, error: Exception) -> str:
    """Explain why a data set could not be opened: unreachable, unknown, or no such configuration or split."""
    import datasets

    local = Path(name.path).is_dir()
    if local and isinstance(error, datasets.exceptions.DataFilesNotFoundError):
        return str(_no_folder(Path(name.path)))
    try:
        configurations = list(datasets.get_dataset_config_names(name.path))
        chosen = name.configuration or (configurations[0] if len(configurations) == 1 else None)
        splits = list(datasets.get_dataset_split_names(name.path, chosen)) if chosen in configurations else []
    except Exception as listing:  # noqa: BLE001 - as above
        return _unlisted(source, name, error, listing, local)
    if name.configuration is not None and name.configuration not in configurations:
        return f"{name.path} has no configuration {name.configuration!r}. It has: {_listed(configurations)}."
    if name.configuration is None and len(configurations) > 1:
        meant = name.split if name.split in configurations else None
        said = f"{meant!r} is a configuration of {name.path}, not a split. " if meant else ""
        example = f"{name.path}:{meant or configurations[0]}:{_first_split(name.path, meant or configurations[0])}"
        return f"{said}{name.path} has the configurations {_listed(configurations)}. Name one, with its split: {example}."
    wanted = name.split or "train"
    if wanted.partition("[")[0] not in splits:
        return f"{name.path} has no split {wanted!r}. It has: {_listed(splits)}. Give {name.path}:{name.configuration or ''}:SPLIT."
    if "[" in wanted:
        return f"{source}: a part of a split cannot be streamed. Give the whole split {wanted.partition('[')[0]!r}, or a file."
    return f"{source} exists, but cannot be read ({type(error).__name__}). Download it and give its file."


def _first_split(path: str, configuration: str) -> str:
    import datasets

    try:
        return str(datasets.get_dataset_split_names(path, configuration)[0])
    except Exception:  # noqa: BLE001 - it is only an example in a message
        return "SPLIT"


def _unlisted(source: str, name: DatasetName, error: Exception, listing: Exception, local: bool) -> str:
    """Return the message for a data set of which not even the configurations can be listed."""
    import datasets

    if local:
        return str(_no_folder(Path(name.path)))
    kinds = {kind.__name__ for one in (error, listing) for kind in type(one).__mro__}
    if "OfflineModeIsEnabled" in kinds:
        return (
            f"{source} is not an existing file, and the Hub is switched off here (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set); "
            "whether there is such a data set is not known. Give a file, or unset the variable."
        )
    if isinstance(listing, datasets.exceptions.DatasetNotFoundError) and not kinds & {"ConnectionError", "ConnectError", "Timeout"}:
        return (
            f"{source} is not an existing file, and the Hub has no public data set of this name. Check it ({WAYS}); "
            "for a private or gated one log in with `hf auth login`."
        )
    return (
        f"{source} is neither an existing file nor a data set that can be reached ({type(listing).__name__}): the Hub did not "
        f"answer, so whether it exists is not known. Check the network and the name ({WAYS}), or give a file."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")

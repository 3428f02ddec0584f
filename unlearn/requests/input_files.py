"""Small files in which a person's identifiers stand as they were given: lists for `request add`, batches, OpenDSR requests.

The ledger keeps no names, so that it cannot say from which file a request came. Identifiers are recognized by their keyed hashes.
"""

import csv
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from verify.data.identity import RecordKey
from verify.io.strict_json import parse_json

SUFFIXES = (".txt", ".csv", ".json", "")
LARGEST = 1 << 18
"""Size limit in bytes of a file that is read."""


def files_naming(folders: Collection[Path], subjects: Collection[str], key: RecordKey) -> list[Path]:
    """Return the files directly in some folders with a line, cell or JSON text that is an identifier of one of these people.

    Args:
        folders: the folders; their subfolders are not searched.
        subjects: keyed hashes of the people.
        key: the record key.
    """
    wanted = set(subjects)
    files = sorted({path.resolve() for folder in folders if folder.is_dir() for path in folder.iterdir() if _is_small(path)})
    return [path for path in files if any(wanted & set(key.names_of_person(value)) for value in _values(path) if _is_text(value))]


def _is_small(path: Path) -> bool:
    try:
        return path.suffix.lower() in SUFFIXES and path.is_file() and path.stat().st_size <= LARGEST
    except OSError:  # such as a folder that may be listed but not entered
        return False


def _is_text(value: str) -> bool:
    """Return whether a value has no unpaired surrogate, which JSON can hold and which cannot be hashed."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _values(path: Path) -> Iterator[str]:
    """Yield the texts of a file that may be identifiers; nothing for a file that is not text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return
    yield from filter(None, (line.strip() for line in text.splitlines()))
    if path.suffix.lower() == ".csv":
        for separator in ",;\t":
            with suppress(csv.Error):  # such as a cell beyond the reader's limit
                for row in csv.reader(text.splitlines(), delimiter=separator):
                    yield from (cell.strip() for cell in row if cell.strip())
    if path.suffix.lower() == ".json":
        try:
            yield from _texts(parse_json(text, constants=True))
        except (ValueError, RecursionError):
            return


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from _texts(inner)

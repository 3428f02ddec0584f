"""Rows of training files as a search reads them: the record, and what else stands in the row."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.scan.linking import identifiers_by_person
from verify.data.records import Fields, Record, parse_row, text_columns
from verify.data.sources import stream_rows
from verify.errors import InputError
from verify.io.progress import phase


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        file: the file.
        number: its number, from 1.
        record: what is read of it.
        columns: the names of its columns that have a value.
        values: a function that yields what is not its text: its subjects, and the columns that are not read.
        people: a function that yields the identifiers that belong to one person each (`unlearn.scan.linking`).
    """

    file: str
    number: int
    record: Record
    columns: tuple[str, ...]
    values: Callable[[], Iterator[str]]
    people: Callable[[], Iterator[tuple[str, ...]]]


def all_rows(files: Sequence[str | Path], fields: Fields | None, doing: str) -> Iterable[Row]:
    """Yield the rows of all files, and report the share that was read as progress of what is being done.

    Raises:
        InputError: a file cannot be read or has no rows; nobody is found in an empty file, whoever it was exported for.
    """
    named = fields or Fields()
    with phase(doing) as progress:
        for number, file in enumerate(files):
            row = 0
            for row, raw in enumerate(stream_rows(str(file), _share_of(progress, number, len(files))), 1):
                record = parse_row(raw, named, f"{file}, row {row}")
                columns = tuple(str(name) for name, value in raw.items() if value not in (None, ""))
                yield Row(
                    str(file),
                    row,
                    record,
                    columns,
                    partial(_beside, raw, named),
                    partial(identifiers_by_person, raw, record, named),
                )
            if not row:
                raise InputError(f"{file} has no rows, so nobody can be found in it. Export it again, or leave it out of --data.")


def _beside(raw: Mapping[str, Any], fields: Fields) -> Iterator[str]:
    """Yield the values of a row that are not its texts."""
    texts = text_columns(raw, fields)
    return _values(value for name, value in raw.items() if name not in texts)


def _values(entries: Iterable[Any]) -> Iterator[str]:
    """Yield all texts and numbers among some values of a row, at any depth, and the names inside objects."""
    left = list(entries)
    while left:
        entry = left.pop()
        if isinstance(entry, Mapping):
            left += [*entry.keys(), *entry.values()]
        elif isinstance(entry, list | tuple):
            left += entry
        elif isinstance(entry, str):
            yield entry
        elif isinstance(entry, int | float | Decimal | uuid.UUID) and not isinstance(entry, bool):
            yield str(entry)


def _share_of(progress: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    """Return a callback that turns the share of one file into that of all files, and reports every tenth of a per cent."""
    told = -1.0

    def watch(share: float) -> None:
        nonlocal told
        if share >= told + 0.001:
            told = share
            progress((number + share) / count)

    return watch

"""Read rows of CSV and Parquet files, refusing repeated column names.

Readers that build a dictionary per row silently keep only the last of several columns of one name: the contents of the others would
be neither trained on nor searched. Such files are refused here.
"""

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from verify.errors import InputError

CSV_FIELD_LIMIT = 1 << 24
"""Largest cell in characters."""
_CALLED = {",": "comma", ";": "semicolon", "\t": "tab"}
_PLURAL = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LONGEST_HEADER = 1000
"""Most lines that are read to find the end of a header: beyond, a quotation mark in it was not closed."""
_QUOTED = re.compile(r'"[^"]*"')
_STATED = re.compile(r"sep=([,;\t])\s*")
"""First line by which some spreadsheets state what separates the cells."""
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,30}", re.ASCII)


def csv_rows(
    lines: Iterable[str], where: str, known: Collection[str] | None = None, delimiter: str | None = None
) -> Iterator[dict[str, str]]:
    """Yield the rows of CSV text as column -> cell, without blank lines.

    Args:
        lines: opened with `newline=""`.
        where: the file's name in error messages.
        known: column names that error messages may repeat, for files in which the first line may be a person's identifier; None for
            all that look like a column's.
        delimiter: what separates the cells; None for the comma, semicolon or tab that the header shows.

    Raises:
        InputError: it is not clear what separates the cells, the header names a column twice, a row has another number of cells
            than the header, or the lines of a row may be rows of their own; that may be known only at the end.
        csv.Error: it is not CSV.
    """
    csv.field_size_limit(CSV_FIELD_LIMIT)
    lines = iter(lines)
    head, delimiter = _header_of(lines, where, delimiter)
    rows = _rows_with_lines(chain(head, lines), delimiter)
    header, own = next(rows, ([], []))
    require_unique(header, where, known)
    # A file that quotes nothing is divided right at every mark and every line; in one that quotes, some cell shows that it does.
    unquoted, doubtful = _are_rows(own, delimiter, len(header)), 0
    for number, (row, own) in enumerate(rows, 1):
        if len(row) != len(header):
            spans = f"; its quotation marks join {len(own)} lines" if len(own) > 1 else ""
            raise InputError(
                f"{where}, row {number} has another number of columns than the header "
                f"({len(row)} instead of {len(header)}{spans}). "
                f"Correct it: put a cell that holds a {_CALLED.get(delimiter, delimiter)} or a line break in quotation marks."
            )
        apart = _are_rows(own, delimiter, len(header))
        unquoted = unquoted and apart
        if apart and len(own) > 1:
            # In a sentence a space follows the mark, and one within quotation marks is doubled; in bare cells hardly ever.
            if not any(sign in line for line in own for sign in (f"{delimiter} ", '""')):
                raise InputError(_joined(where, number))
            doubtful = doubtful or number
        yield dict(zip(header, row, strict=True))
    if doubtful and unquoted:
        raise InputError(_joined(where, doubtful))


def _rows_with_lines(lines: Iterable[str], delimiter: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the rows of CSV text that are not blank, each with its lines."""
    own: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            own.append(line)
            yield line

    for row in csv.reader(noted(), strict=True, delimiter=delimiter):
        if row:
            yield row, own.copy()
        own.clear()


def _are_rows(lines: Sequence[str], delimiter: str, columns: int) -> bool:
    """Return whether every line would be a row if quotation marks were part of the text; no telling with a single column."""
    return columns > 1 and all(line.count(delimiter) == columns - 1 for line in lines if line.strip())


def _joined(where: str, row: int) -> str:
    return (
        f"{where}, row {row}: a cell begins with a quotation mark that is closed in a later line, and each of these lines has the "
        "cells of a whole row, so that it is not clear whether they are one row or several. If several, put the cell in quotation "
        'marks and double those that belong to its text, as spreadsheets do ("""Yes, she said."); if one, give it as JSON Lines.'
    )


def _header_of(lines: Iterator[str], where: str, given: str | None) -> tuple[list[str], str]:
    """Take the header's lines; return them, without a line that states the delimiter, and what separates the cells.

    Raises:
        InputError: that is not clear, or the header has others than the given one; read as one column, a whole row would pass for a
            text or be missed.
    """
    first = next((line for line in lines if line.strip()), "")
    if (stated := _STATED.fullmatch(first)) and given in (None, stated[1]):
        return [], stated[1]
    head = [first]
    while sum(part.count('"') for part in head) % 2 and len(head) < _LONGEST_HEADER and (line := next(lines, "")):
        head.append(line)
    if given is None:
        return head, _delimiter("".join(head), where)
    names = _QUOTED.sub("", "".join(head))
    if given not in names and (others := [mark for mark in _CALLED if mark in names]):
        raise InputError(
            f"{where}: the header has {' and '.join(_PLURAL[mark] for mark in others)} and no {_CALLED.get(given, given)}. "
            f"Separate its cells by {_PLURAL.get(given, given)}, or name the file .csv."
        )
    return head, given


def _delimiter(header: str, where: str) -> str:
    """Return what separates the cells of a header: the only mark outside quotes, or the comma where it is the most frequent."""
    names = _QUOTED.sub("", header)
    counts = {mark: names.count(mark) for mark in _CALLED if mark in names}
    others = max((count for mark, count in counts.items() if mark != ","), default=0)
    if counts.get(",", 0) > others or not counts:
        if counts or "|" not in names:
            return ","
        counts = {"|": names.count("|")}
    elif len(counts) == 1:
        return next(iter(counts))
    shown = " and ".join(f"{count} {(_CALLED if count == 1 else _PLURAL).get(mark, mark)}" for mark, count in counts.items())
    raise InputError(
        f"{where}: the header has {shown}, so it is not clear what separates its cells. Separate them by commas, semicolons or "
        "tabs, and put a name that holds one of these in quotation marks."
    )


def parquet_rows(path: Path, watch: Callable[[float], None] = lambda _: None) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a Parquet file; `watch` is called with the share that was read, before each batch of rows.

    Raises:
        InputError: it is truncated, or names a column or a field of a column twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            _require_unique_fields(table.schema_arrow, str(path))
            done, rows = 0, max(1, table.metadata.num_rows)
            for batch in table.iter_batches():
                watch(done / rows)
                yield from map(without_fill, batch.to_pylist())
                done += len(batch)
    except (InputError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - a damaged file may fail in any way in the library that reads it
        raise InputError(f"{path} is not a whole Parquet file; it may be cut off. Export it again.") from None


def _require_unique_fields(schema: Any, where: str) -> None:
    """Refuse a schema or struct that, at any depth, names a field twice."""
    import pyarrow.types as kinds

    require_unique([field.name for field in schema], where)
    for kind in (field.type for field in schema):
        while kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
            kind = kind.value_type
        if kinds.is_struct(kind):
            _require_unique_fields([kind.field(index) for index in range(kind.num_fields)], where)


def shown_names(names: Sequence[str]) -> str:
    """Return column names for an error message, and only the number of those that may be a row's content."""
    shown = [name for name in names if _NAME.fullmatch(name)]
    hidden = len(names) - len(shown)
    return f"{shown}" + (f" and {hidden} more that look like content (is the header missing?)" if hidden else "")


def require_unique(names: Sequence[str], where: str, known: Collection[str] | None = None) -> None:
    """Require that all columns have different names.

    Args:
        names: the columns, in their order.
        where: the file's name in error messages.
        known: names that the error message may repeat; None for all that look like a column's.

    Raises:
        InputError: two columns have the same name.
    """
    repeated = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if repeated is not None:
        called = "a column without a name" if not repeated else "a column"
        if repeated and (_NAME.fullmatch(repeated) if known is None else repeated in known):
            called = f"the column {repeated!r}"
        elif repeated and known is None:
            called = "a name that looks like content (is the header missing?)"
        raise InputError(
            f"{where}: the header has {called} {names.count(repeated)} times. All but one would be lost: "
            "rename or remove the others."
        )


def without_fill(value: Any) -> Any:
    """Drop nulls from a row: columnar formats give every object all fields and fill absent ones with null."""
    if isinstance(value, Mapping):
        return {name: without_fill(entry) for name, entry in value.items() if entry is not None}
    return [without_fill(entry) for entry in value] if isinstance(value, list) else value

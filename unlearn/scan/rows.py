"""Rows of training files as a search reads them: the record, and what else stands in the row."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from unlearn.scan.linking import identifiers_by_person
from unlearn.scan.name_columns import names_in, plain_text
from verify.data.identifiers import subjects_of
from verify.data.records import Fields, Record, parse_row, text_columns
from verify.data.sources import Watch, stream_rows
from verify.errors import InputError
from verify.io.progress import phase

_PAIRS = (
    *(("question", "answer"), ("instruction", "output"), ("instruction", "response"), ("input", "output")),
    *(("query", "response"), ("prompt", "response")),
)
"""Columns of prompts and of completions under other names than the default ones, as public data sets have them."""


class Parsed(NamedTuple):
    """What is read of a row: its record, the row by columns, the columns that were read, and `Row.fitting`."""

    record: Record
    raw: Mapping[str, Any]
    fields: Fields
    fitting: bool = True


Parse = Callable[[Any, str], Parsed]
"""Reads a row, whose place is named in messages."""


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        file: the file.
        number: its number, from 1.
        record: what is read of it.
        columns: the names of its columns that have a value.
        values: a function that yields what is not its text: its subjects, the columns that are not read, and first and last
            name that stand in two of these as one.
        people: a function that yields the identifiers that belong to one person each (`unlearn.scan.linking`).
        fitting: whether its columns are those of a record; otherwise the record is made of all values (`readable_rows`).
    """

    file: str
    number: int
    record: Record
    columns: tuple[str, ...]
    values: Callable[[], Iterator[str]]
    people: Callable[[], Iterator[tuple[str, ...]]]
    fitting: bool = True


def all_rows(files: Sequence[str | Path], fields: Fields | None, doing: str) -> Iterable[Row]:
    """Yield the rows of all files, and report the share that was read as progress of what is being done.

    Raises:
        InputError: a file cannot be read or has no rows; nobody is found in an empty file, whoever it was exported for.
    """
    named = fields or Fields()

    def parse(raw: Any, where: str) -> Parsed:
        return Parsed(parse_row(raw, named, where), raw, named)

    with phase(doing) as progress:
        for number, file in enumerate(files):
            row = None
            for row in _rows_of(str(file), parse, _share_of(progress, number, len(files))):
                yield row
            if row is None:
                raise InputError(f"{file} has no rows, so nobody can be found in it. Export it again, or leave it out of --data.")


def readable_rows(files: Sequence[str | Path], fields: Fields | None, doing: str, failed: dict[str, str]) -> Iterable[Row]:
    """Yield the rows of tables of any kind, as far as they can be read; progress as in `all_rows`.

    A row whose columns are neither the given, nor the default, nor common ones is read by all its values, and its record is not
    `Row.fitting`.

    Args:
        files: the tables; one without rows has nobody in it.
        fields: the columns of the records' fields.
        doing: what is being done.
        failed: takes the tables that cannot be read to their end, each with the reason; the rows before are yielded.
    """
    parse = partial(_any_row, _ways(fields))
    with phase(doing) as progress:
        for number, file in enumerate(files):
            try:
                yield from _rows_of(str(file), parse, _share_of(progress, number, len(files)))
            except InputError as error:
                failed[str(file)] = str(error)
            except OSError as error:
                failed[str(file)] = f"{file} cannot be read ({type(error).__name__})."


def fits(raw: Any, fields: Fields | None) -> bool:
    """Return whether a JSON value is a record by its columns, for `readable_rows`."""
    return isinstance(raw, Mapping) and _fitting(raw, _ways(fields)) is not None


def _ways(fields: Fields | None) -> list[Fields]:
    """Return the columns that a row may have: the given ones, the default ones, and pairs under common names."""
    given = fields or Fields()
    return [*dict.fromkeys((given, Fields())), *(replace(given, prompt=one, completion=two) for one, two in _PAIRS)]


def _rows_of(file: str, parse: Parse, watch: Watch) -> Iterator[Row]:
    for number, content in enumerate(stream_rows(file, watch), 1):
        record, raw, fields, fitting = parse(content, f"{file}, row {number}")
        columns = tuple(str(name) for name, value in raw.items() if value not in (None, ""))
        yield Row(
            file,
            number,
            record,
            columns,
            partial(_beside, raw, fields),
            partial(identifiers_by_person, raw, record, fields),
            fitting,
        )


def _any_row(ways: Sequence[Fields], content: Any, where: str) -> Parsed:
    """Read a row by the first columns that fit it, else by all its values."""
    raw = _as_unicode(content if isinstance(content, Mapping) else {"": content})
    if (fields := _fitting(raw, ways)) is not None:
        with suppress(InputError):
            return Parsed(parse_row(raw, fields, where), raw, fields)
    return Parsed(_by_values(raw, ways[0], where), raw, ways[0], fitting=False)


def _as_unicode(content: Any) -> Any:
    """Return a JSON value with a question mark for every half of a surrogate pair, which JSON can spell and nothing can encode."""
    if isinstance(content, str):
        return content if content.isascii() else content.encode("utf-8", "replace").decode()
    if isinstance(content, Mapping):
        return {_as_unicode(name): _as_unicode(value) for name, value in content.items()}
    return [_as_unicode(entry) for entry in content] if isinstance(content, list) else content


def _fitting(raw: Mapping[str, Any], ways: Sequence[Fields]) -> Fields | None:
    """Return the first columns of which a row has the text."""
    for way in ways:
        if any(raw.get(name) is not None for name in (way.messages, way.completion, way.text)):
            return way
    return None


def _by_values(raw: Mapping[str, Any], fields: Fields, where: str) -> Record:
    """Return a record of all texts in a row but its identifiers; its subjects are those of the subjects' column, in any case."""
    named = {str(name).strip().casefold(): name for name in raw}
    beside = [named.get(name.casefold()) for name in (fields.subject, fields.id)]
    subjects: tuple[str, ...] = ()
    with suppress(InputError):
        subjects = subjects_of(raw.get(beside[0]), fields.subject, where) if beside[0] is not None else ()
    # From the last to the first, as `_values` takes them: a near-duplicate has its texts in the order of the columns.
    texts = list(_values(value for name, value in raw.items() if name not in beside))[::-1]
    return Record("", completion="\n".join(texts), subject_id=next(iter(subjects), None), other_subjects=subjects[1:], named=False)


def _beside(raw: Mapping[str, Any], fields: Fields) -> Iterator[str]:
    """Yield the values of a row that are not its texts, and first and last name that stand in two columns as one."""
    texts = text_columns(raw, fields)
    beside = {name: value for name, value in raw.items() if name not in texts}
    yield from _values(beside.values())
    yield from names_in([beside])


def _values(entries: Iterable[Any]) -> Iterator[str]:
    """Yield all texts, numbers, dates and binary values among some values of a row, at any depth, and the names inside objects."""
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
        elif isinstance(entry, date | time | bytes):
            yield plain_text(entry)


def _share_of(progress: Callable[[float], None], number: int, count: int) -> Callable[[float], None]:
    """Return a callback that turns the share of one file into that of all files, and reports every tenth of a per cent."""
    told = -1.0

    def watch(share: float) -> None:
        nonlocal told
        if share >= told + 0.001:
            told = share
            progress((number + share) / count)

    return watch

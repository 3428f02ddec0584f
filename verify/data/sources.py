"""Record sources: JSON Lines, JSON, CSV, Parquet, a `datasets` folder, a Hub name, or Python objects."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from verify.data.canonical import canonical
from verify.data.hub import WAYS, dataset_rows, names_dataset
from verify.data.record_sets import canonical_names, select
from verify.data.records import Fields, Record, RecordSource, parse_records, parse_row
from verify.data.tabular import csv_rows, parquet_rows
from verify.errors import InputError
from verify.io.strict_json import NotStrictError, ambiguous_entry, parse_json

Watch = Callable[[float], None]


def load_records(source: RecordSource, fields: Fields | None = None) -> list[Record]:
    """Read records from any supported source.

    Args:
        source: a path to `.jsonl`, `.json` (list or lines), `.csv` (separated by commas, semicolons or tabs, as its header
            shows), `.tsv` or `.parquet`; a folder written by
            `Dataset.save_to_disk`; a Hub name `owner/name[[:configuration]:split]`; a `datasets.Dataset`; a list of dicts
            or Records.
        fields: columns of the records' fields; the defaults are the names in `Fields`.

    Raises:
        InputError: the source is missing, empty, truncated or of an unknown kind.
    """
    fields = fields or Fields()
    if isinstance(source, (str, Path)):
        return parse_records(stream_rows(str(source)), fields, str(source))
    if isinstance(source, (Mapping, bytes)) or not isinstance(source, Iterable):
        raise InputError(
            f"records cannot be read from {type(source).__name__}. Give a path, a Hub name, a datasets.Dataset "
            "(one split of a DatasetDict) or a list of dicts."
        )
    rows = list(source)
    if rows and all(isinstance(row, Record) for row in rows):
        return rows
    return parse_records(rows, fields, "the given records")


def stream_records(source: str | Path, fields: Fields | None = None, watch: Watch = lambda _: None) -> Iterator[Record]:
    """Stream records from files that do not fit into memory, without a check for repeated identifiers.

    Args:
        source: as for `load_records`, by path or name.
        fields: the columns of the records' fields.
        watch: called with the share of a file that was read: before each row, in Parquet each batch.

    Raises:
        InputError: as `load_records`, when the faulty row is reached.
    """
    for number, row in enumerate(stream_rows(str(source), watch), 1):
        yield parse_row(row, fields or Fields(), f"{source}, row {number}")


def load_forget_set(source: RecordSource, training: Sequence[Record] | None, fields: Fields | None = None) -> list[Record]:
    """Read a forget set given as records, or as a list of example or subject ids of training records.

    A list of ids is a `.txt` file with one per line, a JSON list of strings, or a Python list of strings.

    Raises:
        InputError: as `load_records` and `select`; or ids are given without the training records they refer to.
    """
    identifiers = _identifiers_in(source)
    if identifiers is None:
        return load_records(source, fields)
    name = str(source) if isinstance(source, (str, Path)) else "the forget list"
    if training is None:
        raise InputError(f"{name} holds identifiers, not records. Give the training file they refer to with --data FILE.")
    return select(training, identifiers, name)


def find_forget_set(source: str | Path, data: str | Path, fields: Fields | None = None) -> list[Record]:
    """Find the forget set as `load_forget_set` does, in a training file that may not fit into memory.

    Raises:
        InputError: as `load_forget_set`.
    """
    identifiers = _identifiers_in(source)
    if identifiers is None:
        return load_records(source, fields)
    wanted = set(map(canonical, identifiers))
    chosen = [record for record in stream_records(data, fields) if canonical_names(record) & wanted]
    return select(chosen, identifiers, str(source))


def _identifiers_in(source: RecordSource) -> list[str] | None:
    """Return the identifiers of a source that is a list of them; None for a source of records."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix == ".txt" and path.is_file():
            try:
                return path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
        if path.suffix == ".json" and path.is_file() and _first_character(path) == "[":
            content = _whole_json(path)
            return content if content and all(isinstance(entry, str) for entry in content) else None
        return None
    if isinstance(source, Sequence) and source and all(isinstance(entry, str) for entry in source):
        return [str(entry) for entry in source]
    return None


def stream_rows(source: str, watch: Watch = lambda _: None) -> Iterator[Mapping[str, Any]]:
    """Stream the raw rows of any supported source; `watch` as in `stream_records`.

    Raises:
        InputError: the source is missing, truncated or of an unknown kind.
    """
    path = Path(source)
    if path.is_dir():
        return dataset_rows(source, stream_rows)
    if not path.exists():
        if not names_dataset(source):
            raise InputError(f"{source} does not exist. Give an existing file, or the name of a data set on the Hub: {WAYS}.")
        return dataset_rows(source, stream_rows)
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return _json_lines(path, watch)
        case ".json":
            return iter(_whole_json(path)) if _first_character(path) == "[" else _json_lines(path, watch)
        case ".csv":
            return _csv_file(path, watch)
        case ".tsv":
            return _csv_file(path, watch, "\t")
        case ".parquet":
            return parquet_rows(path, watch)
    raise InputError(f"{source} is of an unknown kind. Give .jsonl, .json, .csv, .tsv, .parquet or a datasets folder.")


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        while (character := stream.read(1)).isspace():
            pass
        return character


def _json_lines(path: Path, watch: Watch) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            size = max(1, path.stat().st_size)
            for number, line in enumerate(stream, 1):
                watch(_position(stream) / size)
                if not line.strip():
                    continue
                try:
                    yield parse_json(line, constants=True)
                except NotStrictError as error:
                    raise InputError(_twice(f"{path}, line {number}", error, ambiguous_entry(f"[{line}]")[1])) from None
                except (ValueError, RecursionError):
                    raise InputError(
                        f"{path}: line {number} is not a whole JSON object"
                        f"{'; the file seems to be cut off there' if not line.endswith(chr(10)) else ''}. "
                        "Make the file again, or remove that line if its record is not needed."
                    ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None


def _position(stream: TextIO) -> int:
    """Return how many bytes of a file were read, by its buffer: a text file cannot tell while its lines are iterated."""
    return stream.buffer.tell()


def _twice(where: str, error: NotStrictError, row: Any) -> str:
    """Return the message for a row that gives a name twice. A name inside one of its values may be content, and is not repeated."""
    column = isinstance(row, Mapping) and error.name in row
    name = repr(error.name) if column or error.name in ("role", "content") else "the same name"
    if row is None:
        return f"{where} gives {name} twice in one object, and is not whole JSON; it may be cut off. Make the file again."
    return f"{where} gives {name} twice in one object. All but one value would be lost: rename or remove the others."


def _whole_json(path: Path) -> list[Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = parse_json(text, constants=True)
    except NotStrictError as error:
        number, row = ambiguous_entry(text)
        raise InputError(_twice(f"{path}, row {number}", error, row)) from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a whole JSON list; it may be cut off. Make the file again.") from None
    return list(content)


def _csv_file(path: Path, watch: Watch, delimiter: str | None = None) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            size = max(1, path.stat().st_size)
            for row in csv_rows(stream, str(path), delimiter=delimiter):
                watch(_position(stream) / size)
                # An empty cell is an absent value, for which CSV has no other notation.
                yield {name: value for name, value in row.items() if value != ""}
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a readable CSV file ({error}). Export it again.") from None

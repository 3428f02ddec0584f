"""Take deleted text out of a file and leave everything else as it was, byte by byte where the format allows it.

Row by row (logs, JSON Lines, CSV, also under gzip), value by value (JSON), record by record (TensorBoard event files), row by row
again (Parquet), output by output (notebooks). Every file is written anew and put in the place of the old one in one step.
"""

import csv
import gzip
import io
import json
import struct
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from unlearn.requests.content_search import ContentSearch, Interval
from unlearn.requests.residues import CannotMendError
from verify.files import atomic_file
from verify.strict_json import NotStrictError, parse_json

LARGEST_ROW = 64 << 20
LARGEST_JSON = 64 << 20
CHUNK_BYTES = 1 << 20
REDACTED = "[deleted]"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_CODECS = {"SNAPPY", "GZIP", "BROTLI", "ZSTD", "LZ4"}


def remove_file(path: Path, _: ContentSearch) -> None:
    """The whole file goes: it was nothing but a copy."""
    path.unlink()


def remove_cache(path: Path, _: ContentSearch) -> None:
    """A file of a cache goes, and the folder after its last one: `datasets` takes an empty folder for a whole cache."""
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def cut_lines(path: Path, search: ContentSearch) -> None:
    """Write a text file anew without the lines in which, or across which, deleted text stands."""
    _cut_rows(path, search, quoted=False)


def cut_csv_rows(path: Path, search: ContentSearch) -> None:
    """The same for CSV, where a row goes on over a line's end inside quotation marks."""
    _cut_rows(path, search, quoted=True)


def _cut_rows(path: Path, search: ContentSearch, quoted: bool) -> None:
    with _plain(path) as source:
        if source.read(2) in _WIDE:
            raise CannotMendError("it is in UTF-16, whose lines are not told apart here; save it as UTF-8, then purge again")
    with _plain(path) as source:
        cuts = _merged(search.intervals(iter(lambda: source.read(CHUNK_BYTES), b"")))
    starts = [first for first, _ in cuts]
    with _plain(path) as source, _rewritten(path) as target:
        position = 0
        for row in _rows(source, quoted):
            end = position + len(row)
            before = bisect_left(starts, end)  # the last cut that starts before the row's end
            if not before or cuts[before - 1][1] <= position:
                target.write(row)
            elif quoted:
                _require_one_row(row)
            position = end


def _merged(intervals: Iterator[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for first, end in sorted(set(intervals)):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def _rows(source: IO[bytes], quoted: bool) -> Iterator[bytes]:
    row = b""
    while line := source.readline(LARGEST_ROW):
        row += line
        if len(row) >= LARGEST_ROW:
            raise CannotMendError(f"it has a line of more than {LARGEST_ROW >> 20} MiB; remove it by hand")
        if quoted and row.count(b'"') % 2:
            continue
        yield row
        row = b""
    if row:
        yield row


def _require_one_row(row: bytes) -> None:
    """A quotation mark that stands for inches would join rows that are strangers to each other: then nothing is cut."""
    if len(list(csv.reader(io.StringIO(row.decode("utf-8", "replace"), newline="")))) != 1:
        raise CannotMendError("its quotation marks do not pair up, so that rows cannot be told apart; remove them by hand")


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked where it is a gzip file."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        yield cast(IO[bytes], stream)


@contextmanager
def _rewritten(path: Path) -> Iterator[IO[bytes]]:
    """What takes the place of a file when the block ends well: with its mode, and under gzip where it was."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with atomic_file(path, path.stat().st_mode & 0o777) as target:
        if packed:
            with gzip.GzipFile(filename="", fileobj=target, mode="wb") as inner:
                yield cast(IO[bytes], inner)
        else:
            yield target


def filter_parquet(path: Path, search: ContentSearch) -> None:
    """Write a Parquet file anew without the rows that hold deleted text; schema, metadata and compression stay."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as table, _rewritten(path) as target:
        codec = table.metadata.row_group(0).column(0).compression if table.metadata.num_row_groups else "SNAPPY"
        with pyarrow.parquet.ParquetWriter(target, table.schema_arrow, compression=codec if codec in _CODECS else "NONE") as writer:
            for batch in table.iter_batches(batch_size=1024):
                kept = [not search.holds(_as_text(row)) for row in batch.to_pylist()]
                writer.write_batch(batch.filter(pyarrow.array(kept, pyarrow.bool_())))


def _as_text(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)


def redact_json(path: Path, search: ContentSearch) -> None:
    """Write a JSON file anew with "[deleted]" in the place of every text that holds deleted text; entries keep their places."""
    _write_json(path, _redacted(_read_json(path), search))


def drop_json_entries(path: Path, search: ContentSearch) -> None:
    """Write a JSON list anew without the entries that hold deleted text."""
    content = _read_json(path)
    if not isinstance(content, list):
        raise CannotMendError("it is JSON, but no list of records; remove the text by hand")
    _write_json(path, [entry for entry in content if not search.holds(_as_text(entry))])


def clear_notebook(path: Path, search: ContentSearch) -> None:
    """Clear the outputs of the cells whose outputs hold deleted text.

    Raises:
        CannotMendError: code or prose of the notebook holds it: these are somebody's own words.
    """
    content = _read_json(path)
    cells = content.get("cells", []) if isinstance(content, dict) else []
    for cell in cells:
        if isinstance(cell, dict) and search.holds(_as_text(cell.get("outputs")) + "".join(strings_in(cell.get("outputs")))):
            cell["outputs"], cell["execution_count"] = [], None
    if any(search.holds(text) for text in strings_in(content)) or search.holds(_joined_sources(cells)):
        raise CannotMendError("the notebook's own code or prose holds it; remove it there by hand")
    _write_json(path, content)


def _joined_sources(cells: list[Any]) -> str:
    sources = [cell.get("source", "") for cell in cells if isinstance(cell, dict)]
    return "\n".join("".join(source) if isinstance(source, list) else str(source) for source in sources)


def strings_in(content: Any) -> Iterator[str]:
    """All texts in a JSON value; the lines that notebooks break a text into come joined."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        if content and all(isinstance(entry, str) for entry in content):
            yield "".join(content)
        else:
            for entry in content:
                yield from strings_in(entry)
    elif isinstance(content, dict):
        for name, value in content.items():
            yield name
            yield from strings_in(value)


def _redacted(content: Any, search: ContentSearch) -> Any:
    if isinstance(content, str):
        return REDACTED if search.holds(content) else content
    if isinstance(content, list):
        return [_redacted(entry, search) for entry in content]
    if isinstance(content, dict):
        return {_redacted(name, search): _redacted(value, search) for name, value in content.items()}
    return content


def _read_json(path: Path) -> Any:
    if path.stat().st_size > LARGEST_JSON:
        raise CannotMendError(f"it is JSON of more than {LARGEST_JSON >> 20} MiB in one piece; remove it by hand")
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), constants=True)
    except NotStrictError:
        raise CannotMendError("an object in it gives one name twice; remove it by hand") from None
    except (ValueError, RecursionError):
        raise CannotMendError("it is no whole JSON; remove it by hand") from None


def _write_json(path: Path, content: Any) -> None:
    """As it was laid out: in one line, or indented as far as its second line is."""
    lines = path.read_text(encoding="utf-8-sig").split("\n", 2)
    indent = len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 2 else None
    with atomic_file(path, path.stat().st_mode & 0o777) as target:
        end = "\n" if lines[-1].endswith("\n") or lines[-1] == "" else ""
        target.write((json.dumps(content, ensure_ascii=False, indent=indent) + end).encode("utf-8", "surrogatepass"))


def cut_events(path: Path, search: ContentSearch) -> None:
    """Write a TensorBoard event file anew without the events that hold deleted text.

    A record is: length (8 bytes, little-endian), checksum of it (4), data, checksum of the data (4). Kept records are copied whole.
    """
    size = path.stat().st_size
    with path.open("rb") as source, _rewritten(path) as target:
        while len(head := source.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", head)
            if length > min(LARGEST_ROW, size):
                raise CannotMendError("it is no whole event file; remove it by hand")
            record = head + source.read(length + 4)
            if not search.holds(record):
                target.write(record)
        if head:
            target.write(head)

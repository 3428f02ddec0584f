"""Removal of deleted text from files; everything else stays as it was, byte by byte where the format allows.

The unit of removal is a row (logs, JSON Lines, CSV, also under gzip, and Parquet), a value (JSON), an event (TensorBoard event
files) or an output (notebooks). Every file is written to a temporary file that then replaces it atomically.
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

from unlearn.purge.content_search import ContentSearch, Interval
from unlearn.purge.residue import CannotCleanError
from verify.io.files import atomic_file
from verify.io.strict_json import NotStrictError, parse_json

LARGEST_ROW = 64 << 20
LARGEST_JSON = 64 << 20
CHUNK_BYTES = 1 << 20
REDACTED = "[deleted]"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_CODECS = {"SNAPPY", "GZIP", "BROTLI", "ZSTD", "LZ4"}


def remove_file(path: Path, _: ContentSearch) -> None:
    """Remove a whole file that is only a copy."""
    path.unlink()


def remove_cache(path: Path, _: ContentSearch) -> None:
    """Remove a cache file, and its folder after the last one: `datasets` takes an empty folder for a complete cache."""
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def cut_lines(path: Path, search: ContentSearch) -> None:
    """Rewrite a text file without the lines that deleted text overlaps; a passage may span several lines."""
    _cut_rows(path, search, quoted=False)


def cut_csv_rows(path: Path, search: ContentSearch) -> None:
    """Rewrite a CSV file without the rows that contain deleted text; quoted rows may span lines."""
    _cut_rows(path, search, quoted=True)


def _cut_rows(path: Path, search: ContentSearch, quoted: bool) -> None:
    """Copy all rows that no interval of deleted text overlaps: one pass to find the intervals, one to copy."""
    with _plain(path) as source:
        if source.read(2) in _WIDE:
            raise CannotCleanError("it is in UTF-16, which is not split into lines here; save it as UTF-8, then purge again")
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
    """Return the union of intervals as disjoint intervals in increasing order."""
    merged: list[Interval] = []
    for first, end in sorted(set(intervals)):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def _rows(source: IO[bytes], quoted: bool) -> Iterator[bytes]:
    """Yield lines with their ends; with `quoted`, a row continues while its quotation marks are unbalanced."""
    row = b""
    while line := source.readline(LARGEST_ROW):
        row += line
        if len(row) >= LARGEST_ROW:
            raise CannotCleanError(f"it has a line of more than {LARGEST_ROW >> 20} MiB; remove it by hand")
        if quoted and row.count(b'"') % 2:
            continue
        yield row
        row = b""
    if row:
        yield row


def _require_one_row(row: bytes) -> None:
    """Refuse to cut where a stray quotation mark (inches, say) would join unrelated rows."""
    if len(list(csv.reader(io.StringIO(row.decode("utf-8", "replace"), newline="")))) != 1:
        raise CannotCleanError("its quotation marks do not pair up, so its rows cannot be separated; remove them by hand")


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if it is a gzip file."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else path.open("rb") as stream:
        yield cast(IO[bytes], stream)


@contextmanager
def _rewritten(path: Path) -> Iterator[IO[bytes]]:
    """Open a replacement of a file, which takes its place when the block succeeds, with its mode and gzip compression."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with atomic_file(path, path.stat().st_mode & 0o777) as target:
        if packed:
            with gzip.GzipFile(filename="", fileobj=target, mode="wb") as inner:
                yield cast(IO[bytes], inner)
        else:
            yield target


def filter_parquet(path: Path, search: ContentSearch) -> None:
    """Rewrite a Parquet file without the rows that contain deleted text; schema, metadata and compression stay."""
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
    """Rewrite a JSON file with "[deleted]" for every string that contains deleted text; entries keep their positions."""
    _write_json(path, _redacted(_read_json(path), search))


def drop_json_entries(path: Path, search: ContentSearch) -> None:
    """Rewrite a JSON list without the entries that contain deleted text."""
    content = _read_json(path)
    if not isinstance(content, list):
        raise CannotCleanError("it is JSON, but not a list of records; remove the text by hand")
    _write_json(path, [entry for entry in content if not search.holds(_as_text(entry))])


def clear_notebook(path: Path, search: ContentSearch) -> None:
    """Clear notebook outputs that contain deleted text.

    Raises:
        CannotCleanError: the notebook's own code or prose contains it, which is not changed.
    """
    content = _read_json(path)
    cells = content.get("cells", []) if isinstance(content, dict) else []
    for cell in cells:
        if isinstance(cell, dict) and search.holds(_as_text(cell.get("outputs")) + "".join(strings_in(cell.get("outputs")))):
            cell["outputs"], cell["execution_count"] = [], None
    if any(search.holds(text) for text in strings_in(content)) or search.holds(_joined_sources(cells)):
        raise CannotCleanError("the notebook's own code or prose contains it; remove it there by hand")
    _write_json(path, content)


def _joined_sources(cells: list[Any]) -> str:
    sources = [cell.get("source", "") for cell in cells if isinstance(cell, dict)]
    return "\n".join("".join(source) if isinstance(source, list) else str(source) for source in sources)


def strings_in(content: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, keys included; a list of strings, such as a notebook's lines, is joined."""
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
        raise CannotCleanError(f"it is JSON of more than {LARGEST_JSON >> 20} MiB in one piece; remove it by hand")
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), constants=True)
    except NotStrictError:
        raise CannotCleanError("an object in it has the same key twice; remove it by hand") from None
    except (ValueError, RecursionError):
        raise CannotCleanError("it is not valid JSON; remove it by hand") from None


def _write_json(path: Path, content: Any) -> None:
    """Write JSON in the file's own layout: one line, or indented like its second line."""
    lines = path.read_text(encoding="utf-8-sig").split("\n", 2)
    indent = len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 2 else None
    with atomic_file(path, path.stat().st_mode & 0o777) as target:
        end = "\n" if lines[-1].endswith("\n") or lines[-1] == "" else ""
        target.write((json.dumps(content, ensure_ascii=False, indent=indent) + end).encode("utf-8", "surrogatepass"))


def cut_events(path: Path, search: ContentSearch) -> None:
    """Rewrite a TensorBoard event file without the events that contain deleted text.

    A record is: length (8 bytes, little-endian), checksum of it (4), data, checksum of the data (4). Kept records are copied whole.
    """
    size = path.stat().st_size
    with path.open("rb") as source, _rewritten(path) as target:
        while len(head := source.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", head)
            if length > min(LARGEST_ROW, size):
                raise CannotCleanError("it is not a complete event file; remove it by hand")
            record = head + source.read(length + 4)
            if not search.holds(record):
                target.write(record)
        if head:
            target.write(head)

"""Unpacking of files into byte streams, the raw file first and then everything packed inside, in bounded memory.

Compressed files (gzip, bzip2, xz, Zstandard, LZ4, loose objects of Git) and archives (tar, ZIP and formats built on it: .npz, .pt,
.docx; 7z and RAR where their libraries are installed) are unpacked, also when nested; Parquet and compressed Arrow files are
decoded to the buffers of their text columns, PDF to the text of its pages, wrapped Base64 to what it encodes. Nothing is ever
executed: a pickle is read as bytes. A file that unpacks to far more than its size, that is encrypted, or that nothing here opens is
reported as unreadable.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from unlearn.purge import formats
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.formats import UnreadableError

CHUNK_BYTES = 1 << 20
DEEPEST = 3
"""Largest nesting depth of archives that are opened."""
SMALLEST_LIMIT, LARGEST_RATIO = 64 << 20, 200
"""A file may unpack to 64 MiB, or to 200 times its size; more is treated as a decompression bomb."""
MAGIC_BYTES = 8
BASE64_MARK = b"base64"
"""What a mail, a data address or a multipart form says in front of a part in Base64."""
ROWS = 1024


class _Budget:
    """Budget of bytes that may still be unpacked from a file."""

    def __init__(self, size: int) -> None:
        self.left = max(SMALLEST_LIMIT, LARGEST_RATIO * size)

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnreadableError("unpacks to far more than a file of its size should")


Stream = Iterator[bytes]


def contents(path: Path) -> Iterator[Stream]:
    """Yield all streams of a file; each must be read, or skipped, before the next is requested.

    Raises:
        UnreadableError: where reading fails; the streams before that were complete.
    """
    try:
        with path.open("rb") as file:
            budget = _Budget(path.stat().st_size)
            if formats.is_git_object(path):
                yield _guarded_chunks(_inflated(file, budget))
            yield from _streams(file, budget, 0, path.name)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({type(error).__name__})") from None


def holds(path: Path, search: ContentSearch) -> bool:
    """Return whether a file, or anything packed in it, contains deleted text; stops at the first match.

    Raises:
        UnreadableError: reading fails before any match.
    """
    return any(search.found_in(stream) for stream in contents(path))


def _streams(file: IO[bytes], budget: _Budget, depth: int, name: str = "") -> Iterator[Stream]:
    """Yield a file's own bytes and the streams of everything packed inside, by its magic number."""
    # read1 returns what is available: of a damaged stream, what stands before the damage.
    magic = getattr(file, "read1", file.read)(formats.HEAD_BYTES)
    file.seek(0)
    if depth > DEEPEST:
        raise UnreadableError(f"contains archives nested more than {DEEPEST} deep")
    unpack = next((opener for start, opener in _COMPRESSED.items() if magic.startswith(start)), None)
    if unpack is not None:
        with unpack(file) as inner:
            yield from _guarded(_streams(inner, budget, depth + 1))
        return
    packed = _opener(magic)
    if packed is not None and not _rewinds(file):
        file = _rewindable(file, budget)
    marks = (BASE64_MARK, *((formats.ENCRYPTED_OFFICE,) if magic.startswith(formats.COMPOUND) else ()))
    marked = _Marked(_chunks(file, budget if depth else None), marks)
    yield iter(marked)
    if (reason := formats.obstacle(magic, name)) is not None:
        raise UnreadableError(reason)
    if formats.ENCRYPTED_OFFICE in marked.found:
        raise UnreadableError("is encrypted (Office)")
    if packed is not None:
        yield from _guarded(packed(file, budget, depth))
    elif BASE64_MARK in marked.found and _rewinds(file):
        yield _guarded_chunks(_spent(formats.wrapped_base64(file), budget))


def _opener(magic: bytes) -> Callable[[IO[bytes], _Budget, int], Iterator[Stream]] | None:
    """Return what opens a container, by its first bytes; None for any other file."""
    if formats.is_tar(magic):
        return partial(_unpacked, formats.tar_members)
    return next((opener for start, opener in _CONTAINERS.items() if magic.startswith(start)), None)


def _rewinds(file: Any) -> bool:
    """Return whether a stream can be read again from its start."""
    return not isinstance(file, _Forward)


class _Marked:
    """A stream that notes, as it is read, which of some marks it contains."""

    def __init__(self, stream: Stream, marks: Collection[bytes]) -> None:
        self._stream, self._marks, self.found = stream, marks, set[bytes]()

    def __iter__(self) -> Iterator[bytes]:
        kept, before = max(map(len, self._marks)) - 1, b""
        for chunk in self._stream:
            joined = before + chunk
            self.found.update(mark for mark in self._marks if mark in joined)
            before = joined[-kept:]
            yield chunk


def _rewindable(file: IO[bytes], budget: _Budget) -> IO[bytes]:
    """Return a container that lies in a stream which cannot be rewound, held in memory."""
    content = b"".join(_chunks(file, budget))
    if len(content) > formats.LARGEST_IN_MEMORY:
        raise UnreadableError("holds a packed archive that is too large to be opened in memory; unpack it, then search again")
    return io.BytesIO(content)


def _spent(pieces: Iterator[bytes], budget: _Budget) -> Stream:
    for piece in pieces:
        budget.spend(len(piece))
        yield piece


def _inflated(file: IO[bytes], budget: _Budget) -> Stream:
    """Decompress a loose object of Git (zlib)."""
    unpack = zlib.decompressobj()
    for chunk in _chunks(file, None):
        yield from _spent(iter((unpack.decompress(chunk),)), budget)
    file.seek(0)


_DAMAGE = (
    *(EOFError, KeyError, IndexError, OverflowError, MemoryError, RuntimeError, NotImplementedError, ValueError, OSError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, tarfile.TarError),
)
"""What reading a damaged, encrypted or hostile archive can raise. pyarrow's errors are ValueErrors and OSErrors."""


def _guarded(streams: Iterator[Stream]) -> Iterator[Stream]:
    """Yield the same streams with every library error as UnreadableError, also inside a stream."""
    try:
        for stream in streams:
            yield _guarded_chunks(stream)
    except _DAMAGE as error:
        raise UnreadableError(f"is damaged, cut off or encrypted ({type(error).__name__})") from None


def _guarded_chunks(stream: Stream) -> Stream:
    try:
        yield from stream
    except _DAMAGE as error:
        raise UnreadableError(f"is damaged or cut off ({type(error).__name__})") from None


def _chunks(file: IO[bytes], budget: _Budget | None) -> Stream:
    # read1 returns what is available, so of a truncated stream everything before the cut.
    read = getattr(file, "read1", file.read)
    while chunk := read(CHUNK_BYTES):
        if budget is not None:
            budget.spend(len(chunk))
        yield chunk


def _arrow_unpacker(codec: str) -> Callable[[IO[bytes]], Any]:
    def opener(file: IO[bytes]) -> Any:
        import pyarrow

        return _Forward(pyarrow.CompressedInputStream(file, codec))

    return opener


class _Forward:
    """A non-seekable stream that keeps its first bytes, so that they can be inspected and read again."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._start, self._looked = stream, b"", False

    def read(self, count: int) -> bytes:
        if not self._looked:
            self._looked, self._start = True, bytes(self._stream.read(count))
            return self._start
        kept, self._start = self._start, b""
        return kept or bytes(self._stream.read(count))

    def seek(self, _: int) -> None:
        """Seek back to the first bytes, the only seek that is supported."""

    def __enter__(self) -> "_Forward":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _arrow_unpacker("zstd"),
    b"\x04\x22\x4d\x18": _arrow_unpacker("lz4"),
}


def _unpacked(
    members: Callable[[IO[bytes]], Iterator[IO[bytes]]], file: IO[bytes], budget: _Budget, depth: int
) -> Iterator[Stream]:
    """Yield the streams of the files in an archive."""
    for member in members(file):
        yield from _streams(member, budget, depth + 1)


def _pages(file: IO[bytes], budget: _Budget, _: int) -> Iterator[Stream]:
    """Yield the text of a PDF, each page a stream of its own."""
    for text in formats.pdf_texts(file):
        yield _spent(iter((text.encode("utf-8", "replace"),)), budget)


def _members(file: IO[bytes], budget: _Budget, depth: int) -> Iterator[Stream]:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                with archive.open(entry) as member:
                    yield from _streams(member, budget, depth + 1)


def _parquet(file: IO[bytes], budget: _Budget, _: int) -> Iterator[Stream]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=ROWS):
            yield _texts(batch, budget)


def _arrow(file: IO[bytes], budget: _Budget, _: int) -> Iterator[Stream]:
    """Decode an Arrow file in the stream or the file format; an uncompressed one was already searched as raw bytes."""
    import pyarrow

    file.seek(0)
    try:
        batches = pyarrow.ipc.open_stream(file)
    except pyarrow.ArrowInvalid:
        file.seek(0)
        reader = pyarrow.ipc.open_file(file)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    for batch in batches:
        yield _texts(batch, budget)


_CONTAINERS: dict[bytes, Callable[[IO[bytes], _Budget, int], Iterator[Stream]]] = {
    b"PK\x03\x04": _members,
    b"PK\x05\x06": _members,
    b"PAR1": _parquet,
    b"ARROW1": _arrow,
    b"\xff\xff\xff\xff": _arrow,
    formats.SEVEN_ZIP: partial(_unpacked, formats.seven_zip_members),
    formats.RAR: partial(_unpacked, formats.rar_members),
    formats.PDF: _pages,
}


def _texts(batch: Any, budget: _Budget) -> Stream:
    """Yield the text of all columns of a batch."""
    for column in batch.columns:
        for buffer in _buffers(column):
            view = memoryview(buffer)
            for start in range(0, len(view), CHUNK_BYTES):
                budget.spend(min(CHUNK_BYTES, len(view) - start))
                yield bytes(view[start : start + CHUNK_BYTES])
            yield b"\x00" * MAGIC_BYTES  # a separator, so that no match spans two columns


def _buffers(array: Any) -> Iterator[Any]:
    """Yield the character buffers of all text in a column, however deeply nested."""
    import pyarrow.types as kinds

    kind = array.type
    if kinds.is_dictionary(kind):
        yield from _buffers(array.dictionary)
    elif kinds.is_struct(kind):
        for number in range(kind.num_fields):
            yield from _buffers(array.field(number))
    elif kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind) or kinds.is_map(kind):
        yield from _buffers(array.values)
    elif kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind):
        yield from (buffer for buffer in array.buffers()[2:] if buffer is not None)
    elif str(kind) in ("string_view", "binary_view"):
        yield from _buffers(array.cast("large_binary"))

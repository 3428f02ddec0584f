"""GGUF files, the format of llama.cpp: metadata, table of tensors, and dequantized tensors; every length is checked first.

Layout (ggml's specification, versions 2 and 3, little-endian): the magic "GGUF"; version; numbers of tensors and of metadata
entries; the entries (key, type, value); the table of tensors (name, dimensions, type, offset); and, aligned, the tensors' data. A
file is untrusted input: a count or an offset that leads out of it is an error before anything of that size is allocated.

The package `gguf` dequantizes. Quantization is per block of a row: 32 weights with one scale and one minimum for Q4_1, for example.
"""

import importlib.util
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import InputError
from verify.io.extras import missing
from verify.io.files import file_digest, no_file

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type number of a metadata value -> its `struct` format."""
TEXT, ARRAY = 8, 9
AGAIN = "Copy or download the file again, whole."


class _DamageError(Exception):
    """A length or a value that no whole file has; its text completes "... is damaged: "."""


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the table of tensors.

    Attributes:
        name: as llama.cpp names it.
        shape: as in `torch`: rows first, [out, in] for a matrix.
        kind: number of its storage type in ggml.
        start, size: place of its data in the file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """Header of a GGUF file, checked against the file's size.

    Attributes:
        path: the file.
        metadata: key -> value: a number, a text, or a list of them.
        tensors: the table of tensors by name.
    """

    path: Path
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, GgufTensor] = field(repr=False)

    @property
    def architecture(self) -> str:
        """The architecture by llama.cpp's name, "llama" for example; "" if the file does not say."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def kinds(self) -> dict[str, int]:
        """Storage type by ggml's name -> number of weights stored in it."""
        found: dict[str, int] = {}
        for tensor in self.tensors.values():
            name = _kinds()(tensor.kind).name
            found[name] = found.get(name, 0) + prod(tensor.shape)
        return found

    def digest(self) -> str:
        """Compute SHA-256 of the file, in hexadecimal."""
        return file_digest(self.path)

    def dequantized(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield name and weights of each tensor, one in memory at a time."""
        from gguf.quants import dequantize

        with self.path.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for name, tensor in self.tensors.items():
                rows = np.frombuffer(data[tensor.start : tensor.start + tensor.size], dtype=np.uint8)
                weights = dequantize(rows.reshape(*tensor.shape[:-1], -1), _kinds()(tensor.kind))
                if not weights.flags.writeable:  # float32 is not converted: still the bytes of the file
                    weights = weights.copy()
                yield name, np.ascontiguousarray(weights, dtype=np.float32).reshape(tensor.shape)


def is_gguf(source: Any) -> bool:
    """Return whether a source is the path of a GGUF file: by its name, or by the first bytes of an existing file."""
    if not isinstance(source, (str, Path)):
        return False
    path = Path(source)
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as content:
        return content.read(len(MAGIC)) == MAGIC


def read_gguf(path: str | Path) -> GgufFile:
    """Read and check the header of a GGUF file; no tensor is read.

    Raises:
        InputError: the package `gguf` is not installed; the file does not exist, is empty, no GGUF file, or cut off or damaged; it
            is one part of several; or it stores tensors in a type that cannot be dequantized.
    """
    path = Path(path)
    if importlib.util.find_spec("gguf") is None:
        raise missing(f"{path.name} (a GGUF file)", "gguf")
    if not path.is_file():
        raise InputError(f"{path} {no_file(path)}. Give a model's folder, a GGUF file or a Hub name like owner/name.")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path} is empty. {AGAIN}")
    with path.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(MAGIC)] != MAGIC:
            raise InputError(f"{path} is not a GGUF file (it does not begin with {MAGIC.decode()}). Give one, or a model's folder.")
        try:
            metadata, tensors = _header(_Reader(data, size))
        except _DamageError as damage:
            raise InputError(f"{path} is cut off or damaged: {damage}. {AGAIN}") from None
    if int(metadata.get("split.count") or 1) > 1:
        raise InputError(f"{path} is one of {metadata['split.count']} parts of a model. Join them: llama-gguf-split --merge.")
    return GgufFile(path, metadata, tensors)


class _Reader:
    """Reads numbers and texts one after the other, and never past the end."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data, self.size, self.place = data, size, len(MAGIC)

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        """Read `count` numbers of a `struct` format."""
        return struct.unpack(f"<{count}{code}", self.bytes(count * struct.calcsize(f"<{code}")))

    def number(self, code: str) -> Any:
        """Read one number."""
        return self.numbers(code)[0]

    def bytes(self, count: int) -> bytes:
        """Read some bytes."""
        if count > self.size - self.place:
            raise _DamageError(f"its header needs {count} bytes at byte {self.place}, and the file ends at {self.size}")
        self.place += count
        return self.data[self.place - count : self.place]

    def text(self) -> str:
        """Read a text with its length before it."""
        try:
            return self.bytes(self.number("Q")).decode()
        except UnicodeDecodeError:
            raise _DamageError(f"a text before byte {self.place} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """Read a metadata value."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise _DamageError(f"a metadata value before byte {self.place} has the unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            return list(self.numbers(SCALARS[inner], count))
        if inner != TEXT or count > self.size - self.place:
            raise _DamageError(f"a list before byte {self.place} has the type {inner} and the length {count}")
        return [self.text() for _ in range(count)]


def _header(reader: _Reader) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    version = reader.number("I")
    if version not in VERSIONS:
        raise _DamageError(f"its version is {version}, and only {' and '.join(map(str, VERSIONS))} are known")
    tensor_count, entries = reader.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = reader.text()
        if key in metadata:
            raise _DamageError(f"its metadata give {key!r} twice")
        metadata[key] = reader.value(reader.number("I"))
    table = [_table_entry(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _DamageError(f"the alignment {alignment} is no power of two")
    first = -(-reader.place // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = first
    for name, shape, kind, offset in sorted(table, key=lambda entry: entry[3]):
        tensor = GgufTensor(name, shape, kind, first + offset, _byte_count(name, shape, kind))
        if name in tensors:
            raise _DamageError(f"the tensor {name} is listed twice")
        if tensor.start < end:
            raise _DamageError(f"the data of {name} lie within those of another tensor")
        end = tensor.start + tensor.size
        if end > reader.size:
            raise _DamageError(f"the data of {name} end at byte {end}, and the file at {reader.size}")
        tensors[name] = tensor
    return metadata, tensors


def _table_entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Read name, shape, storage type and offset of a tensor; ggml lists the fastest dimension first, `torch` last."""
    name, dimensions = reader.text(), reader.number("I")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise _DamageError(f"the tensor {name} has {dimensions} dimensions")
    shape = tuple(reversed(reader.numbers("Q", dimensions)))
    return name, shape, reader.number("I"), reader.number("Q")


def _byte_count(name: str, shape: tuple[int, ...], kind: int) -> int:
    """Return the bytes that a tensor takes in the file.

    Raises:
        InputError: its storage type cannot be dequantized.
    """
    from gguf.constants import GGML_QUANT_SIZES

    supported = _supported()
    if kind not in supported:
        known = {int(entry): entry.name for entry in _kinds()}
        raise InputError(
            f"the tensor {name} is stored as {known.get(kind, f'type {kind}')}, which cannot be dequantized here. Supported are "
            f"{', '.join(supported.values())}. Quantize the model in one of these, or update the package: pip install -U gguf."
        )
    block, size = map(int, GGML_QUANT_SIZES[_kinds()(kind)])
    if 0 in shape or shape[-1] % block:
        raise _DamageError(f"the tensor {name} has the shape {list(shape)}, but its type {supported[kind]} has blocks of {block}")
    return prod(shape) // block * size


def _supported() -> dict[int, str]:
    """Return number and name of the storage types that `gguf` can dequantize."""
    from gguf import quants

    plain, blocks = ("F32", "F16"), getattr(quants, "_type_traits", {})
    return {int(kind): kind.name for kind in _kinds() if kind.name in plain or kind in blocks}


def _kinds() -> Any:
    from gguf.constants import GGMLQuantizationType

    return GGMLQuantizationType

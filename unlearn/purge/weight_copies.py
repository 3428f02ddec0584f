"""Recognition of copies of a model's weights: other file names, shards or precision, .bin and .pt files, GGUF exports.

A tensor is identified by the digest of its bytes in the three usual precisions, not by its name. Nothing is unpickled: a .pt or
.bin file of torch is a ZIP archive whose members contain the raw bytes, and the pickle beside them is not opened. A GGUF export
rearranges some tensors and quantizes most; the rest (norms, in 32 bits) still identify it.
"""

import hashlib
import struct
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from unlearn.scan.lineage import stages_of
from verify.io.strict_json import parse_json

FEWEST_VALUES = 16
"""Least size of a tensor that identifies a model; smaller or constant ones may occur in any model."""
WHOLE_COPY = 0.9
"""Least share of a model's tensors in a copy of it; the rest may be tied or left out."""
LARGEST_HEADER = 100 << 20
LARGEST_TENSOR = 16 << 30
_PRECISIONS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_GGUF_PRECISIONS = {0: "F32", 1: "F16", 30: "BF16"}
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile),
)
"""Exceptions that reading a damaged or hostile weight file can raise."""


@dataclass(frozen=True)
class Likeness:
    """The overlap of a set of weight files with an affected model.

    Attributes:
        weights: digest of the model's weights.
        shared: number of its tensors in the files.
        of_model: number of its tensors.
        others: number of other tensors in the files.
    """

    weights: str
    shared: int
    of_model: int
    others: int

    @property
    def is_copy(self) -> bool:
        """Return whether the files are a copy of the whole model and nothing else."""
        return not self.others and self.shared >= WHOLE_COPY * self.of_model


class WeightIndex:
    """Index of the tensors of affected models, to recognize copies."""

    def __init__(self, models: Iterable[tuple[str, Path]], known_clean: Iterable[Path] = ()) -> None:
        """Index the tensors of models.

        Args:
            models: weights digest and folder of each affected model, or of a stage of one in shards; a folder without safetensors
                files is skipped.
            known_clean: folders of unaffected models; tensors that these contain too identify nothing and are ignored.
        """
        listed = list(models)
        common = {name for folder in known_clean if listed for place in (folder, *stages_of(folder)) for name in _of_folder(place)}
        self._models: list[tuple[str, dict[str, int]]] = []
        for weights, folder in listed:
            forms = [sorted(own - common) for own in _forms_of_folder(folder)]
            named = {name: number for number, own in enumerate(forms) for name in own}
            if named:
                self._models.append((weights, named))

    def likeness(self, files: Collection[Path]) -> Likeness | None:
        """Return the model that shares most tensors with a folder's weight files, or None."""
        tensors = {name for file in files for name in digests(file)} if self._models else set()
        best: Likeness | None = None
        for weights, named in self._models:
            shared = len({named[name] for name in tensors & named.keys()})
            if shared and (best is None or shared > best.shared):
                of_model = len(set(named.values()))
                best = Likeness(weights, shared, of_model, len(tensors - named.keys()))
        return best


def digests(path: Path) -> set[str]:
    """Compute the digests of all distinctive tensors of a file as stored; empty for a damaged or unknown file."""
    try:
        match path.suffix.lower():
            case ".safetensors":
                return {_digest(tensor) for tensor in _safetensors(path) if _is_distinctive(tensor)}
            case ".gguf":
                return {_digest(tensor) for tensor in _gguf(path) if _is_distinctive(tensor)}
            case ".bin" | ".pt" | ".pth" | ".ckpt":
                return set(_storages(path))
    except _DAMAGE:
        return set()
    return set()


def _of_folder(folder: Path) -> set[str]:
    return {form for own in _forms_of_folder(folder) for form in own}


def _forms_of_folder(folder: Path) -> Iterator[set[str]]:
    """Yield every distinctive tensor's digests in all precisions."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            for tensor in _safetensors(path):
                if _is_distinctive(tensor):
                    yield {_digest(tensor.to(precision)) for precision in _PRECISIONS.values()}
        except _DAMAGE:
            return


def _is_distinctive(tensor: Tensor) -> bool:
    """Return whether a tensor is large and varied enough to identify a model."""
    return tensor.numel() >= FEWEST_VALUES and bool((tensor != tensor.reshape(-1)[0]).any())


def _digest(tensor: Tensor) -> str:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(memoryview(flat.numpy())).hexdigest()  # type: ignore[arg-type]


def _safetensors(path: Path) -> Iterator[Tensor]:
    """Read the floating-point tensors of a safetensors file one at a time: 8 bytes length, a JSON header, then the bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LARGEST_HEADER:
            raise ValueError
        header = parse_json(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _PRECISIONS:
                first, end = entry["data_offsets"]
                yield _tensor(file, 8 + length + first, end - first, entry["dtype"])


def _tensor(file: IO[bytes], start: int, size: int, precision: str) -> Tensor:
    if not 0 < size <= LARGEST_TENSOR:
        raise ValueError
    file.seek(start)
    data = bytearray(file.read(size))
    if len(data) != size:
        raise ValueError
    return torch.frombuffer(data, dtype=_PRECISIONS[precision])


def _storages(path: Path) -> Iterator[str]:
    """Compute digests of the raw storages in a torch.save file, without opening its pickle."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if "/data/" in entry.filename and entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= LARGEST_TENSOR:
                data = archive.read(entry)
                if len(data) >= 2 * FEWEST_VALUES and len(set(data[: 1 << 12])) > 4:
                    yield hashlib.sha256(data).hexdigest()


def _gguf(path: Path) -> Iterator[Tensor]:
    """Read the unquantized tensors of a GGUF file: header, key-value pairs, tensor list, aligned data (version 2 and 3)."""
    with path.open("rb") as file:
        magic, version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version not in (2, 3) or max(tensors, pairs) > 1 << 20:
            raise ValueError
        alignment = 32
        for _ in range(pairs):
            name, value = _string(file), _value(file, *struct.unpack("<I", file.read(4)))
            if name == b"general.alignment" and isinstance(value, int):
                alignment = value
        listed = []
        for _ in range(tensors):
            _string(file)
            (dimensions,) = struct.unpack("<I", file.read(4))
            if dimensions > 8:
                raise ValueError
            shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
            kind, offset = struct.unpack("<IQ", file.read(12))
            listed.append((shape, kind, offset))
        start = -(-file.tell() // alignment) * alignment
        for shape, kind, offset in listed:
            if (precision := _GGUF_PRECISIONS.get(kind)) is not None:
                count = 1
                for extent in shape:
                    count *= extent
                yield _tensor(file, start + offset, count * _PRECISIONS[precision].itemsize, precision)


def _string(file: IO[bytes]) -> bytes:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > LARGEST_HEADER:
        raise ValueError
    return file.read(length)


def _value(file: IO[bytes], kind: int, depth: int = 0) -> int | None:
    """Read a metadata value; only 32-bit integers are returned, others are skipped."""
    if kind == _GGUF_STRING:
        _string(file)
    elif kind == _GGUF_ARRAY and depth < 4:
        inner, count = struct.unpack("<IQ", file.read(12))
        if count > LARGEST_HEADER:
            raise ValueError
        for _ in range(count):
            _value(file, inner, depth + 1)
    else:
        data = file.read(_GGUF_SIZES[kind])
        return int.from_bytes(data, "little") if kind == 4 else None
    return None

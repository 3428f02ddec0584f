"""Rows of a level table, their Merkle tree, and the file that holds them.

    leaf_i = SHA-256(0x00 || row_i),    node = SHA-256(0x01 || left || right),    an odd node goes up as it is

(the tree of RFC 6962 with another treatment of odd nodes). A row that leaves keeps its leaf, so that the root, which was signed
before all requests, stays valid, the other rows stay provable, and anybody can count what left. A leaf reveals nothing: it hashes
losses of models that no longer exist.
"""

import hashlib
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from verify.errors import InputError
from verify.io.files import atomic_file, write_text
from verify.schema.level_table import Half

Array = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

ROWS, LEAVES = "levels.parquet", "leaves.txt"
SCHEMA = "unlearn-verify/level-rows/1"
CHANNEL = "channel: "
"""Prefix of the columns of channels."""
OWN_COLUMNS = {
    "row": pa.int64(),
    "record": pa.string(),
    "subject": pa.string(),
    "control": pa.bool_(),
    "half": pa.string(),
    "trained_on": pa.list_(pa.bool_()),
}
"""Columns besides those of the channels, each of which is a list of float64 with one value per model."""
REMEDY = "Restore the folder as `unlearn train --level-table` wrote it, or make the table again."

_HASH, _LEAF = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class LevelRows:
    """Rows of a level table that are still there: N records, M models.

    Attributes:
        places: number of each row among all rows that the table was made with [N].
        records, subjects: keyed hashes [N].
        halves: whose control a row is; None for a training record [N].
        trained_on: whether each model was trained on the record, bool [M, N].
        losses: channel -> mean losses, nats per token [M, N]; NaN where a record was not scored in this way.
    """

    places: NDArray[np.int64]
    records: tuple[str, ...]
    subjects: tuple[str, ...]
    halves: tuple[Half | None, ...]
    trained_on: NDArray[np.bool_]
    losses: Mapping[str, Array]

    def leaves(self) -> list[str]:
        """Compute the leaf of every row, in hexadecimal [N]."""
        names = sorted(self.losses)
        found = []
        for column, record in enumerate(self.records):
            digest = hashlib.sha256(b"\x00")
            digest.update(f"{record}\x00{self.subjects[column]}\x00{self.halves[column] or 'trained'}\x00".encode())
            digest.update(self.trained_on[:, column].astype(np.uint8).tobytes())
            for name in names:
                digest.update(struct.pack(">I", len(name.encode())) + name.encode())
                # Little-endian doubles; every NaN is the same one.
                values = self.losses[name][:, column]
                digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())
            found.append(digest.hexdigest())
        return found

    def save(self, folder: Path) -> None:
        """Write `levels.parquet`, atomically, readable by the owner only."""
        columns: dict[str, pa.Array] = {
            "row": pa.array(self.places, pa.int64()),
            "record": pa.array(self.records, pa.string()),
            "subject": pa.array(self.subjects, pa.string()),
            "control": pa.array([half is not None for half in self.halves], pa.bool_()),
            "half": pa.array(self.halves, pa.string()),
            "trained_on": pa.array(self.trained_on.T.tolist(), pa.list_(pa.bool_())),
        }
        columns |= {CHANNEL + name: pa.array(list(values.T), pa.list_(pa.float64())) for name, values in self.losses.items()}
        with atomic_file(folder / ROWS, mode=0o600) as stream:
            pq.write_table(pa.table(columns).replace_schema_metadata({"schema": SCHEMA}), stream)

    def without(self, records: Collection[str]) -> "LevelRows":
        """Return the rows that are not of these records."""
        kept = np.array([name not in records for name in self.records], dtype=bool)
        return LevelRows(
            self.places[kept],
            tuple(name for name, stays in zip(self.records, kept, strict=True) if stays),
            tuple(name for name, stays in zip(self.subjects, kept, strict=True) if stays),
            tuple(half for half, stays in zip(self.halves, kept, strict=True) if stays),
            self.trained_on[:, kept],
            {name: values[:, kept] for name, values in self.losses.items()},
        )

    @classmethod
    def load(cls, folder: Path, models: int, channels: Sequence[str]) -> "LevelRows":
        """Read `levels.parquet`.

        Args:
            folder: folder of the table.
            models: number of models, M.
            channels: the channels that the header lists.

        Raises:
            InputError: the file is missing, truncated, lacks a column, or is not a table of levels.
        """
        path = folder / ROWS
        try:
            with pq.ParquetFile(path) as file:
                _require_columns(path, file.schema_arrow, channels)
                table = file.read()
            return _parsed(table, models, channels)
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way in the library that reads it
            raise InputError(f"{path} is not a whole table of levels ({type(error).__name__}). {REMEDY}") from None


def _require_columns(path: Path, schema: pa.Schema, channels: Sequence[str]) -> None:
    found = (schema.metadata or {}).get(b"schema", b"").decode(errors="replace")
    if found != SCHEMA:
        raise InputError(f"{path} is not a table of levels of this version ({SCHEMA}). {REMEDY}")
    lists = {CHANNEL + name: pa.list_(pa.float64()) for name in channels}
    wanted = {**OWN_COLUMNS, **lists}
    lacking = [name for name, kind in wanted.items() if name not in schema.names or schema.field(name).type != kind]
    if lacking:
        raise InputError(f"{path} lacks the column {lacking[0]!r}, or it holds other values. {REMEDY}")
    if len(schema.names) != len(wanted):
        raise InputError(f"{path} has columns that its header does not list. {REMEDY}")


def _parsed(table: pa.Table, models: int, channels: Sequence[str]) -> LevelRows:
    """Check every value, and return the rows; raise ValueError where one is not what it should be."""
    texts = {name: table[name].to_pylist() for name in ("record", "subject", "control", "half")}
    if any(not isinstance(name, str) or not _HASH.fullmatch(name) for name in (*texts["record"], *texts["subject"])):
        raise ValueError("a record or subject is not a keyed hash")
    if len(set(texts["record"])) < len(texts["record"]) or set(texts["half"]) - {None, "method", "audit"}:
        raise ValueError("a record is listed twice, or a half is unknown")
    if any((half is not None) != control for half, control in zip(texts["half"], texts["control"], strict=True)):
        raise ValueError("a control belongs to nobody")
    places = _flat(table["row"], np.int64)
    trained = _matrix(table["trained_on"], models, np.bool_)
    losses = {name: _matrix(table[CHANNEL + name], models, np.float64) for name in channels}
    if any(np.isinf(values).any() for values in losses.values()):
        raise ValueError("a loss is infinite")
    if any(half is not None and trained[:, column].any() for column, half in enumerate(texts["half"])):
        raise ValueError("a control was trained on")
    halves = cast(tuple[Half | None, ...], tuple(texts["half"]))
    return LevelRows(places, tuple(texts["record"]), tuple(texts["subject"]), halves, trained, losses)


def _flat(column: pa.ChunkedArray, kind: type[np.generic]) -> NDArray[np.int64]:
    if column.null_count:
        raise ValueError("a value is missing")
    return np.array(column.to_numpy(), dtype=kind)


def _matrix(column: pa.ChunkedArray, models: int, kind: type[Scalar]) -> NDArray[Scalar]:
    """Return a column of lists with one value per model as an array [M, N]."""
    lists = column.combine_chunks()
    values = lists.flatten()
    if lists.null_count or values.null_count or len(values) != models * len(lists):
        raise ValueError("a row has another number of models")
    if len(lists) and (np.diff(lists.offsets.to_numpy()) != models).any():
        raise ValueError("a row has another number of models")
    return np.array(values.to_numpy(zero_copy_only=False), dtype=kind).reshape(len(lists), models).T.copy()


def merkle_root(leaves: Iterable[str]) -> str:
    """Compute the Merkle root over leaves, in hexadecimal.

    Raises:
        ValueError: there are no leaves, or one is not a digest.
    """
    level = [bytes.fromhex(leaf) for leaf in leaves]
    if not level:
        raise ValueError("a tree needs at least one leaf")
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + one + other).digest() for one, other in zip(level[::2], level[1::2], strict=False)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return level[0].hex()


def save_leaves(folder: Path, leaves: Sequence[str]) -> None:
    """Write the leaves, one a line."""
    write_text(folder / LEAVES, "\n".join(leaves) + "\n")


def load_leaves(folder: Path, rows: int) -> list[str]:
    """Read the leaves of all rows that a table was made with.

    Raises:
        InputError: the file is missing, or does not hold one digest for each of `rows` rows.
    """
    path = folder / LEAVES
    try:
        leaves = path.read_text(encoding="ascii").split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}). {REMEDY}") from None
    if len(leaves) != rows or not all(map(_LEAF.fullmatch, leaves)):
        raise InputError(f"{path} does not hold the digests of {rows} rows, as the header says. {REMEDY}")
    return leaves

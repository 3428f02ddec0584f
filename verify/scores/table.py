"""The score table: per-record scores of every model, from which a verdict can be recomputed.

One row per (model, record). Records are keyed hashes; the file is readable by its owner only, because scores of a deleted
record are still data about it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from verify.data.identity import set_digest
from verify.errors import InputError
from verify.io.files import atomic_file
from verify.schema.inputs import AuditedSet
from verify.schema.parts import SetRole

WITHOUT_CHANNELS, WITH_CHANNELS, WITH_POOL, WITH_SHARDS = (f"unlearn-verify/scores/{number}" for number in (1, 2, 3, 4))
"""Schemas: a table without channels, a level table's pool or shards is written as earlier versions wrote it."""
OWN_COLUMNS = ("model", "role", "record", "subject", "tokens", "mean_loss", "included")
"""Columns in addition to one per attack and channel; one attack is named "loss", hence "mean_loss"."""
CHANNEL = "channel: "
"""Prefix of the columns of channels."""
WITHOUT_ADAPTER = "target without its adapter"
"""Label of the target with its adapter switched off, which is scored on the forget set alone."""
POOL = "pool "
"""Beginning of the labels of a level table's models, whose numbers were copied from it: "pool 1", "pool 2", ..."""
SHARD = "shard "
"""Beginning of the labels of single shards, which are ranked among each other: "shard 0", "shard 1", ..."""
BEFORE = " before"
"""End of the label of a rebuilt shard as it was before the deletion, scored on the forget records that it held."""
EXACT_TEXT = "exact text"
"""The channel that every block has: its `loss`."""


@dataclass(frozen=True, eq=False)
class ScoreBlock:
    """One model's scores on one set of N records.

    Attributes:
        records: keyed hashes [N]; the same order for every model.
        subjects: keyed hashes, or None where the record names no subject [N].
        tokens: scored tokens [N].
        loss: mean negative log-likelihood, nats per token [N]; NaN for a record that a level table's model was trained on.
        scores: attack name -> scores [N].
        included: whether each canary was assigned to the training data, bool [N]; None for all other records.
        channels: way of asking other than the exact text -> mean negative log-likelihood, nats per token [N]; NaN for a record
            that was not scored in this way.
    """

    records: tuple[str, ...]
    subjects: tuple[str | None, ...]
    tokens: NDArray[np.int64]
    loss: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]
    included: NDArray[np.bool_] | None = None
    channels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of an audit: one block per model label and set."""

    blocks: Mapping[tuple[str, SetRole], ScoreBlock]

    def models(self) -> tuple[str, ...]:
        """Return the labels of all models that were scored, in order: not the target without its adapter, a pool's, or shards."""
        others = (POOL, SHARD)
        return tuple(dict.fromkeys(model for model, _ in self.blocks if model != WITHOUT_ADAPTER and not model.startswith(others)))

    def pool(self) -> tuple[str, ...]:
        """Return the labels of the level table's models whose numbers the audit used, in order."""
        return tuple(dict.fromkeys(model for model, _ in self.blocks if model.startswith(POOL)))

    def shards(self) -> tuple[str, ...]:
        """Return the labels of single shards after the deletion, in order."""
        labels = dict.fromkeys(model for model, _ in self.blocks if model.startswith(SHARD))
        return tuple(label for label in labels if not label.endswith(BEFORE))

    def block(self, model: str, role: SetRole) -> ScoreBlock | None:
        """Return one model's scores on one set, or None if there are none."""
        return self.blocks.get((model, role))

    def loss(self, model: str, role: SetRole) -> NDArray[np.float64]:
        """Return mean losses, nats per token [N].

        Raises:
            KeyError: the model was not scored on that set.
        """
        return self.blocks[model, role].loss

    def losses(self, models: Iterable[str], role: SetRole) -> NDArray[np.float64]:
        """Return mean losses of several models, nats per token [R, N].

        Raises:
            KeyError: one of them was not scored on that set.
        """
        return np.stack([self.loss(model, role) for model in models])

    def attacks(self) -> tuple[str, ...]:
        """Return the names of all attacks in any block, in order of first appearance."""
        return tuple(dict.fromkeys(name for block in self.blocks.values() for name in block.scores))

    def channels(self) -> tuple[str, ...]:
        """Return the names of all channels in any block besides the exact text, in order of first appearance."""
        return tuple(dict.fromkeys(name for block in self.blocks.values() for name in block.channels))

    def channel(self, name: str, model: str, role: SetRole) -> NDArray[np.float64]:
        """Return mean losses on one channel, nats per token [N]; NaN for a record that was not scored on it.

        Args:
            name: a channel of the model, or "exact text".

        Raises:
            KeyError: the model was not asked in that way on that set.
        """
        block = self.blocks[model, role]
        return block.loss if name == EXACT_TEXT else block.channels[name]

    def save(self, path: str | Path) -> None:
        """Write `scores.parquet`, atomically, readable by the owner only."""
        names, channels = self.attacks(), self.channels()
        plain = WITH_CHANNELS if channels else WITHOUT_CHANNELS
        metadata = {"schema": WITH_SHARDS if self.shards() else WITH_POOL if self.pool() else plain}
        # One block at a time: the rows of all models together would double what an audit holds.
        parts = (_rows(model, role, block, names, channels) for (model, role), block in self.blocks.items())
        first = next(parts).replace_schema_metadata(metadata)
        with atomic_file(path, mode=0o600) as stream, pq.ParquetWriter(stream, first.schema) as writer:
            for part in chain([first], parts):
                writer.write_table(part.replace_schema_metadata(metadata))

    @classmethod
    def load(cls, path: str | Path) -> "ScoreTable":
        """Read `scores.parquet`.

        Raises:
            InputError: the file is missing, truncated, or not a table of scores of this version.
        """
        try:
            with pq.ParquetFile(path) as file:
                metadata = file.schema_arrow.metadata or {}
                schema = metadata.get(b"schema", b"").decode(errors="replace")
                if schema not in (WITHOUT_CHANNELS, WITH_CHANNELS, WITH_POOL, WITH_SHARDS):
                    known = f"{WITHOUT_CHANNELS} to {WITH_SHARDS.rpartition('/')[2]}"
                    raise InputError(f"{path} is not a score table of this version ({known}). Run the audit again.")
                if schema == WITHOUT_CHANNELS and any(name.startswith(CHANNEL) for name in file.schema_arrow.names):
                    raise ValueError("a table without channels has columns of channels")
                found = cls(_blocks(file))
                if bool(found.shards()) != (schema == WITH_SHARDS):
                    raise ValueError("the schema does not say whether the table has shards")
                if schema != WITH_SHARDS and bool(found.pool()) != (schema == WITH_POOL):
                    raise ValueError("the schema does not say whether the table has a pool")
                return found
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way in the library that reads it
            raise InputError(f"{path} is not a whole score table ({type(error).__name__}). Run the audit again.") from None


def audited_sets(table: ScoreTable) -> tuple[AuditedSet, ...]:
    """Return the sets that were scored, in the target's order."""
    return tuple(
        AuditedSet(role=role, records=len(block.records), scored_tokens=int(block.tokens.sum()), digest=set_digest(block.records))
        for (model, role), block in table.blocks.items()
        if model == "target"
    )


def _rows(model: str, role: SetRole, block: ScoreBlock, attacks: Sequence[str], channels: Sequence[str]) -> pa.Table:
    """Return one block as rows, with a column for every attack and every channel of the table."""
    count = len(block.records)
    columns = {
        "model": pa.array([model] * count, pa.string()),
        "role": pa.array([role] * count, pa.string()),
        "record": pa.array(block.records, pa.string()),
        "subject": pa.array(block.subjects, pa.string()),
        "tokens": pa.array(block.tokens, pa.int64()),
        "mean_loss": pa.array(block.loss, pa.float64()),
        "included": pa.nulls(count, pa.bool_()) if block.included is None else pa.array(block.included, pa.bool_()),
    }
    for name in attacks:
        columns[name] = pa.array(block.scores[name], pa.float64()) if name in block.scores else pa.nulls(count, pa.float64())
    for name in channels:
        # A record that was not scored is NaN; a block that was not asked in this way is null.
        measured = name in block.channels
        columns[CHANNEL + name] = pa.array(block.channels[name], pa.float64()) if measured else pa.nulls(count, pa.float64())
    return pa.table(columns)


def _blocks(file: pq.ParquetFile) -> dict[tuple[str, SetRole], ScoreBlock]:
    """Return blocks in the order of their first rows."""
    pieces: dict[tuple[str, SetRole], list[pa.Table]] = {}
    for number in range(file.num_row_groups):
        rows = file.read_row_group(number)
        keys = zip(*(rows[name].to_pylist() for name in ("model", "role")), strict=True)
        start = 0
        for key, run in groupby(keys):
            count = sum(1 for _ in run)
            pieces.setdefault(key, []).append(rows.slice(start, count))
            start += count
    shared: dict[Any, Any] = {}
    # Taken out one by one, so that the rows as read are freed while their blocks are made.
    return {key: _block(pa.concat_tables(pieces.pop(key)), shared) for key in list(pieces)}


def _block(rows: pa.Table, shared: dict[Any, Any]) -> ScoreBlock:
    """Return one block; `shared` holds the names of blocks made before, as all models have the same records."""
    records, subjects = (tuple(rows[name].to_pylist()) for name in ("record", "subject"))
    # An attack or a channel that was not run on this block has a column of nulls, as every block has all columns.
    filled = [name for name in rows.column_names if name not in OWN_COLUMNS and not rows[name].null_count]
    included = rows["included"]
    return ScoreBlock(
        records=shared.setdefault(records, records),
        subjects=shared.setdefault(subjects, subjects),
        tokens=_numbers(rows["tokens"], np.int64),
        loss=_numbers(rows["mean_loss"], np.float64),
        scores={name: _numbers(rows[name], np.float64) for name in filled if not name.startswith(CHANNEL)},
        included=None if included.null_count else np.array(included.to_numpy(), dtype=np.bool_),
        channels={name.removeprefix(CHANNEL): _numbers(rows[name], np.float64) for name in filled if name.startswith(CHANNEL)},
    )


def _numbers(column: pa.ChunkedArray, kind: Any) -> NDArray[Any]:
    """Return a column of numbers, none missing, as a writable copy."""
    if column.null_count:
        raise ValueError("a number is missing")
    return np.array(column.to_numpy(), dtype=kind)

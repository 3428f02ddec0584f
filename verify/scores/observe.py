"""Forward pass of a model over records into an `Observation`, with a sealed cache of token statistics.

Each model scores a record once: an audit that is run again, with other attacks or another margin, needs no forward pass. The cache
holds token statistics under keyed hashes, no text and no token ids. It is not trusted: the file carries a MAC under the record
key, and one that is damaged, truncated, or written with another key is discarded and computed again.
"""

import hashlib
import hmac
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verify.attacks.base import Observation
from verify.data.encoding import Encoded, Encoder, Overflow, padding_token_id, warn_of_spelled_tokens
from verify.data.identity import HASH_CHARACTERS, RecordKey
from verify.data.records import Record
from verify.io.files import atomic_file
from verify.models.configuration import digest_of, entries_of, relevant
from verify.models.loading import LoadedModel
from verify.models.token_stats import compute_token_statistics
from verify.models.token_table import COLUMNS, TokenTable

SCHEMA = "unlearn-verify/token-statistics/1"
ARROW = b"ARROW1"
"""First bytes of an Arrow file. Caches of release 0.1.0 were numpy archives."""

Rows = dict[str, int]
"""Row in a table of token statistics by the keyed hash of the record's encoded windows."""


def measure(
    loaded: LoadedModel,
    records: Sequence[Record],
    *,
    cache_dir: Path | None,
    key: RecordKey,
    overflow: Overflow = "refuse",
    progress: Callable[[int], None] = lambda _: None,
) -> Observation:
    """Score records with one forward pass each, or none where the cache holds their statistics.

    Args:
        loaded: the model.
        records: the records to score, at least one.
        cache_dir: folder of the cache; None to keep none.
        key: names the records in the cache and seals it.
        overflow: treatment of records longer than the context; see `verify.data.encoding.Encoder`.
        progress: called with the number of windows scored so far, after each batch.

    Returns:
        the observation, with the model and the windows.

    Raises:
        InputError: a record cannot be encoded.
        RunError: the model gave a value that is not finite, or the cache cannot be written.
    """
    warn_of_spelled_tokens(records, loaded.tokenizer)
    windows = Encoder(loaded.tokenizer, loaded.context_length, overflow).encode(records)
    by_record: list[list[Encoded]] = [[] for _ in records]
    for window in windows:
        by_record[window.record].append(window)
    names = [_name(group, key) for group in by_record]
    path = None if cache_dir is None else cache_dir / f"{model_name(loaded)}.statistics"
    rows, known = ({}, TokenTable.empty([])) if path is None else _read(path, key)
    missing = {name: group for name, group in zip(names, by_record, strict=True) if name not in rows}
    if missing:
        fresh = [window for group in missing.values() for window in group]
        computed = compute_token_statistics(loaded.model, fresh, padding_token_id(loaded.tokenizer), progress)
        # Statistics come in the order of the records; two records with the same windows share one name and are scored once.
        order = sorted(missing, key=lambda name: missing[name][0].record)
        rows |= {name: row for row, name in enumerate(order, len(rows))}
        known = known.followed_by(computed)
        if path is not None:
            _write(path, rows, known, key)
    return Observation(records, known.take(np.array([rows[name] for name in names], dtype=np.int64)), loaded, windows)


def _name(windows: Sequence[Encoded], key: RecordKey) -> str:
    """Compute a keyed hash of a record's windows: the token ids that the model reads, and which of them are scored or secret.

    It is over the tokens, not the text: the same text in other windows, or encoded by a later version, has other statistics.
    """
    digest = hashlib.sha256()
    for window in windows:
        digest.update(len(window.input_ids).to_bytes(8, "big"))
        for part in (window.input_ids, window.scored, window.secret):
            digest.update(part.tobytes())
    return key.of(digest.hexdigest(), "statistics")


def model_name(loaded: LoadedModel) -> str:
    """Hash everything but the records that the statistics depend on.

    Weights alone do not determine a model's output: a rotary base, a soft cap or a LoRA scaling is in its configuration.
    """
    parameter = next(loaded.model.parameters())
    adapters = getattr(loaded.model, "peft_config", None) or {}
    content = {
        "schema": SCHEMA,
        "weights": loaded.digest,
        "tokenizer": loaded.tokenizer_digest,
        "dtype": str(parameter.dtype),
        "device": parameter.device.type,
        "config": entries_of(loaded.model),
        "adapters": {name: relevant(config.to_dict()) for name, config in sorted(adapters.items())},
    }
    return digest_of(content)[:HASH_CHARACTERS]


def _write(path: Path, rows: Rows, table: TokenTable, key: RecordKey) -> None:
    """Write the sealed cache, atomically, readable by its owner only: 24 bytes a record and 18 a token."""
    # Bytes instead of Arrow's bits for the two truth values, so that a column is read without a copy.
    columns = {name: pa.array(column.view(np.uint8) if column.dtype == bool else column) for name, column in table.columns.items()}
    tokens = pa.StructArray.from_arrays(list(columns.values()), list(columns))
    content = {
        "record": pa.array([bytes.fromhex(name) for name in rows], pa.binary(HASH_CHARACTERS // 2)),
        "tokens": pa.LargeListArray.from_arrays(pa.array(table.bounds), tokens),
    }
    write_sealed(path, pa.table(content), key)


def _read(path: Path, key: RecordKey) -> tuple[Rows, TokenTable]:
    """Read the cache; return an empty one where there is none, or with a warning if anything is wrong with it."""
    stored = read_sealed(path, key)
    if stored is None:
        return {}, TokenTable.empty([])
    names, lists = (stored[name].combine_chunks() for name in ("record", "tokens"))
    columns = {name: lists.values.field(name).to_numpy().view(kind) for name, kind in COLUMNS.items()}
    return {name.hex(): row for row, name in enumerate(names.to_pylist())}, TokenTable(columns, lists.offsets.to_numpy())


def write_sealed(path: Path, table: pa.Table, key: RecordKey) -> None:
    """Write a table as an Arrow file behind its MAC, atomically, readable by its owner only."""
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    payload = buffer.getvalue()
    with atomic_file(path, mode=0o600) as stream:
        stream.write(seal(path, payload, key))
        stream.write(payload)


def read_sealed(path: Path, key: RecordKey) -> pa.Table | None:
    """Return the table behind the seal; None where there is no file, or, with a warning, where it cannot be used."""
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError:
        return None
    payload = content[HASH_CHARACTERS:]
    if not hmac.compare_digest(bytes(content[:HASH_CHARACTERS]), seal(path, payload, key)):
        text = f"the cache {path.name} is damaged or was not written with this record key; it is made again."
    elif payload[: len(ARROW)] != ARROW:
        text = f"the cache {path.name} was written by an earlier version; it is made again."
    else:
        # The MAC verified, so these are the bytes that `write_sealed` wrote, and their structure needs no checks.
        return pa.ipc.open_file(pa.py_buffer(payload)).read_all()
    warnings.warn(text, stacklevel=4)
    return None


def seal(path: Path, payload: Any, key: RecordKey) -> bytes:
    """Compute a MAC over content and file name, so that a cache cannot be passed off as another model's."""
    return key.of(f"{path.name}\x00{hashlib.sha256(payload).hexdigest()}", "statistics cache").encode()

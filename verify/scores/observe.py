"""Forward pass of a model over records into an `Observation`, with a sealed cache of token statistics.

Each model scores a record once: an audit that is run again, with other attacks or another margin, needs no forward pass. The cache
holds token statistics under keyed hashes, no text and no token ids. It is not trusted: the file carries a MAC under the record
key, and one that is damaged, truncated, or written with another key is discarded and computed again.
"""

import hashlib
import hmac
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verify.attacks.base import Observation
from verify.data.encoding import Encoded, Encoder, Overflow, padding_token_id, warn_of_spelled_tokens
from verify.data.identity import HASH_CHARACTERS, RecordKey
from verify.data.records import Record
from verify.io.files import atomic_file
from verify.models.loading import LoadedModel
from verify.models.token_stats import ARRAYS, TokenStatistics, compute_token_statistics

SCHEMA = "unlearn-verify/token-statistics/1"
COLUMNS = {name: np.dtype(kind) for name, kind in zip(ARRAYS, ("f4", "f4", "f4", "i4", "?", "?"), strict=True)}
VOLATILE_SETTINGS = (
    "_name_or_path",
    "architectures",
    "base_model_name_or_path",
    "dtype",
    "inference_mode",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Configuration entries that name a path, a version or a default and do not change the model's output."""

Entries = dict[str, TokenStatistics]
"""Token statistics by the keyed hash of the record's encoded windows."""


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
    known = {} if path is None else _read(path, key)
    missing = {name: group for name, group in zip(names, by_record, strict=True) if name not in known}
    if missing:
        fresh = [window for group in missing.values() for window in group]
        computed = compute_token_statistics(loaded.model, fresh, padding_token_id(loaded.tokenizer), progress)
        # Statistics come in the order of the records; two records with the same windows share one name and are scored once.
        order = sorted(missing, key=lambda name: missing[name][0].record)
        known |= dict(zip(order, computed, strict=True))
        if path is not None:
            _write(path, known, key)
    return Observation(records, [known[name] for name in names], loaded, windows)


def _name(windows: Sequence[Encoded], key: RecordKey) -> str:
    """Compute a keyed hash of a record's windows: the token ids that the model reads, and which of them are scored or secret.

    Of the tokens, not the text: the same text in other windows, or encoded by a later version, has other statistics.
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
    adapters = getattr(loaded.model, "peft_config", {})
    content = {
        "schema": SCHEMA,
        "weights": loaded.digest,
        "tokenizer": loaded.tokenizer_digest,
        "dtype": str(parameter.dtype),
        "device": parameter.device.type,
        "config": _stable(loaded.model.config.to_dict()),
        "adapters": {name: _stable(config.to_dict()) for name, config in sorted(adapters.items())},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:HASH_CHARACTERS]


def _stable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop settings that name a path or a version, and sort sets, whose order changes between runs."""
    return {
        str(name): sorted(map(str, value)) if isinstance(value, set | frozenset) else value
        for name, value in settings.items()
        if name not in VOLATILE_SETTINGS
    }


def _write(path: Path, entries: Entries, key: RecordKey) -> None:
    """Write the sealed cache, atomically, readable by its owner only."""
    arrays: dict[str, Any] = {}
    arrays["records"] = np.array(list(entries), dtype=f"S{HASH_CHARACTERS}")
    arrays["lengths"] = np.array([len(entry) for entry in entries.values()], dtype=np.int64)
    for name, kind in COLUMNS.items():
        arrays[name] = np.concatenate([getattr(entry, name) for entry in entries.values()]).astype(kind)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    payload = buffer.getvalue()
    with atomic_file(path, mode=0o600) as stream:
        stream.write(seal(path, payload, key) + payload)


def _read(path: Path, key: RecordKey) -> Entries:
    """Read the cache; return an empty one with a warning if anything is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    payload = unsealed(path, content, key)
    if payload is None:
        warnings.warn(f"the cache {path.name} is damaged or was not written with this record key; it is made again.", stacklevel=3)
        return {}
    # The MAC verified, so these are the bytes that `_write` wrote, and their structure needs no checks.
    with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
        bounds = np.cumsum(stored["lengths"])[:-1]
        columns = {name: np.split(stored[name], bounds) for name in COLUMNS}
        names = [name.decode() for name in stored["records"].tolist()]
    return {name: TokenStatistics(**{column: columns[column][index] for column in COLUMNS}) for index, name in enumerate(names)}


def seal(path: Path, payload: bytes, key: RecordKey) -> bytes:
    """Compute a MAC over content and file name, so that a cache cannot be passed off as another model's."""
    return key.of(f"{path.name}\x00{hashlib.sha256(payload).hexdigest()}", "statistics cache").encode()


def unsealed(path: Path, content: bytes, key: RecordKey) -> bytes | None:
    """Return the content behind the seal, or None where the MAC does not verify."""
    given, payload = content[:HASH_CHARACTERS], content[HASH_CHARACTERS:]
    return payload if hmac.compare_digest(given, seal(path, payload, key)) else None

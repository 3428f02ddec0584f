"""Division of training records into shards and slices, and reading of a sharded training's description.

A keyed hash of a record's subject (or content) gives its shard and slice, so that neither depends on other records.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.io.files import read_json
from verify.provenance.training_log import OPEN_OPTIONS

SHARDS = "shards.json"
SCHEMA = "unlearn-verify/shards/1"


def shard_and_slice(record: Record, key: RecordKey, shards: int, slices: int) -> tuple[int, int]:
    """Compute shard and slice of a record; records with the same (first) subject are in the same slice."""
    unit = key.of(record.fingerprint) if record.subject_id is None else key.of(record.subject_id, "subject")
    # Keyed hash of the unit alone, so that other records do not move it; shard and slice are independent digits of the number.
    number = int(hashlib.sha256(unit.encode()).hexdigest(), 16)
    return number % shards, number // shards % slices


def stage_seed(seed: int, shard: int, stage: int) -> int:
    """Derive the random seed of one stage from the training's."""
    return int(np.random.SeedSequence([seed, shard, stage]).generate_state(1, np.uint32)[0]) >> 1


def stage_epochs(epochs: float | None, slices: int) -> float:
    """Compute the epochs of a stage, so that all stages of a shard together cost one training of it.

    Stage r of R trains on r / R of the records, so that e epochs per stage cost e (R + 1) / 2 epochs of the shard.
    """
    return float((epochs or OPEN_OPTIONS["epochs"]) * (2 / (slices + 1)))


@dataclass(frozen=True)
class ShardsDescription:
    """Content of `shards.json`.

    Attributes:
        shards, slices: S and R.
        combine: how the shards are served together.
        options: the training options of the whole training, by name.
        base: folder or Hub name of the base model, and `base_weights` its digest.
        base_weights: digest of the base's weights.
        records: (shard, slice) of every training record, by keyed hash.
    """

    shards: int
    slices: int
    combine: str
    options: Mapping[str, Any]
    base: str
    base_weights: str
    records: Mapping[str, tuple[int, int]]

    @classmethod
    def read(cls, folder: Path) -> "ShardsDescription":
        """Read the description of a sharded training.

        Raises:
            InputError: the file is missing, damaged or of another version.
        """
        if not (folder / SHARDS).is_file():
            raise InputError(f"{folder} was not trained in shards. Train with --shards S, or use retrain or rollback.")
        about = read_json(folder / SHARDS)
        try:
            if about["schema"] != SCHEMA:
                raise ValueError
            places = {str(name): (int(shard), int(stage)) for name, (shard, stage) in about["records"].items()}
            shards, slices = int(about["shards"]), int(about["slices"])
            if min(shards, slices) < 1:
                raise ValueError
            options = dict(about["options"])
            return cls(shards, slices, str(about["combine"]), options, str(about["base"]), str(about["base_weights"]), places)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{folder / SHARDS} is damaged or of another version ({SCHEMA}). Train the shards again.") from None

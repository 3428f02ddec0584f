"""Scores of attacks that cost more than the shared pass, kept between audits: an audit that was cut off runs none of them twice.

Like the cache of token statistics the file holds numbers under keyed hashes, is sealed with the record key, and is not trusted: one
that is damaged or was written by somebody else is thrown away.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verify.attacks.base import Attack, Observation
from verify.files import atomic_file
from verify.identity import HASH_CHARACTERS, RecordKey
from verify.measurements import model_name, seal, unsealed
from verify.models import LoadedModel

Array = NDArray[np.float64]


class ScoreCache:
    """One model's scores; without a folder it keeps nothing."""

    def __init__(self, cache_dir: Path | None, loaded: LoadedModel, key: RecordKey) -> None:
        self.key = key
        self.path = None if cache_dir is None else cache_dir / f"{model_name(loaded)}.attacks"
        self.known = self._read()

    def get(self, name: str, attack: Attack, observations: Sequence[Observation | None], compute: Callable[[], Array]) -> Array:
        """The scores of `attack` on the first of the observations; the others are what else it reads."""
        if self.path is None:
            return compute()
        entry = self._name(name, attack, observations)
        if entry not in self.known:
            self.known[entry] = compute().tolist()
            payload = json.dumps(self.known).encode()
            with atomic_file(self.path, mode=0o600) as stream:
                stream.write(seal(self.path, payload, self.key) + payload)
        return np.array(self.known[entry], dtype=np.float64)

    def _name(self, name: str, attack: Attack, observations: Sequence[Observation | None]) -> str:
        """Keyed hash of the attack with its parameters and of every record it reads, in order."""
        digest = hashlib.sha256(f"{name}\x00{attack!r}".encode())
        for observation in observations:
            records = [] if observation is None else observation.records
            windows = 0 if observation is None else len(observation.windows)  # another way of splitting is another measurement
            digest.update(f"\x00{len(records)}\x00{windows}".encode())
            for record in records:
                people = "\x00".join(record.subjects) or None
                digest.update(f"\x00{record.reading}\x00{record.secret}\x00{people}".encode())
        return self.key.of(digest.hexdigest(), "attack scores")

    def _read(self) -> dict[str, list[float]]:
        if self.path is None or not self.path.exists():
            return {}
        payload = unsealed(self.path, self.path.read_bytes(), self.key)
        if payload is None:
            text = f"the cache {self.path.name} is damaged or was not written with this record key; it is made again."
            warnings.warn(text, stacklevel=2)
            return {}
        found: dict[str, list[float]] = json.loads(payload)
        assert all(len(name) == HASH_CHARACTERS for name in found)
        return found

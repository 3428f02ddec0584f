"""Cache of numbers that cost more than the shared pass: scores of attacks and losses by channel. A resumed audit repeats none.

Like the cache of token statistics, the file holds numbers under keyed hashes, is sealed with the record key, and is not trusted:
one that is damaged or was written with another key is discarded.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from verify.attacks.base import Attack, Observation
from verify.data.identity import RecordKey
from verify.models.loading import LoadedModel
from verify.scores.observe import model_name, read_sealed, write_sealed

Array = NDArray[np.float64]


class SealedNumbers:
    """Lists of numbers by keyed hashes, in one sealed file; without a path nothing is kept."""

    def __init__(self, path: Path | None, key: RecordKey) -> None:
        self.path, self.key = path, key
        self.known = self._read()

    def find(self, entry: str) -> Array | None:
        """Return a copy of an entry's numbers [N], or None where there are none."""
        return self.known[entry].copy() if entry in self.known else None

    def keep(self, entries: Mapping[str, Array]) -> None:
        """Add entries, and write the file."""
        if self.path is None or not entries:
            return
        self.known |= {name: np.array(values, dtype=np.float64) for name, values in entries.items()}
        lists = [pa.array(values) for values in self.known.values()]
        bounds = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        content = {"entry": list(self.known), "scores": pa.LargeListArray.from_arrays(bounds, pa.concat_arrays(lists))}
        write_sealed(self.path, pa.table(content), self.key)

    def _read(self) -> dict[str, Array]:
        stored = None if self.path is None else read_sealed(self.path, self.key)
        if stored is None:
            return {}
        lists = stored["scores"].combine_chunks()
        return dict(
            zip(stored["entry"].to_pylist(), np.split(lists.values.to_numpy(), lists.offsets.to_numpy()[1:-1]), strict=True)
        )


class ScoreCache:
    """Cached attack scores of one model; without a folder nothing is kept."""

    def __init__(self, cache_dir: Path | None, loaded: LoadedModel, key: RecordKey) -> None:
        self.key = key
        self.numbers = SealedNumbers(None if cache_dir is None else cache_dir / f"{model_name(loaded)}.attacks", key)

    def get(self, name: str, attack: Attack, observations: Sequence[Observation | None], compute: Callable[[], Array]) -> Array:
        """Return the scores of `attack` on the first observation, from the cache where possible.

        Args:
            name: the attack's command-line name.
            attack: the attack with its parameters.
            observations: what it reads: the scored records, their controls and their members; None for those it does not have.
            compute: called where the cache has no scores.

        Returns:
            float64 [N].
        """
        if self.numbers.path is None:
            return compute()
        entry = self._name(name, attack, observations)
        found = self.numbers.find(entry)
        if found is None:
            found = np.asarray(compute(), dtype=np.float64)
            self.numbers.keep({entry: found})
        return found

    def _name(self, name: str, attack: Attack, observations: Sequence[Observation | None]) -> str:
        """Compute a keyed hash of the attack with its parameters and of every record it reads, in order."""
        digest = hashlib.sha256(f"{name}\x00{attack!r}".encode())
        for observation in observations:
            records = [] if observation is None else observation.records
            windows = 0 if observation is None else len(observation.windows)  # another split gives other scores
            digest.update(f"\x00{len(records)}\x00{windows}".encode())
            for record in records:
                subjects = "\x00".join(record.subjects) or None  # folds of learned attacks follow the subjects
                digest.update(f"\x00{record.reading}\x00{record.secret}\x00{subjects}".encode())
        return self.key.of(digest.hexdigest(), "attack scores")

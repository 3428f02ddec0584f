"""The training log: which record touched which step of a training. Its format, and its reader.

One JSON object a line. The first is the header: the run's settings and, for every training record, its keyed hash. Then one line
per microbatch (which records in which order, the seed of its random numbers, the learning rate that its step used), and one per
checkpoint. The last line names the final weights. Nothing in it says who or what a record is without the key.

`unlearn.provenance` writes it. An auditor reads it here, without trusting, or installing, what wrote it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from verify.errors import InputError
from verify.strict_json import parse_json

LOG_NAME = "training_log.jsonl"
SCHEMA = "unlearn-verify/training-log/1"

OPEN_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"epochs": 5.0, "batch_size": 8, "scheduler": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0}
)
"""What an option that a log gives as null stands for; the learning rate: `resolved`."""
FULL_LEARNING_RATE, LORA_LEARNING_RATE = 1e-5, 1e-4

_RECORD_HASH = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Microbatch:
    """One microbatch as it was trained.

    Attributes:
        number: counted from 0 over the whole run.
        step: the optimizer step it belongs to, counted from 1.
        records: indices into the header's records, in order.
        seed: of the random numbers (dropout) of its forward pass.
        learning_rate: the value that its step used.
    """

    number: int
    step: int
    records: tuple[int, ...]
    seed: int
    learning_rate: float


@dataclass(frozen=True)
class TrainingLog:
    """A training log, read.

    Attributes:
        options: the training options by name.
        records: keyed hash of every training record; a record that was split into windows has one entry per window.
        subjects: keyed hash of its subject, or None, likewise; of a record about several people, all of theirs joined by commas.
        start_weights: digest of the weights that training began with.
        tokenizer: digest of the tokenizer.
        microbatches: in order.
        checkpoints: (optimizer step, folder name).
        final_weights: digest of the trained weights, or None where the run did not end.
        defense: the defence that training was under, whose steps are not in the log; None where there was none.
        master_weights: "float32" where trained weights stored in half precision were held in float32; None where they were float32
            anyway, and in logs from before there were such copies.
        key_check: check value of the record key that the hashes were made with; None in logs of versions that did not write it.
    """

    options: dict[str, Any]
    records: tuple[str, ...]
    subjects: tuple[str | None, ...]
    start_weights: str
    tokenizer: str
    microbatches: tuple[Microbatch, ...]
    checkpoints: tuple[tuple[int, str], ...]
    final_weights: str | None
    defense: str | None = None
    master_weights: str | None = None
    key_check: str | None = None

    @classmethod
    def read(cls, path: str | Path) -> "TrainingLog":
        """Read and check a log.

        A last line that was cut off by a kill is passed over in a run that did not end; any other damage is an error.

        Raises:
            InputError: the file is missing, empty, damaged or of another version.
        """
        path = Path(path)
        try:
            lines = path.read_bytes().decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{path} cannot be read as a training log. Give the folder that `unlearn train` wrote.") from None
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = parse_json(line)
                if not isinstance(entry, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                if number == len(lines) and number > 1:
                    break
                raise InputError(f"{path}: line {number} is damaged. Restore the file, or train again.") from None
            entries.append(entry)
        try:
            return cls._from_entries(entries)
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(f"{path} is not a training log of this version ({SCHEMA}). Restore it, or train again.") from None

    @classmethod
    def _from_entries(cls, entries: Sequence[dict[str, Any]]) -> "TrainingLog":
        header = entries[0]
        if header["schema"] != SCHEMA:
            raise ValueError
        count = len(header["records"])
        _require_hashes(header)
        microbatches = tuple(
            Microbatch(int(e["microbatch"]), int(e["step"]), tuple(map(int, e["records"])), int(e["seed"]), float(e["rate"]))
            for e in entries
            if "microbatch" in e
        )
        in_order = all(entry.number == place for place, entry in enumerate(microbatches))
        if not in_order or any(not 0 <= index < count for entry in microbatches for index in entry.records):
            raise ValueError
        return cls(
            options=dict(header["options"]),
            records=tuple(header["records"]),
            subjects=tuple(header["subjects"]),
            start_weights=str(header["start_weights"]),
            tokenizer=str(header["tokenizer"]),
            microbatches=microbatches,
            checkpoints=tuple((int(e["checkpoint"]), str(e["folder"])) for e in entries if "checkpoint" in e),
            final_weights=next((str(e["final_weights"]) for e in entries if "final_weights" in e), None),
            defense=None if header.get("defense") is None else str(header["defense"]),
            master_weights=None if header.get("master_weights") is None else str(header["master_weights"]),
            key_check=None if header.get("key") is None else str(header["key"]),
        )

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.final_weights is not None

    @property
    def names(self) -> frozenset[str]:
        """Keyed hash of every record that was trained on, each once."""
        return frozenset(self.records)

    @property
    def seed(self) -> Any:
        """The seed of data order and dropout."""
        return self.options.get("seed")


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """The training options of a log with what was left open filled in, as the trainer fills it in."""
    filled = {name: OPEN_OPTIONS.get(name) if value is None else value for name, value in options.items()}
    if not filled.get("learning_rate"):
        filled["learning_rate"] = LORA_LEARNING_RATE if filled.get("lora") else FULL_LEARNING_RATE
    return filled


def _require_hashes(header: Mapping[str, Any]) -> None:
    """Raise ValueError unless records and subjects are keyed hashes, one of each for every window, and digests are digests."""
    records, subjects = header["records"], header["subjects"]
    if not isinstance(records, list) or not isinstance(subjects, list) or len(records) != len(subjects):
        raise ValueError
    # A record about several people names all of them, joined by commas.
    named = [*records, *(name for subject in subjects if subject is not None for name in str(subject).split(","))]
    if not all(isinstance(name, str) and _RECORD_HASH.fullmatch(name) for name in named):
        raise ValueError
    if not all(_DIGEST.fullmatch(str(header[name])) for name in ("start_weights", "tokenizer")):
        raise ValueError

"""Format and reader of the training log, which records the training records of every step.

One JSON object per line. The first is the header: the run's settings and, for every training record, its keyed hash. Then one line
per microbatch (its records in order, its random seed, the learning rate of its step) and one per checkpoint, with digests of its
state and the number of threads. The header names the software and device of the first steps; where a run was resumed on others, a
line before the first step that they computed names these. The last line names the final weights. Without the key nothing in it
identifies a record or a person. `verify.provenance.commitment` chains the lines to one digest.

`unlearn.training.log` writes it. An auditor reads it here without trusting, or installing, the code that wrote it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from verify.errors import InputError
from verify.io.strict_json import parse_json

LOG_NAME = "training_log.jsonl"
SCHEMA = "unlearn-verify/training-log/1"

OPEN_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {"epochs": 5.0, "batch_size": 8, "scheduler": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0}
)
"""Meaning of options that a log gives as null; for the learning rate see `resolved`."""
FULL_LEARNING_RATE, LORA_LEARNING_RATE = 1e-5, 1e-4

BFLOAT16_COPIES, FLOAT32_SUMS = "bfloat16 copies", "bfloat16 copies, float32 sums"
"""Arithmetics of a run whose steps computed on bfloat16 copies of its weights (`verify.training.arithmetic`)."""
GPU = "gpu"
"""Entry of `TrainingLog.execution` with the name of the GPU; a run on a processor has none."""

MOST_THREADS = 1024
"""Largest number of threads that a log may name: whoever executes it again starts as many."""

_RECORD_HASH = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Microbatch:
    """One microbatch of a training.

    Attributes:
        number: counted from 0 over the whole run.
        step: the optimizer step it belongs to, counted from 1.
        records: indices into the header's records, in order.
        seed: random seed (dropout) of its forward pass.
        learning_rate: the value used by its step.
    """

    number: int
    step: int
    records: tuple[int, ...]
    seed: int
    learning_rate: float


@dataclass(frozen=True)
class Boundary:
    """The state of a run at a checkpoint, or at its end.

    Attributes:
        step: optimizer steps done.
        weights, optimizer: digests of the state (`verify.training.state`); None in logs that do not state them. At the end of a
            run only `weights` is given, the digest of the whole model as saved.
        threads: threads that computed the steps before it; None where unknown.
    """

    step: int
    weights: str | None
    optimizer: str | None
    threads: int | None


@dataclass(frozen=True)
class Stretch:
    """Successive steps of a run that were computed with one software on one device.

    Attributes:
        after: optimizer steps done before them.
        execution: software and device, by name; empty where unknown.
    """

    after: int
    execution: Mapping[str, str]


@dataclass(frozen=True)
class TrainingLog:
    """Content of a training log.

    Attributes:
        options: the training options by name.
        records: keyed hash of every training record; a record that was split into windows has one entry per window.
        subjects: keyed hash of each record's subject, or None; hashes of several subjects are joined by commas.
        start_weights: digest of the weights that training started from.
        tokenizer: digest of the tokenizer.
        microbatches: in order.
        checkpoints: (optimizer step, folder name).
        final_weights: digest of the trained weights, or None where the run did not finish.
        defense: the defence used in training, whose steps are not in the log; None where there was none.
        master_weights: "float32" where weights stored in half precision were trained in float32; None where they were float32
            anyway, and in logs that predate such copies.
        arithmetic: "bfloat16 copies" where the steps computed on bfloat16 copies of their weights, with ", float32 sums" where the
            hidden states between layers were in float32; None where all was in float32, under autocast, or in a version that knew
            nothing else.
        key_check: check value of the record key of the hashes; None in logs of versions that did not write it.
        execution: software and device of the first steps, by name; empty in logs of versions that did not write it.
        resumed: the later steps that were computed with other software or on another device; empty in logs of versions that did not
            write it, whose `execution` is that of the last time the run was resumed.
        boundaries: the states at its checkpoints, whether or not these were kept, and at its end.
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
    arithmetic: str | None = None
    key_check: str | None = None
    execution: Mapping[str, str] = field(default_factory=dict)
    boundaries: tuple[Boundary, ...] = ()
    resumed: tuple[Stretch, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> "TrainingLog":
        """Read and check a log.

        In a run that did not finish, a truncated last line (a kill) is skipped; any other damage is an error.

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
        arithmetic = header.get("arithmetic")
        if arithmetic not in (None, BFLOAT16_COPIES, FLOAT32_SUMS):
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
            arithmetic=arithmetic,
            key_check=None if header.get("key") is None else str(header["key"]),
            execution=_execution(header),
            boundaries=tuple(_boundaries(entries)),
            resumed=tuple(_resumed(entries)),
        )

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """All steps, divided by the software and device that computed them."""
        return (Stretch(0, self.execution), *self.resumed)

    @property
    def finished(self) -> bool:
        """Whether the run finished."""
        return self.final_weights is not None

    @property
    def names(self) -> frozenset[str]:
        """Keyed hashes of all records that were trained on, without duplicates."""
        return frozenset(self.records)

    @property
    def seed(self) -> Any:
        """Seed of data order and dropout."""
        return self.options.get("seed")


def _boundaries(entries: Sequence[dict[str, Any]]) -> Iterator[Boundary]:
    """Yield the states at the checkpoints and at the end."""
    for entry in entries:
        threads = None if entry.get("threads") is None else int(entry["threads"])
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise ValueError
        if "checkpoint" in entry:
            weights, optimizer = entry.get("weights"), entry.get("optimizer")
            if int(entry["checkpoint"]) < 0 or not all(one is None or _DIGEST.fullmatch(str(one)) for one in (weights, optimizer)):
                raise ValueError
            yield Boundary(int(entry["checkpoint"]), weights, optimizer, threads)
        elif "final_weights" in entry:
            last = max((int(other["step"]) for other in entries if "microbatch" in other), default=0)
            yield Boundary(last, str(entry["final_weights"]), None, threads)


def _execution(entry: Mapping[str, Any]) -> dict[str, str]:
    """Read software and device."""
    return {str(name): str(value) for name, value in dict(entry.get("execution") or {}).items()}


def _resumed(entries: Sequence[dict[str, Any]]) -> Iterator[Stretch]:
    """Yield where the software or device changed; each entry must stand behind the last step before the change."""
    done = before = 0
    for entry in entries:
        if "microbatch" in entry:
            done = int(entry["step"])
        elif "resumed" in entry:
            if not before < int(entry["resumed"]) == done:
                raise ValueError
            before = done
            yield Stretch(done, _execution(entry))


def resolved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training options of a log with defaults filled in as the trainer does."""
    filled = {name: OPEN_OPTIONS.get(name) if value is None else value for name, value in options.items()}
    if not filled.get("learning_rate"):
        filled["learning_rate"] = LORA_LEARNING_RATE if filled.get("lora") else FULL_LEARNING_RATE
    return filled


def _require_hashes(header: Mapping[str, Any]) -> None:
    """Raise ValueError unless records and subjects are keyed hashes, one of each for every window, and digests are digests."""
    records, subjects = header["records"], header["subjects"]
    if not isinstance(records, list) or not isinstance(subjects, list) or len(records) != len(subjects):
        raise ValueError
    # A record about several people lists all of them, joined by commas.
    named = [*records, *(name for subject in subjects if subject is not None for name in str(subject).split(","))]
    if not all(isinstance(name, str) and _RECORD_HASH.fullmatch(name) for name in named):
        raise ValueError
    if not all(_DIGEST.fullmatch(str(header[name])) for name in ("start_weights", "tokenizer")):
        raise ValueError

"""The training log: which record touched which step, so that a deletion can be exact later.

One JSON object a line. The first is the header: the run's settings and, for every training record, its keyed hash. Then one line
per microbatch (which records in which order, the seed of its random numbers, the learning rate that its step used), and one per
checkpoint. The last line names the final weights. Nothing in it says who or what a record is without the key.
"""

import json
import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from unlearn.options import TrainingOptions
from verify.errors import InputError
from verify.identity import RecordKey
from verify.records import Record
from verify.strict_json import parse_json

LOG_NAME = "training_log.jsonl"
SCHEMA = "unlearn-verify/training-log/1"


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

    @classmethod
    def read(cls, path: str | Path) -> "TrainingLog":
        """Read a log.

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
        )


def filtered_lines(log: "TrainingLog", removed: Set[int]) -> list[dict[str, Any]]:
    """Header and microbatches of a log without some of its records, as if they had never been there; the rest renumbered."""
    kept = [index for index in range(len(log.records)) if index not in removed]
    number = {index: place for place, index in enumerate(kept)}
    header = {
        "schema": SCHEMA,
        "options": log.options,
        "records": [log.records[index] for index in kept],
        "subjects": [log.subjects[index] for index in kept],
        "tokenizer": log.tokenizer,
        "start_weights": log.start_weights,
    }
    return [
        header,
        *(
            {
                "microbatch": entry.number,
                "step": entry.step,
                "records": [number[index] for index in entry.records if index in number],
                "seed": entry.seed,
                "rate": entry.learning_rate,
            }
            for entry in log.microbatches
        ),
    ]


def require_in_log(records: Sequence[Record], log: TrainingLog, key: RecordKey) -> None:
    """Raise InputError unless every record is among those that the log says were trained on."""
    known = set(log.records)
    missing = [number for number, record in enumerate(records, 1) if key.of(record.fingerprint) not in known]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{len(missing)} of {len(records)} forget records (rows {shown}) are not in the model's training log, so the model was "
            "not trained on them under this key. Remove them, correct the field names, or restore the key file "
            f"({RecordKey.default_path()})."
        )


class LogWriter:
    """Writes a training log as training goes on; a resumed run cuts it back to its checkpoint first."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.pending: list[dict[str, Any]] = []
        self.stream: IO[bytes] | None = None

    @classmethod
    def for_run(
        cls,
        path: Path,
        records: Iterable[Record],
        options: TrainingOptions,
        key: RecordKey,
        *,
        tokenizer: str,
        start_weights: str,
        defense: str | None = None,
    ) -> "LogWriter":
        """A writer whose header describes a run; `records` has one entry per training window."""
        listed = list(records)
        header = {
            "schema": SCHEMA,
            "options": asdict(options),
            "records": [key.of(record.fingerprint) for record in listed],
            "subjects": [",".join(key.of(subject, "subject") for subject in record.subjects) or None for record in listed],
            "tokenizer": tokenizer,
            "start_weights": start_weights,
            **({} if defense is None else {"defense": defense}),
        }
        return cls(path, header)

    def begin(self, microbatches: int) -> None:
        """Open the log, keeping what belongs to the first `microbatches` microbatches."""
        kept = [json.dumps(self.header)]
        if microbatches:
            for line in self.path.read_text(encoding="utf-8").splitlines()[1:]:
                try:
                    entry = parse_json(line)
                except ValueError:
                    break
                if entry.get("microbatch", -1) >= microbatches:
                    break
                kept.append(line)
        self.stream = self.path.open("wb")
        self.stream.write(("\n".join(kept) + "\n").encode())
        self._flush(sync=True)

    def microbatch(self, number: int, step: int, records: list[int], seed: int, rate: float) -> None:
        """Note a microbatch; it is written when its optimizer step is taken."""
        self.pending.append({"microbatch": number, "step": step, "records": records, "seed": seed, "rate": rate})

    def step(self) -> None:
        """Write the microbatches of the step that is now taken."""
        for entry in self.pending:
            self._write(entry)
        self.pending.clear()
        self._flush(sync=False)

    def checkpoint(self, step: int, folder: str, microbatch: int) -> None:
        """Note a checkpoint, and make sure that everything before it is on the disk."""
        self._write({"checkpoint": step, "folder": folder, "before": microbatch})
        self._flush(sync=True)

    def end(self, weights: str) -> None:
        """Close the log with the digest of the final weights."""
        self._write({"final_weights": weights})
        self._flush(sync=True)
        assert self.stream is not None
        self.stream.close()

    def _write(self, entry: dict[str, Any]) -> None:
        assert self.stream is not None, "begin() comes first"
        self.stream.write((json.dumps(entry, allow_nan=False) + "\n").encode())

    def _flush(self, sync: bool) -> None:
        assert self.stream is not None
        self.stream.flush()
        if sync:
            os.fsync(self.stream.fileno())

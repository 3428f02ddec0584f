"""Writer of the training log: which records went into which step, so that a later deletion can be exact.

Format and reader are in `verify.provenance.training_log`: an auditor reads a log without this package.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unlearn.training.options import TrainingOptions
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.io.files import write_text
from verify.io.strict_json import parse_json
from verify.provenance.training_log import LOG_NAME, SCHEMA, Boundary, Microbatch, Stretch, TrainingLog

if TYPE_CHECKING:
    import torch

    from verify.training.state import StateDigest

__all__ = ["LOG_NAME", "SCHEMA", "LogWriter", "Microbatch", "TrainingLog", "filtered_lines", "require_in_log", "write_log"]


def filtered_lines(log: "TrainingLog", removed: Set[int], execution: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return header and microbatches of a log as if some of its records had never been there, the others renumbered.

    Args:
        log: the log.
        removed: indices of the records.
        execution: software and device of the first steps; empty where unknown.
    """
    kept = [index for index in range(len(log.records)) if index not in removed]
    number = {old: new for new, old in enumerate(kept)}
    header = {
        "schema": SCHEMA,
        "options": log.options,
        "records": [log.records[index] for index in kept],
        "subjects": [log.subjects[index] for index in kept],
        "tokenizer": log.tokenizer,
        "start_weights": log.start_weights,
        **({} if log.key_check is None else {"key": log.key_check}),
        **({} if log.master_weights is None else {"master_weights": log.master_weights}),
        **({} if log.arithmetic is None else {"arithmetic": log.arithmetic}),
        **({"execution": dict(execution)} if execution else {}),
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
    """Raise InputError unless the log lists every record as trained on."""
    known = set(log.records)
    missing = [number for number, record in enumerate(records, 1) if key.of(record.fingerprint) not in known]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{len(missing)} of {len(records)} forget records (rows {shown}) are not in the model's training log, so the model was "
            "not trained on them under this key. Remove them, correct the field names, or restore the key file "
            f"({RecordKey.default_path()})."
        )


def checkpoint_line(step: int, folder: str, microbatch: int, state: "StateDigest | None") -> dict[str, Any]:
    """Return the log entry of a checkpoint."""
    import torch  # here, so that readers of logs start without it

    digests = {} if state is None else {"weights": state.weights, "optimizer": state.optimizer}
    return {"checkpoint": step, "folder": folder, "before": microbatch, **digests, "threads": torch.get_num_threads()}


def final_line(weights: str) -> dict[str, Any]:
    """Return the log's last entry."""
    import torch

    return {"final_weights": weights, "threads": torch.get_num_threads()}


def resumed_line(stretch: Stretch) -> dict[str, Any]:
    """Return the log entry after which the steps were computed with other software or on another device."""
    return {"resumed": stretch.after, "execution": dict(stretch.execution)}


def write_log(
    lines: Sequence[Mapping[str, Any]],
    checkpoints: Sequence[tuple[int, str]],
    final_weights: str,
    path: Path,
    states: Mapping[int, Boundary],
    resumed: Sequence[Stretch] = (),
) -> None:
    """Write a log: header and microbatches, each checkpoint after its last microbatch, the final weights.

    Args:
        lines: header and microbatches, as from `filtered_lines`.
        checkpoints: (optimizer step, folder name).
        final_weights: digest of the trained weights.
        path: the log to write.
        states: digests of the state at the steps of the checkpoints.
        resumed: the later steps, in order, that were computed with other software or on another device than the header says.
    """

    def line(step: int, folder: str, before: int) -> dict[str, Any]:
        state = states.get(step)
        if state is None:
            return {"checkpoint": step, "folder": folder, "before": before}
        threads = {} if state.threads is None else {"threads": state.threads}
        return {
            "checkpoint": step,
            "folder": folder,
            "before": before,
            "weights": state.weights,
            "optimizer": state.optimizer,
            **threads,
        }

    written, left, changes = [dict(lines[0])], sorted(checkpoints), list(resumed)
    for entry in lines[1:]:
        while left and int(entry["step"]) > left[0][0]:
            written.append(line(*left.pop(0), entry["microbatch"]))
        while changes and int(entry["step"]) > changes[0].after:
            written.append(resumed_line(changes.pop(0)))
        written.append(dict(entry))
    written += [line(step, folder, len(lines) - 1) for step, folder in left]
    written.append(final_line(final_weights))
    path.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in written), encoding="utf-8")


class LogWriter:
    """Writes a training log during training; a resumed run first truncates it to its checkpoint."""

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
        master_weights: str | None = None,
        arithmetic: str | None = None,
        device: "torch.device",
    ) -> "LogWriter":
        """Create a writer whose header describes a run on a device; `records` has one entry per training window."""
        from verify.training.software import software  # here, so that readers of logs start without torch

        listed = list(records)
        header = {
            "schema": SCHEMA,
            "options": asdict(options),
            "records": [key.of(record.fingerprint) for record in listed],
            "subjects": [",".join(key.of(subject, "subject") for subject in record.subjects) or None for record in listed],
            "tokenizer": tokenizer,
            "start_weights": start_weights,
            "key": key.check,
            **({} if defense is None else {"defense": defense}),
            **({} if master_weights is None else {"master_weights": master_weights}),
            **({} if arithmetic is None else {"arithmetic": arithmetic}),
            "execution": software(device),
        }
        return cls(path, header)

    def begin(self, microbatches: int) -> None:
        """Open the log, keeping the entries of the first `microbatches` microbatches, and what they were computed with."""
        kept = self._resumed(microbatches) if microbatches else [json.dumps(self.header)]
        write_text(self.path, "\n".join(kept) + "\n")  # at once: a kill here would leave the checkpoints without their log
        self.stream = self.path.open("ab")

    def _resumed(self, microbatches: int) -> list[str]:
        """Return the lines of a resumed run: the header says what computed the first steps, and further entries the later ones."""
        first, *lines = self.path.read_text(encoding="utf-8").splitlines()
        made = made_first = parse_json(first).get("execution") or {}
        kept, change, done = list[str](), "", 0
        for line in lines:
            try:
                entry = parse_json(line)
            except ValueError:
                break  # a line cut short when the run was killed
            if entry.get("microbatch", -1) >= microbatches:
                break
            if "resumed" in entry:
                change = line  # counts once a step that it computed is kept
                continue
            if "microbatch" in entry:
                made = parse_json(change)["execution"] if change else made
                kept += [change] if change else []
                change, done = "", entry["step"]
            kept.append(line)
        if made != (now := self.header["execution"]):
            kept.append(json.dumps(resumed_line(Stretch(done, now))))
        header = {name: value for name, value in self.header.items() if name != "execution"}
        return [json.dumps(header | ({"execution": made_first} if made_first else {})), *kept]

    def microbatch(self, number: int, step: int, records: list[int], seed: int, rate: float) -> None:
        """Buffer the entry of a microbatch; it is written when its optimizer step is taken."""
        self.pending.append({"microbatch": number, "step": step, "records": records, "seed": seed, "rate": rate})

    def step(self) -> None:
        """Write the buffered microbatches, whose optimizer step is now taken."""
        for entry in self.pending:
            self._write(entry)
        self.pending.clear()
        self._flush(sync=False)

    def checkpoint(self, step: int, folder: str, microbatch: int, state: "StateDigest | None") -> None:
        """Write the entry of a checkpoint, and sync the log to disk up to here.

        Args:
            step: optimizer steps done.
            folder: the checkpoint's name.
            microbatch: number of the next microbatch.
            state: digests of its state; None where it is sharded over processes.
        """
        self._write(checkpoint_line(step, folder, microbatch, state))
        self._flush(sync=True)

    def end(self, weights: str) -> None:
        """Close the log with the digest of the final weights."""
        self._write(final_line(weights))
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

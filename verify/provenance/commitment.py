"""Commitment to a training: one digest over its whole log, fixed before anybody asks for a deletion.

Every line of the log extends a hash chain,

    c_0 = SHA-256(CONTEXT),    c_i = SHA-256(c_(i-1) || SHA-256(line i)),

so that its last value, the root, fixes header, schedule, states and final weights, and their order. A schedule that never names a
record can be invented afterwards (forging: Thudi et al. 2022, arXiv 2110.11891), so a re-execution is worth what the age of the
root is worth: it is written into the model's manifest, and whoever received it, by `verify-unlearning commit`, knows
that it was not changed since.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from verify.errors import InputError
from verify.io.documents import Document, Frozen
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.schema.parts import Digest

CONTEXT = b"unlearn-verify/training-commitment/1"


def chain_root(lines: Iterable[bytes]) -> str:
    """Compute the last value of the hash chain over a log's lines, in hexadecimal."""
    value = hashlib.sha256(CONTEXT).digest()
    for line in lines:
        value = hashlib.sha256(value + hashlib.sha256(line).digest()).digest()
    return value.hex()


def log_root(path: str | Path) -> str:
    """Compute the root of a training log.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return chain_root(Path(path).read_bytes().splitlines())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give the folder that `unlearn train` wrote.") from None


class CommittedLog(Frozen):
    """One training log of a model.

    Attributes:
        place: its folder below the model's; "." for the model's own, "shard-0/slice-1" for a stage of a sharded training.
        root: last value of its hash chain.
        start_weights, final_weights: digests of the weights before and after.
        tokenizer: digest of the tokenizer, with its chat template.
        steps, records, states: optimizer steps, training windows, and states whose digests it holds.
    """

    place: str
    root: Digest
    start_weights: Digest
    final_weights: Digest
    tokenizer: Digest
    steps: int = Field(ge=0)
    records: int = Field(ge=0)
    states: int = Field(ge=0)


class TrainingCommitment(Document):
    """Commitment to a finished training.

    Attributes:
        created: time by the writer's clock. Proof is the digest that was sent to somebody else.
        logs: the model's training logs, in order of their places.
    """

    called: ClassVar[str] = "commitment to a training of this version (unlearn-verify/training-commitment/1)"
    remedy: ClassVar[str] = "Give the file that `verify-unlearning commit` wrote."

    schema_: Literal["unlearn-verify/training-commitment/1"] = Field(default="unlearn-verify/training-commitment/1", alias="schema")
    created: str
    logs: tuple[CommittedLog, ...] = Field(min_length=1)

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """Commit to the training of a model as of now.

        Raises:
            InputError: the folder holds no training log, or one of a run that did not finish.
        """
        return cls(created=datetime.now(UTC).isoformat(timespec="seconds"), logs=committed_logs(folder))

    @property
    def root(self) -> str:
        """One digest of all logs: the root itself of a single one."""
        return joint_root(self.logs)

    def is_past(self, now: datetime) -> bool:
        """Return whether the commitment has a date with a time zone that is not after `now`."""
        try:
            return datetime.fromisoformat(self.created) <= now
        except (TypeError, ValueError):
            return False

    def require(self, folder: str | Path) -> None:
        """Check that a folder holds exactly the committed logs.

        Raises:
            InputError: a log is missing, added or changed; the message names it.
        """
        found = {entry.place: entry for entry in committed_logs(folder)}
        for entry in self.logs:
            there = found.pop(entry.place, None)
            if there is None:
                raise InputError(f"{folder} lacks the committed training log of {entry.place}. Restore the folder.")
            if there != entry:
                raise InputError(
                    f"the training log of {entry.place} in {folder} is not the committed one: its root is {there.root[:16]}, "
                    f"committed was {entry.root[:16]}. Restore the log; a changed log proves nothing."
                )
        if found:
            raise InputError(
                f"{folder} holds training logs that were not committed: {', '.join(sorted(found))}. Restore the folder."
            )


def committed_logs(folder: str | Path) -> tuple[CommittedLog, ...]:
    """Describe every training log of a model's folder.

    Raises:
        InputError: there is none, or one of a run that did not finish.
    """
    top = Path(folder)
    paths = [top / LOG_NAME] if (top / LOG_NAME).is_file() else sorted(top.glob(f"shard-*/slice-*/{LOG_NAME}"))
    if not paths:
        raise InputError(
            f"{folder} holds no training log, so there is nothing to commit to. Give the folder that `unlearn train` wrote; models "
            "in shards of version 0.1.0 have none: train them again."
        )
    entries = []
    for path in paths:
        log = TrainingLog.read(path)
        if log.final_weights is None:
            raise InputError(f"{path} is the log of a run that did not finish. Run the same `unlearn train` again to finish it.")
        entries.append(
            CommittedLog(
                place=path.parent.relative_to(top).as_posix(),
                root=log_root(path),
                start_weights=log.start_weights,
                final_weights=log.final_weights,
                tokenizer=log.tokenizer,
                steps=max((entry.step for entry in log.microbatches), default=0),
                records=len(log.records),
                states=sum(one.optimizer is not None for one in log.boundaries),
            )
        )
    return tuple(entries)


def commitment_root(folder: str | Path) -> str | None:
    """Return the root over a model's finished training logs, or None where it has none."""
    try:
        return joint_root(committed_logs(folder))
    except InputError:
        return None


def joint_root(logs: Iterable[CommittedLog]) -> str:
    """Return the root of a single log, or a digest over places and roots of several."""
    listed = list(logs)
    if len(listed) == 1:
        return listed[0].root
    return chain_root(f"{entry.place} {entry.root}".encode() for entry in listed)

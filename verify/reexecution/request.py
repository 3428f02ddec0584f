"""What a re-execution is given, and the plan that follows from it: the same in every process that executes a part of it."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from verify.data.identity import RecordKey
from verify.data.records import Fields, RecordSource
from verify.data.sources import load_forget_set, load_records
from verify.errors import InputError
from verify.models.loading import LoadedModel, load_model
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.shard_plan import SHARDS
from verify.provenance.training_log import GPU, LOG_NAME, TrainingLog
from verify.reexecution.plans import Plan, Trust, plan_log
from verify.reexecution.records import Shown
from verify.reexecution.shard_plans import plan_shards


@dataclass(frozen=True, repr=False)
class Request:
    """What a re-execution is given.

    Attributes:
        model: folder of the deleted model.
        base: folder or Hub name of the model that training started from.
        data, forget_set: all training records, and the forget records.
        log: folder of the committed log; None for a training of its own.
        commitment: file of the commitment, or None.
        trust: what the commitment stands for.
        fields, tokenizer, dtype: how records are read, and the base is loaded.
        tolerance: whether a state with other bits than the recorded one is measured, instead of refused.
    """

    model: Path
    base: str | Path
    data: RecordSource
    forget_set: RecordSource
    log: Path | None
    commitment: Path | None
    trust: Trust
    fields: Fields | None
    tokenizer: Any
    dtype: str
    tolerance: bool = False

    def shown(self, key: RecordKey) -> Shown:
        """Read the records.

        Raises:
            InputError: they cannot be read.
        """
        training = load_records(self.data, self.fields)
        gone = load_forget_set(self.forget_set, training, self.fields)
        names = {key.of(record.fingerprint) for record in gone}
        return Shown([record for record in training if key.of(record.fingerprint) not in names], gone, key)

    def load_base(self) -> LoadedModel:
        """Load the model that training started from."""
        return load_model(self.base, tokenizer=self.tokenizer, dtype=self.dtype, device=self.device)

    @cached_property
    def device(self) -> str | None:
        """The device that its logs end on: "cpu", or None for a GPU, where there is one.

        Read once: every run of segments loads the base, and a log can be long.
        """
        logs = [self.model / LOG_NAME, *self.model.glob(f"shard-*/slice-*/{LOG_NAME}")]
        # What a rollback computed itself is at the end; before it are steps of the training, perhaps of another machine.
        on_gpu = any(GPU in TrainingLog.read(log).stretches[-1].execution for log in logs if log.is_file())
        return None if on_gpu else "cpu"

    def committed(self) -> TrainingCommitment | None:
        """Read the commitment."""
        return None if self.commitment is None else TrainingCommitment.load(self.commitment)

    def plan(self, shown: Shown, base: LoadedModel) -> Plan:
        """Derive what is to be executed.

        Args:
            shown: the records.
            base: as loaded; an adapter is attached to it, so that it is of no further use.
        """
        planned = plan_shards if (self.model / SHARDS).is_file() else plan_log
        plan = planned(self.model, self.log, base, shown, self.committed(), lambda: self.load_base().model, self.trust)
        return replace(plan, courses=tuple(replace(course, tolerance=self.tolerance) for course in plan.courses))

    def absolute(self) -> "Request":
        """Return the same with absolute paths, as a cluster's workers have working folders of their own; a Hub name stays."""
        changed: dict[str, Any] = {}
        for name in ("model", "base", "data", "forget_set", "log", "commitment", "tokenizer"):
            value = getattr(self, name)
            if isinstance(value, str | Path) and Path(value).exists():
                changed[name] = type(value)(Path(value).absolute())
        return replace(self, **changed)

    def require_files(self) -> None:
        """Check that another process can read everything itself, since no record is sent to it.

        Raises:
            InputError: records or tokenizer are in memory.
        """
        for name, value in (("data", self.data), ("forget_set", self.forget_set), ("tokenizer", self.tokenizer or "")):
            if not isinstance(value, str | Path):
                raise InputError(f"{name} is in memory, and workers read files only. Name a file, or leave out workers and engine.")

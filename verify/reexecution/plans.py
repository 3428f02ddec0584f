"""Plan of a re-execution, and that of a model with one training log."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from verify.data.encoding import Encoded, Encoder
from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.provenance.commitment import TrainingCommitment, committed_logs, joint_root
from verify.provenance.training_log import LOG_NAME, TrainingLog, resolved
from verify.reexecution.course import Course
from verify.reexecution.records import Shown
from verify.reexecution.schedules import derived_findings, first_step_of, own_findings, segments_with
from verify.reexecution.served import about_adapter
from verify.schema.reexecution import Finding, Kind
from verify.training.adapters import attach_adapter
from verify.training.replay import windows_of_log


@dataclass(frozen=True)
class Trust:
    """What a commitment stands for.

    Attributes:
        from_base: whether what was committed before the first forget record is executed too, and not taken as committed.
        requested: time of the request for the deletion, which the commitment must be older than; None where unknown.
    """

    from_base: bool = False
    requested: datetime | None = None

    def covers(self, commitment: TrainingCommitment | None) -> bool:
        """Return whether states may be taken as committed: only if the commitment is known to be older than the request."""
        if commitment is None or self.requested is None or self.from_base:
            return False
        return commitment.is_past(self.requested)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be executed, and what was found wrong before anything was.

    Attributes:
        kind: as `Reexecution.kind`.
        courses: the logs to execute.
        used: keyed hashes of all training records of the deleted model.
        root: root of the commitment, or of the log before the deletion; None without either.
        final: digest that the weights must have; None for shards that are served as adapters, which are compared one by one.
        unchanged: states or stages that the deletion left as they were.
        forget_segments: segments of the committed training that held a forget record; for a training of its own, its passes.
        training_tokens: tokens of a whole training on the records that stay.
        findings: what contradicts the claim.
        skip: steps of the only course that need not be executed, as their states were committed before the request. Without a
            commitment that is known to be older, or where it is not trusted that far, everything is executed from the base on.
    """

    kind: Kind
    courses: tuple[Course, ...]
    used: frozenset[str]
    root: str | None
    final: str | None
    unchanged: int
    forget_segments: int | None
    training_tokens: int
    findings: tuple[Finding, ...]
    skip: int = 0

    def segments(self) -> list[tuple[Course, int, int]]:
        """Return the segments that the deletion executed, with their logs."""
        return [(course, start, end) for course in self.courses for start, end in course.segments() if end > self.skip]


def plan_log(
    model: Path,
    before: Path | None,
    base: LoadedModel,
    shown: Shown,
    commitment: TrainingCommitment | None,
    fresh: Callable[[], Any],
    trust: Trust,
) -> Plan:
    """Plan the execution of a model's own log.

    Args:
        model: folder of the deleted model.
        before: folder of the committed log; None for a training of its own.
        base: the model that the log must start from.
        shown: the records.
        commitment: made before the request, or None.
        fresh: loads the base again, for every run of segments.
        trust: what the commitment stands for.
    """
    log = _finished(model)
    committed = None if before is None else _finished(before)
    names, findings = shown.forget_names, [*about_start(log, base)]
    root = None if before is None else joint_root(committed_logs(before))
    if commitment is not None:
        findings += about_commitment(commitment, root, trust.requested)
    windows = encoded_windows(log, shown, base)
    if committed is not None:
        findings += derived_findings(committed, log, names)
    elif windows is not None:
        findings += own_findings(log, [len(windows[index].input_ids) for index in range(len(log.records))])
    options = SimpleNamespace(**log.options)
    findings += about_adapter(attach_adapter(base.model, options), model, "the model")
    # Before the first forget record the deletion changed nothing: these states are committed, and are where it started from.
    first = None if committed is None else first_step_of(committed, names)
    clean = [one.step for one in log.boundaries if one.optimizer is not None and first is not None and one.step < first]
    earlier = None if before is None else (before, max(clean, default=0))
    as_committed = trust.covers(commitment)
    course = Course(
        place=".",
        log=log,
        windows=windows or {},
        start_model=lambda: attach_adapter(fresh(), options),
        tokenizer=base.tokenizer,
        folder=model,
        clean=earlier,
        served=model,
        forget=() if windows is None else forget_windows(log, shown, base),
        stood=() if committed is None or windows is None else _places_before(committed, shown, base),
    )
    return Plan(
        kind="own schedule" if committed is None else "derived schedule",
        courses=(course,) if windows is not None else (),
        used=log.names,
        root=root,
        final=log.final_weights,
        unchanged=len(clean) if as_committed else 0,
        forget_segments=_passes(log) if committed is None else segments_with(committed, names),
        training_tokens=0 if windows is None else course.tokens(0, course.segments()[-1][1]),
        findings=tuple(findings),
        skip=max(clean, default=0) if as_committed else 0,
    )


def _places_before(committed: TrainingLog, shown: Shown, base: LoadedModel) -> tuple[tuple[int, Encoded], ...]:
    """Return the microbatches of the committed log in which a forget record stood, in order, with its window."""
    kept = frozenset(index for index, name in enumerate(committed.records) if name not in shown.forget_names)
    windows = windows_of_log(committed, shown.forget, base, shown.key, kept)
    return tuple((entry.number, windows[index]) for entry in committed.microbatches for index in entry.records if index in windows)


def forget_windows(log: TrainingLog, shown: Shown, base: LoadedModel) -> tuple[Encoded, ...]:
    """Encode the forget records as a log's training would have."""
    encoder = Encoder(base.tokenizer, base.context_length, log.options.get("overflow", "refuse"))
    return tuple(encoder.encode(shown.forget))


def _passes(log: TrainingLog) -> int:
    """Return in how many segments of a training a record stands: at most one a pass."""
    return max(1, math.ceil(float(resolved(log.options)["epochs"])))


def _finished(folder: Path) -> TrainingLog:
    """Read the log of a finished training.

    Raises:
        InputError: the folder has no log, or the run did not finish.
    """
    if not (folder / LOG_NAME).is_file():
        raise InputError(
            f"{folder} has no {LOG_NAME}, so what was computed is not on record. Give the folder that `unlearn train` or `unlearn "
            "forget` wrote; an approximate method leaves nothing that could be executed again: audit its result instead."
        )
    log = TrainingLog.read(folder / LOG_NAME)
    if not log.finished:
        raise InputError(f"the training log in {folder} has no end: the run did not finish. Finish it first.")
    if log.defense is not None or not log.microbatches:
        raise InputError(f"the training in {folder} ({log.defense or 'without steps'}) has no logged steps to execute.")
    return log


def about_start(log: TrainingLog, base: LoadedModel) -> Iterator[Finding]:
    """Check that a log starts from the base that was given, with its tokenizer."""
    if log.start_weights != base.digest:
        yield Finding(kind="base", what=f"The training did not start from this base: its log names {log.start_weights[:16]}.")
    if log.tokenizer != base.tokenizer_digest:
        yield Finding(kind="tokenizer", what="The training used another tokenizer or chat template than the base's.")


def about_commitment(commitment: TrainingCommitment, root: str | None, requested: datetime | None) -> Iterator[Finding]:
    """Check that the log before the deletion is the committed one, and that it was committed to before the request."""
    if root is None:
        yield Finding(
            kind="commitment", what="A commitment was given, but not the committed log that it stands for. Give it with --log DIR."
        )
    elif commitment.root != root:
        yield Finding(kind="commitment", what=f"The log before the deletion has the root {root[:16]}, not {commitment.root[:16]}.")
    if not commitment.is_past(datetime.now(UTC)):
        yield Finding(kind="commitment", what="The commitment bears no date, or one that has not come yet.")
    elif requested is not None and not commitment.is_past(requested):
        yield Finding(
            kind="commitment", what=f"The commitment of {commitment.created} is not older than the request ({requested})."
        )


def encoded_windows(log: TrainingLog, shown: Shown, base: LoadedModel) -> dict[int, Encoded] | None:
    """Encode every record of a log; None where one was not shown, which is a finding of its own."""
    known = {shown.key.of(record.fingerprint) for record in (*shown.training, *shown.forget)}
    if not log.names <= known:
        return None
    return windows_of_log(log, [*shown.training, *shown.forget], base, shown.key, frozenset())

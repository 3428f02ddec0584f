"""Re-execution of an exact deletion: derive what the deletion must have done, do it again, and compare bit for bit.

    log of the deletion == committed log without the forget records     (or: the schedule that options and seed give)
    every record of it was shown, none is a forget record or nearly one
    every executed segment: replay(state k) == state k + 1;   last state == the deleted model's weights

No references and no statistics are needed, so that one record can be judged as well as a thousand. What the claim rests on, and
what it leaves out, is in docs/research/reexecution.md.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from verify.data.identity import RecordKey, set_digest
from verify.data.reading import fields_for
from verify.data.records import Fields, RecordSource
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.memory import is_adapter_folder, require_memory_for_training
from verify.provenance.commitment import committed_logs, joint_root
from verify.provenance.shard_plan import SHARDS
from verify.reexecution.derivation import Derivation, derive
from verify.reexecution.draw import draw_segments
from verify.reexecution.environment import environment_on
from verify.reexecution.execution import Executor, RunAll
from verify.reexecution.plans import Plan, Trust
from verify.reexecution.request import Request
from verify.reexecution.workers import one_by_one, side_by_side
from verify.schema.reexecution import Draw, Finding, Reexecution, Segment, tolerated_by, word_of

Progress = Callable[[str, float], None]
"""Progress callback `(message, fraction_done)`."""


@checked
def reexecute(
    model: str | Path,
    base: str | Path,
    *,
    data: RecordSource,
    forget_set: RecordSource,
    log: str | Path | None = None,
    commitment: str | Path | None = None,
    segments: int | Literal["all"] | None = None,
    nonce: str | None = None,
    from_base: bool = False,
    requested: str | None = None,
    accept_near_duplicates: bool = False,
    tolerance: bool = False,
    fields: Fields | None = None,
    tokenizer: Any = None,
    dtype: str = "auto",
    workers: int = 1,
    engine: str | None = None,
    work_dir: str | Path | None = None,
    output: str | Path | None = None,
    progress: Progress = lambda _, __: None,
) -> Reexecution:
    """Execute the training behind an exact deletion again, and compare every state with the recorded one.

    Args:
        model: folder of the deleted model, with its training log (or its shards and their logs).
        base: the model that the training started from.
        data: all training records, with or without the forget set.
        forget_set: the forget records, or a list of their ids.
        log: folder of the model before the deletion, or of what is left of it: its committed log, and checkpoints from before
            the forget records. None for a model that was trained afresh on the records that stay.
        commitment: the file that `verify-unlearning commit` wrote before the request.
        segments: how many to execute, or "all"; None executes all where a part of a training was repeated, else as many as find
            one false segment among those that held a forget record with 99 %.
        nonce: random text of the auditor's that chooses the segments; None draws one.
        from_base: execute what was committed before the first forget record, too. Without it these states are taken as committed
            if `requested` is given: whoever wrote the commitment could have trained them on other records than it says.
        requested: time of the request, ISO 8601, that the commitment must be older than. None takes nothing as committed:
            everything is executed from the base on.
        accept_near_duplicates: training records that are nearly a forget record were looked at by a person, and may stay.
        tolerance: on other hardware or software than the training's: measure a state with other bits than the recorded one against
            numerical noise and the effect of one forget record. The outcome is then at best WITHIN_NOISE, and such a segment costs
            eight executions.
        fields, tokenizer: as for `verify.audit`.
        dtype: precision to load the base in, as in training.
        workers: processes on this machine that execute segments side by side, each with a model of its own. More than one, like
            an engine, needs `data` and `forget_set` as files.
        engine: a cluster, "dask://HOST:PORT" or "ray://HOST:PORT", whose workers see the same folders and record key.
        work_dir: folder for progress, from which an interrupted execution resumes; None keeps none.
        output: a new file for the proof, or None.
        progress: called with a message and the fraction that is done.

    Raises:
        InputError: logs, models or records cannot be read.
    """
    if output is not None and Path(output).exists():
        raise InputError(f"{output} exists. Name a new file with --output.")
    _require_counts(workers, segments)
    adapter = is_adapter_folder(model) or (Path(model) / SHARDS).is_file()
    require_memory_for_training(base, adapter=adapter, dtype=dtype)
    began, key = time.monotonic(), RecordKey.load()
    request = Request(
        model=Path(model),
        base=base,
        data=data,
        forget_set=forget_set,
        log=None if log is None else Path(log),
        commitment=None if commitment is None else Path(commitment),
        trust=Trust(from_base, _time(requested)),
        fields=fields_for(fields, (model,), (data, forget_set)),
        tokenizer=tokenizer,
        dtype=dtype,
        tolerance=tolerance,
    )
    run = one_by_one if workers == 1 and engine is None else side_by_side(request, key, workers, engine)
    derived = derive(request, key, accept_near_duplicates, progress)
    draw, chosen = draw_segments(derived.plan, segments, nonce)
    executed, found = ([], []) if derived.findings else _execute(derived, request.model, chosen, run, work_dir, progress)
    proof = _proof(request, derived, draw, executed, (*derived.findings, *found), began, near_accepted=accept_near_duplicates)
    if output is not None:
        proof.save(output)
    return proof


def _require_counts(workers: int, segments: int | Literal["all"] | None) -> None:
    if workers < 1:
        raise InputError(f"workers={workers} cannot execute anything. Give a number from 1 on.")
    if isinstance(segments, int) and segments < 1:
        raise InputError(f"--segments must be 1 or more, or all, got {segments}. Leave it out for as many as find a false one.")


def _time(requested: str | None) -> datetime | None:
    """Read the time of the request; without a time zone it is UTC, and a date alone is its beginning."""
    if requested is None:
        return None
    try:
        found = datetime.fromisoformat(requested)
    except ValueError:
        raise InputError(f"requested={requested!r} is not a date. Write 2026-11-26, or 2026-11-26T10:00:00+00:00.") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@dataclass
class _Bar:
    """Progress by tokens."""

    total: int
    report: Progress
    done: int = field(default=0)

    def __call__(self, tokens: int) -> None:
        self.done += tokens
        self.report("executing", min(1.0, self.done / max(1, self.total)))


def _execute(
    derived: Derivation,
    folder: Path,
    chosen: Sequence[int],
    run: RunAll,
    work_dir: str | Path | None,
    progress: Progress,
) -> tuple[list[Segment], list[Finding]]:
    """Execute the chosen segments; `folder` is the deleted model's."""
    plan = derived.plan
    listed, tolerated = plan.segments(), [course.tolerance for course in plan.courses]
    # With the deletion's own logs: segments that were executed of one do not count for another that ends on the same weights.
    logs = joint_root(committed_logs(folder))
    asked = json.dumps([derived.served.weights, logs, plan.root, plan.final, list(chosen), tolerated])
    executor = Executor(None if work_dir is None else Path(work_dir), hashlib.sha256(asked.encode()).hexdigest())
    wanted = [listed[index] for index in chosen]
    bar = _Bar(sum(course.tokens(start, end) for course, start, end in wanted), progress)
    numbers = {(course.place, end): index for index, (course, _, end) in enumerate(listed)}
    executed = [
        one.model_copy(update={"index": numbers[one.place, one.end]}) for one in executor.run(plan.courses, wanted, run, bar)
    ]
    if not executor.findings:
        executor.close()
    return executed, [*executor.findings, *_about_tolerance(executed, len(listed))]


def _about_tolerance(executed: Sequence[Segment], segments: int) -> list[Finding]:
    """Say that bits differ, and check that less than one forget record in one microbatch can hide in all segments together."""
    apart = sum(not one.equal for one in executed)
    if not apart or not all(one.passes for one in executed):
        return []
    if (hidden := tolerated_by(executed, segments)) >= 1:
        what = f"The tolerance of all segments together could hide {hidden:.2g} microbatches with a forget record."
        return [Finding(kind="tolerance", what=f"{what} Execute it on the same software and kind of processor.")]
    return [Finding(kind="noise", what=f"{apart} of {len(executed)} executed segments end on other bits, within numerical noise.")]


def _proof(
    request: Request,
    derived: Derivation,
    draw: Draw,
    executed: Sequence[Segment],
    findings: tuple[Finding, ...],
    began: float,
    *,
    near_accepted: bool,
) -> Reexecution:
    """Put the proof together; `began` is the start on the monotonic clock, in seconds."""
    plan, shown, commitment, requested = derived.plan, derived.shown, derived.commitment, request.trust.requested
    return Reexecution(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        word=word_of(findings),
        kind=plan.kind,
        model=derived.served.weights,
        base=derived.base,
        tokenizer=derived.tokenizer,
        root=plan.root,
        committed=None if commitment is None else commitment.created,
        requested=None if commitment is None or requested is None else requested.isoformat(),
        forget=len(shown.forget),
        forget_digest=set_digest(shown.forget_names),
        records=len(shown.training),
        near=derived.near,
        near_accepted=near_accepted,
        unchanged=plan.unchanged,
        committed_steps=plan.skip,
        segments=len(plan.segments()),
        executed=tuple(executed),
        draw=draw,
        findings=findings,
        tokens=sum(one.tokens for one in executed),
        training_tokens=plan.training_tokens,
        seconds=time.monotonic() - began,
        environment=environment_on(derived.device) | _threads(plan),
        trained_with=_trained_with(plan) if request.tolerance else {},
    )


def _threads(plan: Plan) -> dict[str, str]:
    """Return the numbers of threads that computed the recorded states, and that executed them again."""
    found = {one.threads for course in plan.courses for one in course.log.boundaries if one.threads is not None}
    return {"threads": ", ".join(map(str, sorted(found)))} if found else {}


def _trained_with(plan: Plan) -> dict[str, str]:
    """Return software and processor of the logged trainings."""
    found: dict[str, set[str]] = {}
    for course in plan.courses:
        for stretch in course.log.stretches:
            for name, value in stretch.execution.items():
                found.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values)) for name, values in sorted(found.items())}

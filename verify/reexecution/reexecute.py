"""Re-execution of an exact deletion: derive what the deletion must have done, do it again, and compare bit for bit.

    log of the deletion == committed log without the forget records     (or: the schedule that options and seed give)
    every record of it was shown, none is a forget record or nearly one
    every executed segment: replay(state k) == state k + 1;   last state == the deleted model's weights

No references and no statistics are needed, so that one record can be judged as well as a thousand. What the claim rests on, and
what it leaves out, is in docs/research/reexecution.md.
"""

import hashlib
import json
import secrets
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
from verify.models.configuration import entries_of
from verify.models.loading import load_model
from verify.models.memory import is_adapter_folder, require_memory_for_training
from verify.provenance.commitment import committed_logs, joint_root
from verify.provenance.segment_sampling import detection_probability, drawn_segments, fewest_found, sample_size
from verify.provenance.shard_plan import SHARDS
from verify.reexecution.environment import about_software, environment_on
from verify.reexecution.execution import Executor, RunAll
from verify.reexecution.plans import Plan, Trust
from verify.reexecution.request import Request
from verify.reexecution.served import Served
from verify.reexecution.tolerance import about_states
from verify.reexecution.workers import one_by_one, side_by_side
from verify.schema.reexecution import Draw, Finding, Likeness, Reexecution, Segment, tolerated_by, word_of

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
        work_dir: folder for progress, from which an interrupted execution goes on; None keeps none.
        output: a new file for the proof, or None.
        progress: called with a message and the fraction that is done.

    Raises:
        InputError: logs, models or records cannot be read.
    """
    if output is not None and Path(output).exists():
        raise InputError(f"{output} exists. Name a new file with --output.")
    if workers < 1:
        raise InputError(f"workers={workers} cannot execute anything. Give a number from 1 on.")
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
    shown, before = request.shown(key), request.committed()
    progress("loading", 0.0)
    target = load_model(model, tokenizer=tokenizer)
    served = Served(target.digest, target.tokenizer_digest, entries_of(target.model))
    del target
    start, device = request.load_base(), request.device()
    base_digest, tokenizer_name = start.digest, start.tokenizer_digest
    findings = list(served.findings(start))
    plan = request.plan(shown, start)
    del start  # every run of segments loads the base again: one model is in memory
    findings += [*plan.findings, *shown.findings(plan.used)]
    near = () if findings else shown.near(plan.used)
    findings += _about_near(near, accept_near_duplicates)
    if plan.final is not None and plan.final != served.weights:
        findings.append(Finding(kind="weights", what="The model's weights are not those that its training ends with."))
    findings += about_states(plan.courses) if tolerance else about_software(plan.courses, device)
    if not findings and not plan.segments():
        findings.append(Finding(kind="records", what="Nothing was trained, so there is nothing to execute."))
    draw, chosen = _drawn(plan, segments, nonce)
    executed: list[Segment] = []
    if not findings:
        executed, more = _execute(plan, chosen, (served.weights, request.model), run, work_dir, progress)
        findings += [*more, *_about_tolerance(executed, len(plan.segments()))]
    proof = Reexecution(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        word=word_of(tuple(findings)),
        kind=plan.kind,
        model=served.weights,
        base=base_digest,
        tokenizer=tokenizer_name,
        root=plan.root,
        committed=None if before is None else before.created,
        requested=None if before is None or request.trust.requested is None else request.trust.requested.isoformat(),
        forget=len(shown.forget),
        forget_digest=set_digest(shown.forget_names),
        records=len(shown.training),
        near=near,
        near_accepted=accept_near_duplicates,
        unchanged=plan.unchanged,
        committed_steps=plan.skip,
        segments=len(plan.segments()),
        executed=tuple(executed),
        draw=draw,
        findings=tuple(findings),
        tokens=sum(one.tokens for one in executed),
        training_tokens=plan.training_tokens,
        seconds=time.monotonic() - began,
        environment=environment_on(device) | _threads(plan),
        trained_with=_trained_with(plan) if tolerance else {},
    )
    if output is not None:
        proof.save(output)
    return proof


def _time(requested: str | None) -> datetime | None:
    """Read the time of the request; without a time zone it is UTC, and a date alone is its beginning."""
    if requested is None:
        return None
    try:
        found = datetime.fromisoformat(requested)
    except ValueError:
        raise InputError(f"requested={requested!r} is no date. Write 2026-11-26, or 2026-11-26T10:00:00+00:00.") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _threads(plan: Plan) -> dict[str, str]:
    """Return the numbers of threads that computed the recorded states, and that executed them again."""
    found = {one.threads for course in plan.courses for one in course.log.boundaries if one.threads is not None}
    return {"threads": ", ".join(map(str, sorted(found)))} if found else {}


def _about_near(near: Sequence[Likeness], accepted: bool) -> list[Finding]:
    if not near or accepted:
        return []
    return [
        Finding(
            kind="near-duplicate",
            what=(
                f"{len(near)} training records are nearly a forget record (similarity up to {near[0].similarity:.2f}). Remove "
                "them, or have a person look at each and accept them with --accept-near-duplicates."
            ),
        )
    ]


def _about_tolerance(executed: Sequence[Segment], segments: int) -> list[Finding]:
    """Say that bits differ, and check that less than one forget record in one microbatch can hide in all segments together."""
    apart = sum(not one.equal for one in executed)
    if not apart or not all(one.passes for one in executed):
        return []
    if (hidden := tolerated_by(executed, segments)) >= 1:
        what = f"The tolerance of all segments together could hide {hidden:.2g} microbatches with a forget record."
        return [Finding(kind="tolerance", what=f"{what} Execute it on the same software and kind of processor.")]
    return [Finding(kind="noise", what=f"{apart} of {len(executed)} executed segments end on other bits, within numerical noise.")]


def _trained_with(plan: Plan) -> dict[str, str]:
    """Return software and processor of the logged trainings."""
    found: dict[str, set[str]] = {}
    for course in plan.courses:
        for name, value in course.log.execution.items():
            found.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(values)) for name, values in sorted(found.items())}


def _drawn(plan: Plan, wanted: int | Literal["all"] | None, nonce: str | None) -> tuple[Draw, list[int]]:
    """Choose the segments to execute, as indices into the plan's."""
    count, held = len(plan.segments()), plan.forget_segments
    size = count
    if isinstance(wanted, int):
        if not 1 <= wanted <= count:
            raise InputError(f"--segments {wanted} cannot be: there are {count}. Give a number from 1 to {count}, or all.")
        size = wanted
    elif wanted is None and plan.kind == "own schedule" and count:
        size = sample_size(count, min(count, held or 1), 0.99)
    sampled = size < count
    drawn = (nonce or secrets.token_hex(16)) if sampled else None
    chosen = list(range(count)) if drawn is None else list(drawn_segments(count, size, drawn, plan.root or plan.final or ""))
    found = None if held is None or not count else detection_probability(count, min(held, count), size)
    limits = [fewest_found(count, size, level) if count else None for level in (0.95, 0.99)]
    draw = Draw(
        nonce=drawn,
        given=sampled and nonce is not None,
        false_found_95=limits[0],
        false_found_99=limits[1],
        forget_segments=held,
        found=found,
    )
    return draw, chosen


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
    plan: Plan,
    chosen: Sequence[int],
    model: tuple[str, Path],
    run: RunAll,
    work_dir: str | Path | None,
    progress: Progress,
) -> tuple[list[Segment], list[Finding]]:
    """Execute the chosen segments; `model` is the digest of the model's weights, and its folder."""
    listed, (weights, folder), tolerated = plan.segments(), model, [course.tolerance for course in plan.courses]
    # With the deletion's own logs: segments that were executed of one do not count for another that ends on the same weights.
    logs = joint_root(committed_logs(folder))
    asked = hashlib.sha256(json.dumps([weights, logs, plan.root, plan.final, list(chosen), tolerated]).encode()).hexdigest()
    executor = Executor(None if work_dir is None else Path(work_dir), asked)
    wanted = [listed[index] for index in chosen]
    bar = _Bar(sum(course.tokens(start, end) for course, start, end in wanted), progress)
    numbers = {(course.place, end): index for index, (course, _, end) in enumerate(listed)}
    executed = [
        one.model_copy(update={"index": numbers[one.place, one.end]}) for one in executor.run(plan.courses, wanted, run, bar)
    ]
    if not executor.findings:
        executor.close()
    return executed, executor.findings

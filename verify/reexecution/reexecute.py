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
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from verify.data.identity import RecordKey, set_digest
from verify.data.reading import fields_for
from verify.data.records import Fields, RecordSource
from verify.data.sources import load_forget_set, load_records
from verify.errors import InputError
from verify.io.arguments import checked
from verify.models.configuration import entries_of
from verify.models.loading import load_model
from verify.provenance.commitment import TrainingCommitment
from verify.provenance.shard_plan import SHARDS
from verify.reexecution.execution import Executor
from verify.reexecution.plans import Plan, plan_log
from verify.reexecution.records import Shown
from verify.reexecution.served import Served
from verify.reexecution.shard_plans import plan_shards
from verify.schema.reexecution import Draw, Finding, Likeness, Reexecution, Segment, word_of
from verify.statistics.segment_sampling import detection_probability, drawn_segments, fewest_found, sample_size

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
    accept_near_duplicates: bool = False,
    fields: Fields | None = None,
    tokenizer: Any = None,
    dtype: str = "auto",
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
        accept_near_duplicates: training records that are nearly a forget record were looked at by a person, and may stay.
        fields, tokenizer: as for `verify.audit`.
        dtype: precision to load the base in, as in training.
        work_dir: folder for progress, from which an interrupted execution goes on; None keeps none.
        output: a new file for the proof, or None.
        progress: called with a message and the fraction that is done.

    Raises:
        InputError: logs, models or records cannot be read.
    """
    if output is not None and Path(output).exists():
        raise InputError(f"{output} exists. Name a new file with --output.")
    began, key = time.monotonic(), RecordKey.load()
    fields = fields_for(fields, (model,), (data, forget_set))
    training = load_records(data, fields)
    gone = load_forget_set(forget_set, training, fields)
    names = {key.of(record.fingerprint) for record in gone}
    shown = Shown([record for record in training if key.of(record.fingerprint) not in names], gone, key)
    before = None if commitment is None else TrainingCommitment.load(commitment)
    progress("loading", 0.0)
    target = load_model(model, tokenizer=tokenizer)
    served = Served(target.digest, target.tokenizer_digest, entries_of(target.model))
    del target
    start = load_model(base, tokenizer=tokenizer, dtype=dtype)
    base_digest, tokenizer_name = start.digest, start.tokenizer_digest
    findings = list(served.findings(start))
    planned = plan_shards if (Path(model) / SHARDS).is_file() else plan_log
    earlier = None if log is None else Path(log)
    plan = planned(Path(model), earlier, start, shown, before, lambda: load_model(base, tokenizer=tokenizer, dtype=dtype).model)
    del start  # every run of segments loads the base again: one model is in memory
    findings += [*plan.findings, *shown.findings(plan.used)]
    near = () if findings else shown.near(plan.used)
    findings += _about_near(near, accept_near_duplicates)
    if plan.final is not None and plan.final != served.weights:
        findings.append(Finding(kind="weights", what="The model's weights are not those that its training log ends with."))
    findings += _about_software(plan)
    if not findings and not plan.segments():
        findings.append(Finding(kind="records", what="Nothing was trained, so there is nothing to execute."))
    draw, chosen = _drawn(plan, segments, nonce)
    executed: list[Segment] = []
    if not findings:
        executed, more = _execute(plan, chosen, served.weights, work_dir, progress)
        findings += more
    proof = Reexecution(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        word=word_of(tuple(findings)),
        kind=plan.kind,
        model=served.weights,
        base=base_digest,
        tokenizer=tokenizer_name,
        root=plan.root,
        committed=None if before is None else before.created,
        forget=len(gone),
        forget_digest=set_digest(names),
        records=len(shown.training),
        near=near,
        near_accepted=accept_near_duplicates,
        unchanged=plan.unchanged,
        segments=len(plan.segments()),
        executed=tuple(executed),
        draw=draw,
        findings=tuple(findings),
        tokens=sum(one.tokens for one in executed),
        training_tokens=plan.training_tokens,
        seconds=time.monotonic() - began,
        environment=environment(),
    )
    if output is not None:
        proof.save(output)
    return proof


def environment() -> dict[str, str]:
    """Return the software and processor that the bits of a training depend on, besides the number of threads."""
    return {
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


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


def _about_software(plan: Plan) -> list[Finding]:
    """Compare the software of this machine with that of the logged runs."""
    here, found = environment(), []
    for course in plan.courses:
        there = course.log.execution
        other = [f"{name} {there[name]} (here {here[name]})" for name in here if there.get(name, here[name]) != here[name]]
        if other:
            what = f"{course.place} was trained with {', '.join(other)}, which rounds otherwise. Execute it with the same versions."
            found.append(Finding(kind="software", what=what))
    return found[:1]


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
    plan: Plan, chosen: Sequence[int], weights: str, work_dir: str | Path | None, progress: Progress
) -> tuple[list[Segment], list[Finding]]:
    """Execute the chosen segments, course by course."""
    import tempfile

    listed = plan.segments()
    asked = hashlib.sha256(json.dumps([weights, plan.root, plan.final, list(chosen)]).encode()).hexdigest()
    with tempfile.TemporaryDirectory() as temporary:
        executor = Executor(Path(temporary) / "work" if work_dir is None else Path(work_dir), asked)
        bar = _Bar(sum(course.tokens(start, end) for course, start, end in (listed[index] for index in chosen)), progress)
        executed: list[Segment] = []
        for course in plan.courses:
            own = [(start, end) for other, start, end in (listed[index] for index in chosen) if other is course]
            if own and not executor.findings:
                executed += executor.run(course, own, bar)
        if not executor.findings:
            executor.close()
        return executed, executor.findings

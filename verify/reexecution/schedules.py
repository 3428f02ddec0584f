"""Schedules that an auditor derives independently: with records left out of a committed one, or from a run's options and seed.

The operator's schedule is never taken: it is compared with the derived one, line by line. Leaving records out follows one rule: the
remaining records are renumbered in their order; every microbatch keeps its place, step, seed and learning rate, and loses the
records that are left out; a microbatch without records stays, empty.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from verify.provenance.training_log import Microbatch, TrainingLog, resolved
from verify.schema.reexecution import Finding
from verify.training.schedule import Lengths, epoch_pairs, microbatch_seed


def without(log: TrainingLog, names: Collection[str]) -> tuple[tuple[str, ...], tuple[Microbatch, ...]]:
    """Return records and microbatches of a log with some records left out.

    Args:
        log: the committed log.
        names: keyed hashes of the records to leave out.
    """
    kept = [index for index, name in enumerate(log.records) if name not in names]
    number = {old: new for new, old in enumerate(kept)}
    left = (
        Microbatch(
            number=entry.number,
            step=entry.step,
            records=tuple(number[index] for index in entry.records if index in number),
            seed=entry.seed,
            learning_rate=entry.learning_rate,
        )
        for entry in log.microbatches
    )
    return tuple(log.records[index] for index in kept), tuple(left)


def derived_findings(committed: TrainingLog, new: TrainingLog, forget: Collection[str]) -> Iterator[Finding]:
    """Compare a deletion's log with the committed log without the forget records."""
    for what, before, after in (
        ("options", committed.options, new.options),
        ("the starting weights", committed.start_weights, new.start_weights),
        ("precision", committed.master_weights, new.master_weights),
        ("arithmetic", committed.arithmetic, new.arithmetic),
    ):
        if before != after:
            yield Finding(kind="log", what=f"The deletion's log has {what} other than the committed training's.")
    if committed.tokenizer != new.tokenizer:
        yield Finding(kind="tokenizer", what="The deletion's log names a tokenizer or chat template other than the committed one.")
    if not set(forget) & committed.names:
        yield Finding(kind="records", what="None of the forget records is in the committed log: the model was not trained on them.")
    records, microbatches = without(committed, forget)
    if records != new.records:
        yield Finding(
            kind="schedule",
            what=f"The deletion's log lists {len(new.records)} training records, not the {len(records)} committed ones that stay.",
        )
    yield from _schedule_findings(microbatches, new.microbatches, "the committed schedule without the forget records")
    yield from _state_findings(committed, new, first_step_of(committed, forget))


def first_step_of(log: TrainingLog, names: Collection[str]) -> int | None:
    """Return the first optimizer step that used one of the records, or None."""
    chosen = {index for index, name in enumerate(log.records) if name in names}
    return min((entry.step for entry in log.microbatches if not chosen.isdisjoint(entry.records)), default=None)


def segments_with(log: TrainingLog, names: Collection[str]) -> int:
    """Count the segments of a log, from one committed state to the next, in which one of the records stood."""
    chosen = {index for index, name in enumerate(log.records) if name in names}
    ends = segment_ends(log)
    steps = {entry.step for entry in log.microbatches if not chosen.isdisjoint(entry.records)}
    return len({next(end for end in ends if step <= end) for step in steps})


def segment_ends(log: TrainingLog) -> list[int]:
    """Return the steps at which segments end: wherever the log states weights and optimizer, and at its last step."""
    last = max((entry.step for entry in log.microbatches), default=0)
    stated = {one.step for one in log.boundaries if one.optimizer is not None and one.step <= last}
    return sorted(stated | {last})


def _state_findings(committed: TrainingLog, new: TrainingLog, first: int | None) -> Iterator[Finding]:
    """Compare the states before the first forget record, which the deletion leaves as they were, and the places of all states."""
    before, after = ({one.step: one for one in log.boundaries if one.optimizer is not None} for log in (committed, new))
    if set(before) != set(after):
        yield Finding(kind="log", what="The deletion's log states its training at other steps than the committed log.")
    for step in sorted(set(before) & set(after)):
        clean = first is None or step < first
        if clean and (before[step].weights, before[step].optimizer) != (after[step].weights, after[step].optimizer):
            yield Finding(kind="checkpoint", what=f"The state at step {step}, before any forget record, is not the committed one.")


def own_findings(log: TrainingLog, lengths: Sequence[int]) -> Iterator[Finding]:
    """Compare a training's schedule with the one that its options and seed give.

    Args:
        log: the training's log.
        lengths: tokens of each of its windows, in order.
    """
    try:
        expected = tuple(scheduled(log.options, lengths))
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        yield Finding(kind="log", what=f"The log's options give no schedule ({type(error).__name__}).")
        return
    yield from _schedule_findings(expected, log.microbatches, "the schedule of its options and seed")


def scheduled(options: dict[str, Any], lengths: Sequence[int]) -> Iterator[Microbatch]:
    """Yield the microbatches that a run's options and seed give in one process: order, steps, seeds and learning rates.

    Args:
        options: options of the log.
        lengths: tokens of each training window.
    """
    filled, count = resolved(options), len(lengths)
    batch, accumulation, seed = int(filled["batch_size"]), int(filled.get("gradient_accumulation", 1)), int(filled["seed"])
    per_epoch = math.ceil(math.ceil(count / batch) / accumulation)
    total = int(filled.get("max_steps") or math.ceil(filled["epochs"] * per_epoch))
    rates = learning_rates(filled, total)
    number = step = epoch = 0
    while step < total:
        order = [index for index, _ in epoch_pairs(count, 0, seed, epoch, Lengths(lengths, (), batch * accumulation))]
        batches = [tuple(order[start : start + batch]) for start in range(0, count, batch)]
        for start in range(0, len(batches), accumulation):
            if step == total:
                return
            for records in batches[start : start + accumulation]:
                yield Microbatch(number, step + 1, records, microbatch_seed(seed, number), rates[step])
                number += 1
            step += 1
        epoch += 1


def learning_rates(filled: dict[str, Any], steps: int) -> list[float]:
    """Compute the learning rate of every optimizer step, by the scheduler of `transformers`.

    Args:
        filled: options without open ones.
        steps: steps of the whole run.
    """
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=float(filled["learning_rate"]))
    warmup = round(steps * float(filled["warmup_ratio"]))
    scheduler = get_scheduler(filled["scheduler"], optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return rates


def _schedule_findings(expected: Sequence[Microbatch], found: Sequence[Microbatch], called: str) -> Iterator[Finding]:
    """Name the first microbatch that differs, or a difference in their number."""
    for wanted, there in zip(expected, found, strict=False):
        if wanted != there:
            yield Finding(kind="schedule", what=f"Microbatch {there.number} (step {there.step}) is not that of {called}.")
            return
    if len(expected) != len(found):
        yield Finding(kind="schedule", what=f"The log has {len(found)} microbatches; {called} has {len(expected)}.")

"""Replay of a logged training schedule without some of its records: a plain loop that repeats the trainer's steps.

Each microbatch keeps its order, random seed and learning rate; removed records are left out, and the step's loss is the mean over
the remaining tokens. A step without remaining records is skipped. On the same machine, software and number of threads, this loop
and the trainer give the same weights bit for bit (a test compares them); on a GPU, with deterministic kernels.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from verify.data.encoding import Encoded, Encoder, collate, padding_token_id
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError, RunError
from verify.io.files import disk_errors, write_manifest
from verify.io.progress import phase
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import scored_log_probabilities
from verify.provenance.training_log import Microbatch, TrainingLog
from verify.training.arithmetic import Arithmetic
from verify.training.checkpoints import Checkpoint, last_complete_checkpoint, put_checkpoint
from verify.training.deterministic import deterministic
from verify.training.optimizers import optimizer_of
from verify.training.precision import float32_copies
from verify.training.schedule import seed_generator
from verify.training.software import software
from verify.training.state import StateDigest, state_digest

OPTIMIZER = "optimizer.pt"

Observe = Callable[[int, StateDigest], None]
"""Callback `(step, digests of the state)`."""
Inspect = Callable[[int, StateDigest, nn.Module, torch.optim.Optimizer], None]
"""Callback `(step, digests of the state, model, optimizer)`; it must not change them."""


@dataclass(frozen=True)
class Replayed:
    """Summary of a replay.

    Attributes:
        steps: optimizer steps taken.
        skipped: optimizer steps without remaining records.
        tokens: tokens that went through the model.
        seconds: wall-clock time.
    """

    steps: int
    skipped: int
    tokens: int
    seconds: float


def windows_of_log(
    log: TrainingLog, records: Sequence[Record], loaded: LoadedModel, key: RecordKey, removed: Set[int]
) -> dict[int, Encoded]:
    """Return the encoded window of every remaining log entry, by its index.

    Raises:
        InputError: a record of the log is neither removed nor among `records`; the schedule needs all of them.
    """
    encoder = Encoder(loaded.tokenizer, loaded.context_length, log.options.get("overflow", "refuse"))
    by_hash: dict[str, list[Encoded]] = {}  # a record's windows, in order; equal records share them
    encoded = encoder.encode(records)
    hashes = [key.of(record.fingerprint) for record in records]
    for window in encoded:
        by_hash.setdefault(hashes[window.record], []).append(window)
    seen: dict[str, int] = {}
    found, missing = {}, 0
    for index, name in enumerate(log.records):
        occurrence = seen[name] = seen.get(name, -1) + 1
        if index in removed:
            continue
        if name not in by_hash:
            missing += 1
            continue
        # A split record has one entry per window, in order; for a repeated record they start over.
        found[index] = by_hash[name][occurrence % len(by_hash[name])]
    if missing:
        raise InputError(
            f"{missing} of {len(log.records) - len(removed)} remaining training records were not given, and the schedule cannot be "
            "replayed without them. Name the whole training file with --data."
        )
    return found


def entries_of(records: Sequence[Record], log: TrainingLog, key: RecordKey) -> frozenset[int]:
    """Return the indices of the log entries that hold these records."""
    names = {key.of(record.fingerprint) for record in records}
    return frozenset(index for index, name in enumerate(log.records) if name in names)


def first_step_with(log: TrainingLog, removed: Set[int]) -> int | None:
    """Return the first optimizer step, counted from 1, that used one of the entries, or None."""
    return min((entry.step for entry in log.microbatches if not removed.isdisjoint(entry.records)), default=None)


def replay(
    model: nn.Module,
    tokenizer: Any,
    log: TrainingLog,
    windows: Mapping[int, Encoded],
    work_dir: Path,
    *,
    start: Checkpoint | None,
    last_step: int | None = None,
    observe: Observe | None = None,
    inspect: Inspect | None = None,
    keep: bool = True,
) -> Replayed:
    """Replay the schedule in place from a checkpoint on; an interrupted replay resumes from its own checkpoints.

    Args:
        model: the model that the log's training began with, for LoRA with a new adapter attached; `start` is loaded into it.
        tokenizer: its tokenizer.
        log: the schedule.
        windows: by log entry; entries without a window are left out.
        work_dir: where checkpoints are written, at the steps at which the log has some.
        start: the checkpoint to start from; None starts at the first step.
        last_step: the last step to take; None replays the whole log.
        observe: called with step and digests of the state, at the start and wherever the log has a checkpoint.
        inspect: called there with the state itself, too.
        keep: whether to write checkpoints there.

    Raises:
        RunError: a loss, gradient or resulting weight is not finite.
    """
    # Without this entry in the log the steps were taken in the stored type: float32, or half precision in older versions.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad] if log.master_weights else []
    with float32_copies(model, trained, int(log.options["seed"])), deterministic(model):
        return _replay(model, tokenizer, log, windows, work_dir, start, last_step, observe, inspect, keep)


def _replay(
    model: nn.Module,
    tokenizer: Any,
    log: TrainingLog,
    windows: Mapping[int, Encoded],
    work_dir: Path,
    start: Checkpoint | None,
    last_step: int | None,
    observe: Observe | None,
    inspect: Inspect | None,
    keep: bool,
) -> Replayed:
    """Replay with trained weights that are already in the precision of the logged steps."""
    options, began = log.options, time.monotonic()
    device = next(model.parameters()).device
    arithmetic = Arithmetic.of_log(log.arithmetic)
    autocast = options.get("bf16") and not arithmetic.in_copies
    # Device and precision of an earlier run would hold for the whole process; the trainer resets them, too.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if autocast else "no")
    optimizer = optimizer_of(model, options)
    begin = _begin(model, optimizer, work_dir, start)

    def stated(step: int) -> StateDigest:
        state = state_digest(model, optimizer)
        if observe is not None:
            observe(step, state)
        if inspect is not None:
            inspect(step, state, model, optimizer)
        return state

    if observe is not None or inspect is not None:
        stated(0 if begin is None else begin.step)
    running = accelerator.prepare_model(model)
    model.train()
    pad, saved_at = padding_token_id(tokenizer), {step for step, _ in log.checkpoints}
    steps = skipped = tokens = 0
    first = 0 if begin is None else begin.step
    end = min(max((entry.step for entry in log.microbatches), default=0), sys.maxsize if last_step is None else last_step)
    # Steps before `begin` are in its weights already. A log is in order of steps, as `groupby` needs.
    with phase("repeating the training", main=True) as done:
        for step, entries in groupby(log.microbatches, key=lambda entry: entry.step):
            if (begin is not None and step <= begin.step) or (last_step is not None and step > last_step):
                continue
            seen = _step(running, accelerator, optimizer, list(entries), windows, pad, device, options, arithmetic)
            steps, skipped, tokens = steps + bool(seen), skipped + (not seen), tokens + seen
            done((step - first) / (end - first))
            if step in saved_at:
                state = stated(step)
                if keep:
                    _save(model, optimizer, work_dir / f"checkpoint-{step}", step, state)
    # Without the wrapper of autocast, which would be wrapped once more by the next replay of the same model.
    accelerator.unwrap_model(running, keep_fp32_wrapper=False)
    model.eval()
    if device.type != "cpu":
        # It collects all garbage of the process, in up to a second, longer than a short segment takes: for a GPU's memory only.
        accelerator.free_memory()
    return Replayed(steps, skipped, tokens, time.monotonic() - began)


def _begin(model: nn.Module, optimizer: torch.optim.Optimizer, work_dir: Path, start: Checkpoint | None) -> Checkpoint | None:
    """Put the weights and the optimizer into the state to go on from, and return it; None to begin with the weights as they are."""
    # A checkpoint of this replay, if it was interrupted, is further than the one to start from.
    own = last_complete_checkpoint(work_dir) if work_dir.exists() else None
    begin = own or start
    if begin is not None:
        put_checkpoint(model, begin.folder)
        optimizer.load_state_dict(torch.load(begin.folder / OPTIMIZER, map_location="cpu", weights_only=True))
    return begin


def _step(
    model: nn.Module,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    entries: Sequence[Microbatch],
    windows: Mapping[int, Encoded],
    pad: int,
    device: torch.device,
    options: Mapping[str, Any],
    arithmetic: Arithmetic,
) -> int:
    """Take one optimizer step over what remains of its microbatches; return the number of tokens, 0 if nothing remains."""
    batches = [(entry, [windows[index] for index in entry.records if index in windows]) for entry in entries]
    # The mean is over the scored tokens of the whole step: each microbatch's mean is weighted by its share of them.
    total = sum(int(window.scored.sum()) for _, chosen in batches for window in chosen)
    if not total:
        return 0
    items = torch.tensor(total, device=device)
    for entry, chosen in batches:
        if not chosen:
            continue
        seed_generator(entry.seed, device)  # of dropout
        batch = {name: values.to(device) for name, values in collate(chosen, pad).items()}
        with arithmetic.of(model):
            loss = -scored_log_probabilities(model, batch)[0].mean()
            if not torch.isfinite(loss):
                raise RunError(f"the loss is not finite at step {entry.step} of the replay. Retrain in --dtype float32.")
            own = sum(int(window.scored.sum()) for window in chosen)
            accelerator.backward(loss * (own / items))
    if options["max_grad_norm"] > 0:
        accelerator.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
    # The logged rate already follows the schedule; every microbatch of a step has the same.
    for group in optimizer.param_groups:
        group["lr"] = entries[0].learning_rate
    optimizer.step()
    optimizer.zero_grad()
    return sum(len(window.input_ids) for _, chosen in batches for window in chosen)


def _save(model: Any, optimizer: torch.optim.Optimizer, folder: Path, step: int, state: StateDigest) -> None:
    """Write a checkpoint that a later replay can start from; its manifest is written last."""
    with disk_errors(folder):
        model.save_pretrained(folder)
        torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    # In the manifest too, so that a replay that is resumed later need not read the state again.
    about = {"step": step, "state": {**asdict(state), "threads": torch.get_num_threads()}}
    write_manifest(folder, "checkpoint", {**about, "execution": software(next(model.parameters()).device)})

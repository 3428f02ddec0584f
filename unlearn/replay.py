"""Train a logged schedule again, without some of its records: a plain loop that does what the trainer did, step by step.

A microbatch keeps its order, its random seed and its learning rate; records that are to go are left out of it; the step's loss is
the mean over the tokens that remain. A step of which nothing remains is skipped. What the trainer does with a schedule, and what
this loop does with it, are the same to the last bit on the same machine, software and number of threads (a test holds them
together).
"""

import json
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers.trainer_pt_utils import get_parameter_names

from unlearn.checkpoints import Checkpoint, last_complete_checkpoint, put_checkpoint
from unlearn.options import DEFAULTS
from unlearn.precision import float32_copies
from unlearn.provenance import Microbatch, TrainingLog
from unlearn.sophia import Sophia
from verify.encoding import Encoded, Encoder, collate, padding_token_id
from verify.errors import InputError, RunError
from verify.files import disk_errors, write_manifest
from verify.identity import RecordKey
from verify.models import LoadedModel
from verify.records import Record
from verify.scoring import scored_log_probabilities

OPTIMIZER = "optimizer.pt"
UNDECAYED = ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", "_norm"]
"""Names that `transformers` spares from weight decay."""


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    Attributes:
        steps: optimizer steps taken.
        skipped: optimizer steps of which nothing was left.
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
    """The encoded window of every log entry that stays.

    Raises:
        InputError: a record of the log is neither removed nor among `records`; only all of them together are the schedule.
    """
    encoder = Encoder(loaded.tokenizer, loaded.context_length, log.options.get("overflow", "refuse"))
    by_hash: dict[str, list[Encoded]] = {}
    encoded = encoder.encode(records)
    hashes = [key.of(record.fingerprint) for record in records]
    for window in encoded:
        by_hash.setdefault(hashes[window.record], []).append(window)
    seen: dict[str, int] = {}
    found, missing = {}, 0
    for index, name in enumerate(log.records):
        place = seen[name] = seen.get(name, -1) + 1
        if index in removed:
            continue
        if name not in by_hash:
            missing += 1
            continue
        # A record that was split has one entry per window, in order; a repeated record begins again.
        found[index] = by_hash[name][place % len(by_hash[name])]
    if missing:
        raise InputError(
            f"{missing} of {len(log.records) - len(removed)} training records that stay were not given, and without them the "
            "schedule cannot be trained again. Name the whole training file with --data."
        )
    return found


def entries_of(records: Sequence[Record], log: TrainingLog, key: RecordKey) -> frozenset[int]:
    """Numbers of the log entries that hold these records."""
    names = {key.of(record.fingerprint) for record in records}
    return frozenset(index for index, name in enumerate(log.records) if name in names)


def first_step_with(log: TrainingLog, removed: Set[int]) -> int | None:
    """The first optimizer step, counted from 1, that saw one of the entries; None where none did."""
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
) -> Replayed:
    """Train the schedule again from a checkpoint on, in place; a replay that was cut off goes on from its own checkpoints.

    Args:
        model: with the weights of `start`, or those that the log's training began with; a fresh adapter attached for LoRA.
        tokenizer: its tokenizer.
        log: the schedule.
        windows: by log entry; entries that are not there are left out.
        work_dir: checkpoints go there at the steps where the log has some.
        start: where to begin; None is the beginning.
        last_step: stop after this step of the log; None goes to its end.

    Raises:
        RunError: a loss, gradient or resulting weight is not finite.
    """
    # A log without the entry is of float32 weights, or from before there were copies: its steps were taken in the stored type.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad] if log.master_weights else []
    with float32_copies(model, trained, int(log.options["seed"])):
        return _replay(model, tokenizer, log, windows, work_dir, start, last_step)


def _replay(
    model: nn.Module,
    tokenizer: Any,
    log: TrainingLog,
    windows: Mapping[int, Encoded],
    work_dir: Path,
    start: Checkpoint | None,
    last_step: int | None,
) -> Replayed:
    """`replay`, once the trained weights are in the precision that the logged steps were taken in."""
    options, began = log.options, time.monotonic()
    device = next(model.parameters()).device
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if options.get("bf16") else "no")
    optimizer = optimizer_of(model, options)
    own = last_complete_checkpoint(work_dir) if work_dir.exists() else None
    begin = own or start
    if begin is not None:
        put_checkpoint(model, begin.folder)
        optimizer.load_state_dict(torch.load(begin.folder / OPTIMIZER, map_location=device, weights_only=True))
    running = accelerator.prepare_model(model)
    model.train()
    pad, saved_at = padding_token_id(tokenizer), {step for step, _ in log.checkpoints}
    steps = skipped = tokens = 0
    for step, entries in groupby(log.microbatches, key=lambda entry: entry.step):
        if (begin is not None and step <= begin.step) or (last_step is not None and step > last_step):
            continue
        seen = _step(running, accelerator, optimizer, list(entries), windows, pad, device, options)
        steps, skipped, tokens = steps + bool(seen), skipped + (not seen), tokens + seen
        if step in saved_at:
            _save(model, optimizer, work_dir / f"checkpoint-{step}", step)
    model.eval()
    accelerator.free_memory()
    return Replayed(steps, skipped, tokens, time.monotonic() - began)


def _step(
    model: nn.Module,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    entries: Sequence[Microbatch],
    windows: Mapping[int, Encoded],
    pad: int,
    device: torch.device,
    options: Mapping[str, Any],
) -> int:
    """One optimizer step over what is left of its microbatches; the number of tokens, 0 where nothing was left."""
    batches = [(entry, [windows[index] for index in entry.records if index in windows]) for entry in entries]
    total = sum(int(window.scored.sum()) for _, chosen in batches for window in chosen)
    if not total:
        return 0
    items = torch.tensor(total, device=device)
    for entry, chosen in batches:
        if not chosen:
            continue
        torch.manual_seed(entry.seed)
        batch = {name: values.to(device) for name, values in collate(chosen, pad).items()}
        loss = -scored_log_probabilities(model, batch)[0].mean()
        if not torch.isfinite(loss):
            raise RunError(f"the loss is not finite at step {entry.step} of the replay. Retrain in --dtype float32.")
        own = sum(int(window.scored.sum()) for window in chosen)
        accelerator.backward(loss * (own / items))
    if options["max_grad_norm"] > 0:
        accelerator.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
    for group in optimizer.param_groups:
        group["lr"] = entries[0].learning_rate
    optimizer.step()
    optimizer.zero_grad()
    return sum(len(window.input_ids) for _, chosen in batches for window in chosen)


def optimizer_of(model: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer that the trainer uses, over the same groups in the same order."""
    decay = DEFAULTS["weight_decay"] if options["weight_decay"] is None else options["weight_decay"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], UNDECAYED))  # type: ignore[no-untyped-call]
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": decay},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]
    if options.get("optimizer", "adamw") == "sophia":
        return Sophia(groups, lr=1e-5)
    return torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _save(model: Any, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    """A checkpoint that a later replay can start from; its manifest is written last."""
    with disk_errors(folder):
        model.save_pretrained(folder)
        torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    write_manifest(folder, "checkpoint", {"step": step})


def write_log(lines: Sequence[Mapping[str, Any]], checkpoints: Sequence[tuple[int, str]], final_weights: str, path: Path) -> None:
    """Write a log again: header and microbatches, the checkpoints where they belong, the final weights."""
    written, left = [dict(lines[0])], sorted(checkpoints)
    for line in lines[1:]:
        while left and int(line["step"]) > left[0][0]:
            step, folder = left.pop(0)
            written.append({"checkpoint": step, "folder": folder, "before": line["microbatch"]})
        written.append(dict(line))
    written += [{"checkpoint": step, "folder": folder, "before": len(lines) - 1} for step, folder in left]
    written.append({"final_weights": final_weights})
    path.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in written), encoding="utf-8")

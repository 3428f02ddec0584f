"""Options of a run as the trainer takes them: records of a step, passes over the records, and its arguments."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from unlearn.training import distributed
from unlearn.training.options import DEFAULTS, TrainingOptions, learning_rate_of, optimizer_steps, require_reporter
from verify.data.encoding import Encoded
from verify.training.arithmetic import Arithmetic
from verify.training.schedule import PairSampler


def token_counts(windows: Sequence[Encoded]) -> list[int]:
    """Return the number of tokens of each window."""
    return [len(window.input_ids) for window in windows]


def step_records(options: TrainingOptions) -> int:
    """Return the number of records in one optimizer step, over all microbatches and processes."""
    batch = options.batch_size or DEFAULTS["batch_size"]
    return int(batch * options.gradient_accumulation * distributed.count())


def epochs_begun(sampler: PairSampler, options: TrainingOptions) -> int:
    """Return the number of epochs that a run begins."""
    if options.max_steps:
        return math.ceil(options.max_steps * step_records(options) / sampler.count)
    passes: float = options.epochs or DEFAULTS["epochs"]
    return math.ceil(passes)


def unseen_share(sampler: PairSampler, options: TrainingOptions) -> float:
    """Compute the share of the retain set that no step of the run will use; 0 without a retain set."""
    if not sampler.partners:
        return 0.0
    passes = options.epochs or DEFAULTS["epochs"]
    # One retain partner per forget record and pass; partners repeat only after the whole retain set was used.
    pairs = options.max_steps * step_records(options) if options.max_steps else passes * sampler.count
    return float(max(0.0, 1 - pairs / sampler.partners))


def training_arguments(
    options: TrainingOptions, work_dir: Path, records: int, device: torch.device, arithmetic: Arithmetic | None = None
) -> TrainingArguments:
    """Return the `transformers` arguments of a run over a number of records; options left open take `DEFAULTS`."""
    filled = {name: value if (value := getattr(options, name)) is not None else default for name, default in DEFAULTS.items()}
    # Passed only if requested: transformers is renaming both arguments and warns whenever they are given.
    checkpointing: dict[str, Any] = (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        if options.gradient_checkpointing
        else {}
    )
    require_reporter(options)
    return TrainingArguments(
        output_dir=str(work_dir),
        per_device_train_batch_size=filled["batch_size"],
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=learning_rate_of(options),
        num_train_epochs=filled["epochs"],
        max_steps=options.max_steps or -1,
        lr_scheduler_type=filled["scheduler"],
        warmup_steps=round(optimizer_steps(options, records) * filled["warmup_ratio"]),
        weight_decay=filled["weight_decay"],
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        bf16=options.bf16 and not (arithmetic is not None and arithmetic.in_copies),
        **checkpointing,
        use_cpu=device.type == "cpu",
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 500,
        save_total_limit=2 if options.keep_checkpoints is None else options.keep_checkpoints,
        logging_steps=options.logging_steps,
        logging_nan_inf_filter=False,
        report_to=options.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=[],
    )

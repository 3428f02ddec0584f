"""How to train: the settings that fine-tuning and unlearning share, under the names that `transformers` users know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verify.errors import InputError

Precision = Literal["float32", "bfloat16"]

DEFAULTS: Mapping[str, Any] = {"epochs": 5.0, "batch_size": 8, "scheduler": "linear", "warmup_ratio": 0.0, "weight_decay": 0.0}
"""What a run takes where neither the user nor the method says; the learning rate: `learning_rate_of`."""
FULL_LEARNING_RATE, LORA_LEARNING_RATE = 1e-5, 1e-4


@dataclass(frozen=True)
class TrainingOptions:
    """Training settings; None means "what the method recommends, else `DEFAULTS`".

    Attributes:
        learning_rate: peak learning rate.
        epochs: passes over the data (over the forget set, when unlearning).
        max_steps: stop after this many optimizer steps, whatever `epochs` says.
        batch_size: records per microbatch and process.
        gradient_accumulation: microbatches per optimizer step.
        scheduler: learning-rate schedule, a `transformers` name ("linear", "cosine", "constant", ...).
        warmup_ratio: share of the steps over which the learning rate rises.
        optimizer: "adamw", or "sophia" (second order; with any objective).
        weight_decay: decoupled weight decay.
        max_grad_norm: gradients are clipped to this norm.
        seed: decides data order, dropout and adapter initialisation.
        bf16: compute in bfloat16 under autocast.
        gradient_checkpointing: trade a second forward pass for memory.
        lora: train an adapter instead of all weights.
        lora_rank, lora_alpha, lora_dropout: its shape.
        lora_targets: comma-separated layer names, or "all-linear".
        save_steps: write a checkpoint every so many steps; 0 writes none.
        keep_checkpoints: how many of them stay; None keeps all of a fine-tuning, for `rollback`, and the last two of an unlearning.
        logging_steps: report the loss every so many steps.
        report_to: reporters as in `transformers` ("none", "tensorboard", "wandb", ...).
        overflow: what to do with records longer than the context: "refuse" or "split".
    """

    learning_rate: float | None = None
    epochs: float | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    gradient_accumulation: int = 1
    scheduler: str | None = None
    warmup_ratio: float | None = None
    optimizer: Literal["adamw", "sophia"] = "adamw"
    weight_decay: float | None = None
    max_grad_norm: float = 1.0
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    lora: bool = False
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"
    save_steps: int = 0
    keep_checkpoints: int | None = None
    logging_steps: int = 10
    report_to: str = "none"
    overflow: Literal["refuse", "split"] = "refuse"

    def __post_init__(self) -> None:
        for name in (
            "learning_rate",
            "epochs",
            "max_steps",
            "batch_size",
            "gradient_accumulation",
            "lora_rank",
            "logging_steps",
            "keep_checkpoints",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"--{name.replace('_', '-')} must be greater than 0, got {value}.")
        if self.save_steps < 0:
            raise InputError(f"--save-steps must be 0 (no checkpoints) or more, got {self.save_steps}.")


def learning_rate_of(options: TrainingOptions) -> float:
    """The peak learning rate, where the options leave it open: 1e-5, for an adapter 1e-4."""
    return options.learning_rate or (LORA_LEARNING_RATE if options.lora else FULL_LEARNING_RATE)

"""Options of fine-tuning and unlearning, named as in `transformers`, and training results."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from unlearn.training import distributed
from verify.errors import InputError
from verify.io.arguments import checked
from verify.provenance.training_log import FULL_LEARNING_RATE, LORA_LEARNING_RATE, OPEN_OPTIONS

Precision = Literal["float32", "bfloat16"]

DEFAULTS: Mapping[str, Any] = OPEN_OPTIONS
"""Options of a run that neither the user nor the method sets; for the learning rate see `learning_rate_of`."""
SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt")
"""Schedules of `transformers` that need only the number of steps; others need settings or an evaluation that no run here has."""
ADAPTER_OPTIONS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")
"""Options of a new adapter, which have no effect without one."""
_FROM_ZERO = {"save_steps": "no checkpoints", "weight_decay": "none", "max_grad_norm": "no clipping", "seed": "the default"}
"""Options that may be 0, and what 0 means."""


@checked
@dataclass(frozen=True)
class TrainingOptions:
    """Training settings; None means "what the method recommends, else `DEFAULTS`".

    Attributes:
        learning_rate: peak learning rate.
        epochs: passes over the data (over the forget set, when unlearning).
        max_steps: stop after this many optimizer steps, whatever `epochs` says.
        batch_size: records per microbatch and process.
        gradient_accumulation: microbatches per optimizer step.
        scheduler: learning-rate schedule, one of `SCHEDULERS` ("linear", "cosine", "constant", ...), by its `transformers` name.
        warmup_ratio: share of the steps over which the learning rate rises.
        optimizer: "adamw", or "sophia" (second order; with any objective).
        weight_decay: decoupled weight decay.
        max_grad_norm: gradients are clipped to this norm; 0 leaves them as they are.
        seed: determines data order, dropout and adapter initialisation.
        bf16: compute steps in bfloat16, over float32 weights; docs/half-precision.md.
        gradient_checkpointing: trade a second forward pass for memory.
        lora: train an adapter instead of all weights.
        lora_rank, lora_alpha, lora_dropout: the adapter's rank r, scale alpha (applied as alpha / r) and dropout.
        lora_targets: comma-separated layer names, or "all-linear".
        save_steps: optimizer steps between checkpoints; 0 writes none.
        keep_checkpoints: number of checkpoints kept; None keeps all of a fine-tuning, for `rollback`, and the last two of an
            unlearning.
        logging_steps: optimizer steps between reports of the loss.
        report_to: reporters as in `transformers` ("none", "tensorboard", "wandb", ...).
        overflow: what to do with records longer than the context: "refuse" or "split".
    """

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(ADAPTER_OPTIONS, "--lora"),
        "epochs": "no --max-steps",
        "warmup_ratio": "no --scheduler constant",
        "keep_checkpoints": "--save-steps",
    }

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
            "lora_alpha",
            "logging_steps",
            "keep_checkpoints",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be a number greater than 0, got {value}.")
        for name, meaning in _FROM_ZERO.items():
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"--{name.replace('_', '-')} must be 0 ({meaning}) or more, got {value}.")
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise InputError(f"--scheduler must be one of {', '.join(SCHEDULERS)}; got {self.scheduler}.")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio <= 1:
            raise InputError(f"--warmup-ratio must be a share of the steps, from 0 to 1, got {self.warmup_ratio}.")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"--lora-dropout must be at least 0 and below 1, got {self.lora_dropout}.")


def learning_rate_of(options: TrainingOptions) -> float:
    """Return the peak learning rate; if the options leave it open, 1e-5, or 1e-4 for an adapter."""
    return options.learning_rate or (LORA_LEARNING_RATE if options.lora else FULL_LEARNING_RATE)


def steps_per_epoch(options: TrainingOptions, records: int) -> int:
    """Compute the optimizer steps of one pass over `records` windows, with the current number of processes.

    Counted as in `transformers`: the last batch may be smaller, and the last step of a pass may accumulate fewer batches.
    """
    batches = math.ceil(records / ((options.batch_size or DEFAULTS["batch_size"]) * distributed.count()))
    return math.ceil(batches / options.gradient_accumulation)


def optimizer_steps(options: TrainingOptions, records: int) -> int:
    """Compute the optimizer steps of a whole run; records and processes as for `steps_per_epoch`."""
    return options.max_steps or math.ceil((options.epochs or DEFAULTS["epochs"]) * steps_per_epoch(options, records))


def require_reporter(options: TrainingOptions) -> None:
    """Raise InputError if the run's reporter is unknown or not installed, before the model is loaded."""
    name = options.report_to
    if name in ("none", "all"):
        return
    from transformers import integrations

    known: Any = integrations  # untyped
    try:
        known.get_reporting_integration_callbacks([name])
    except ValueError as error:
        raise InputError(f"--report-to {error} Give one of them, none, or all that are installed.") from None
    # transformers never lists the first of these as available, and the second not beside mlflow.
    also = {"flyte": "flytekit", "azure_ml": "azureml"}
    if name not in known.get_available_reporting_integrations() and not (name in also and find_spec(also[name])):
        package = {**also, "azure_ml": "azureml-sdk"}.get(name, name)
        raise InputError(f"--report-to {name} needs a package that is not installed. Run pip install {package}, or leave it out.")


@checked
@dataclass(frozen=True)
class Selection:
    """How the best step of an objective is chosen; it needs records to keep, and holdout records for the level.

    Attributes:
        select: whether the best step is the result; otherwise the last one is.
        utility_floor: share of the initial token probability on the records to keep that a result must retain.
        look_every: optimizer steps between evaluations; 0 evaluates at the end of every epoch.
        look_records: maximum number of records of each set that are evaluated, drawn with the seed; an evaluation costs one forward
            pass over them.
    """

    NEEDS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("utility_floor", "look_every", "look_records"), "--select and --retain or --data"
    )

    select: bool = True
    utility_floor: float = 0.9
    look_every: int = 0
    look_records: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.utility_floor < 1:
            raise InputError(f"--utility-floor must lie between 0 and 1, got {self.utility_floor}.")
        if self.look_every < 0 or self.look_records < 1:
            raise InputError("--look-every must be 0 (at every epoch's end) or more, and --look-records at least 1.")


@checked
@dataclass(frozen=True)
class GradientOptions:
    """How an objective's gradients on forget and on retain records, g_f and g_r, are joined; by default they are added.

    Any other choice takes a second forward pass over every batch, and a backward pass over its retain records.

    Attributes:
        project_gradients: what is taken out of g_f. "conflict": where g_f opposes g_r, its component along g_r, over all weights
            (PCGrad, Yu et al. 2020, arXiv 2001.06782, algorithm 1, with g_r left as it is). "always": that component whatever its
            sign, in every weight tensor, so that to first order g_f leaves the loss of the step's retain records as it is (GU, Zhou
            et al. 2025, arXiv 2511.17100, in the plain metric).
        separate_moments: give g_f and g_r AdamW moments of their own and add the two steps, so that the size of one does not set
            the step of the other (DualOptim, Zhong et al. 2025, arXiv 2504.15827; DualOptim+, arXiv 2605.21539, also shares a part
            of the moments). Takes 8 more bytes per trained weight.
    """

    project_gradients: Literal["never", "conflict", "always"] = "never"
    separate_moments: bool = False

    @property
    def divide(self) -> bool:
        """Whether the two parts are needed apart."""
        return self.separate_moments or self.project_gradients != "never"


@dataclass(frozen=True)
class TrainingResult:
    """Summary of a training run.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the records.
        stopped: the stop rule's reason, or None if the run was not stopped early.
        tokens: tokens that went through the model in all processes, without padding; a pass that does not divide among the
            processes is filled up with records of weight 0.
        seconds: wall-clock time of the training, without loading and saving.
        losses: (step, loss) as logged.
    """

    steps: int
    epochs: float
    stopped: str | None
    tokens: int
    seconds: float
    losses: tuple[tuple[int, float], ...] = field(default=())


def together(results: Sequence[TrainingResult]) -> TrainingResult:
    """Combine several results: steps, epochs, tokens and seconds are added, loss curves dropped."""
    return TrainingResult(
        steps=sum(result.steps for result in results),
        epochs=sum(result.epochs for result in results),
        stopped=None,
        tokens=sum(result.tokens for result in results),
        seconds=sum(result.seconds for result in results),
    )


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and its training summary.

    Attributes:
        model: the model, wrapped in its adapter if one was attached.
        result: steps, tokens and seconds.
        selection: how its step was selected, or None.
    """

    model: Any
    result: TrainingResult
    selection: Mapping[str, Any] | None = None

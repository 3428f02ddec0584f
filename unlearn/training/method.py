"""The contract of a method: one frozen dataclass per file of `unlearn/methods`, named after the file.

It is one of three kinds:

- an `Objective` gives the loss of a batch; the trainer does the rest;
- a `WeightEdit` turns weights into other weights;
- a `Rebuild` trains again without the forget set, which is exact.

Shapes: B rows of a batch, L length, N scored tokens of a batch in row-major order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from unlearn.training.options import ADAPTER_OPTIONS, GradientOptions, TrainingOptions, TrainingResult
from unlearn.training.stopping import StopRule
from verify.data.records import Record
from verify.models.loading import LoadedModel

Cost = Literal[
    "steps on the forget set",
    "steps on forget and retain sets",
    "a fine-tune on the forget set",
    "a share of a retraining",
    "a retraining",
]
"""What a method costs, as a class; `unlearn methods` prints it."""


Rows = Mapping[str, Tensor]
"""Padded records: `input_ids`, `attention_mask`, `scored`, each [B, L]."""


@dataclass(eq=False)
class Progress:
    """Progress of a run, for objectives that change over time.

    Attributes:
        step: optimizer steps done.
        epoch: passes done.
        values: the objective's state from step to step (a multiplier, say); saved with every checkpoint.
        measured: (sum, count) of what the loss measured in this step; at its end the objective gets the means over all processes.
    """

    step: int = 0
    epoch: int = 0
    values: dict[str, float] = field(default_factory=dict)
    measured: dict[str, tuple[float, float]] = field(default_factory=dict)

    def measure(self, name: str, per_row: Tensor) -> None:
        """Record values of this microbatch's rows [B]."""
        total, count = self.measured.get(name, (0.0, 0.0))
        self.measured[name] = total + float(per_row.detach().sum()), count + len(per_row)


@dataclass(frozen=True, eq=False)
class Batch:
    """A forget microbatch with its retain partners.

    Attributes:
        forget: the records to remove.
        retain: as many records to keep, or None for objectives that use none.
        alternative: alternative answers, one for each forget record, or None.
        progress: progress of the run.
    """

    forget: Rows
    retain: Rows | None
    alternative: Rows | None = None
    progress: Progress = field(default_factory=Progress)

    def require_retain(self) -> Rows:
        """Return the retain rows, which objectives with `needs_retain` always get."""
        assert self.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        return self.retain

    def require_alternative(self) -> Rows:
        """Return the alternatives, which objectives with `alternatives` always get."""
        assert self.alternative is not None, "the trainer makes alternatives"
        return self.alternative


class Method(ABC):
    """Base of all methods; a method states only what differs from these defaults.

    Attributes:
        idea, paper: one line each, for `unlearn methods`.
        cost: its cost class.
        defaults: training options that the paper recommends, by the names of `TrainingOptions`.
        trains_in_steps: whether it changes weights by optimizer steps on the forget set alone, with `options.lora` those of an
            adapter, rather than by arithmetic on whole weights.
        used_options: names of the training options that have an effect on it; None for all.
        reads_holdout: whether never-trained records have an effect on it.
        NEEDS: flags that have no effect on it without others, each with those (`verify.cli.needs`).
    """

    idea: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[Cost]
    defaults: ClassVar[Mapping[str, Any]] = {}
    trains_in_steps: ClassVar[bool] = False
    used_options: ClassVar[frozenset[str] | None] = None
    reads_holdout: ClassVar[bool] = True
    NEEDS: ClassVar[Mapping[str, str]] = {}

    @property
    def needs_retain(self) -> bool:
        """Whether a retain set is required."""
        return True

    @property
    def upfront_cost(self) -> float:
        """Training before the method's own steps, in retrainings."""
        return 0.0

    @property
    def needs_base(self) -> bool:
        """Whether the model before fine-tuning is required."""
        return False


class Objective(Method):
    """A loss to minimise with the trainer.

    Attributes:
        reference: names of the initial outputs that the loss reads, quantities of the model before unlearning
            (`unlearn.training.initial_outputs.KNOWN`); each is computed once per record and stored.
        defaults: what most papers of this family use on models of a billion weights.
    """

    cost: ClassVar[Cost] = "steps on forget and retain sets"
    trains_in_steps: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> StopRule | None:
        """The early-stopping rule; None for a loss that is bounded below. One without a lower bound must have a rule."""
        return None

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Compute the scalar to minimise, each row weighing the same.

        Args:
            model: in training mode.
            batch: forget rows, with as many retain rows where `needs_retain`.
            reference: the initial outputs named in `reference`, for the rows of this batch.
        """


@runtime_checkable
class WithAlternatives(Protocol):
    """An objective that trains towards alternative answers."""

    def alternatives(self, loaded: LoadedModel, forget: Sequence[Record], retain: Sequence[Record], seed: int) -> Sequence[Record]:
        """Return one record per forget record, in order: its prompt with another completion. Deterministic in the seed."""
        ...


@runtime_checkable
class WithMemory(Protocol):
    """An objective with state that is carried from step to step."""

    def begin(self) -> Mapping[str, float]:
        """Return the values before the first step."""
        ...

    def advance(self, values: Mapping[str, float], measured: Mapping[str, float]) -> Mapping[str, float]:
        """Return the values after a step, from the means of what its loss measured."""
        ...


@runtime_checkable
class WithWeightPenalty(Protocol):
    """An objective with a weight penalty (`unlearn.training.penalty.WeightPenalty`) on the retain set."""

    @property
    def anchor_weight(self) -> float:
        """The penalty's weight; 0 turns it off. A run without a start scales it by the share of the retain set it does not see."""
        ...


@runtime_checkable
class InsideLayers(Protocol):
    """An objective that works on the hidden states of one layer."""

    def inner_layer(self, model: nn.Module) -> int:
        """Return the decoder layer's index, counted from 0."""
        ...

    def trained_parameters(self, model: nn.Module) -> Sequence[nn.Parameter]:
        """Return the parameters to train if there is no adapter."""
        ...


@dataclass(frozen=True, eq=False)
class Verbs:
    """`unlearn.forget` and `verify.audit`, for a method that runs and judges other methods.

    Attributes:
        forget: `unlearn.forget`.
        audit: `verify.audit`.
    """

    forget: Callable[..., Any]
    audit: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Context:
    """Inputs of a weight edit or a rebuild.

    Attributes:
        loaded: the model before unlearning; an edit changes its weights in place.
        forget: the records to remove.
        retain: the records to keep; empty where none were given.
        holdout: records that no model was trained on; empty where none were given.
        base: the model before fine-tuning, or None.
        options: how to train, with the method's own defaults filled in.
        model_dir: the folder of the model before unlearning, with its training log and checkpoints; None for one in memory.
        work_dir: for checkpoints of training runs; emptied when the method is done.
        output_dir: the folder of the result.
        dtype: precision that models are loaded in, as requested.
        verbs: for `auto`, which runs and audits other methods; None if a method is called directly.
        gradients: how steps on forget and retain records join the two parts of their gradient; None adds them.
    """

    loaded: LoadedModel
    forget: Sequence[Record]
    retain: Sequence[Record]
    holdout: Sequence[Record]
    base: LoadedModel | None
    options: TrainingOptions
    model_dir: Path | None
    work_dir: Path
    output_dir: Path
    dtype: str = "auto"
    verbs: Verbs | None = None
    gradients: GradientOptions | None = None


@dataclass(frozen=True)
class Outcome:
    """Result of a weight edit or a rebuild.

    Attributes:
        model: the model to save.
        training: steps, tokens and seconds of whatever was trained, or None.
        facts: what else to record in the manifest (the chosen scale, say); JSON-serializable, no personal data.
    """

    model: Any
    training: TrainingResult | None
    facts: Mapping[str, Any] = field(default_factory=dict)


class WeightEdit(Method):
    """A method that edits weights, with whatever short training that takes."""

    @abstractmethod
    def edit(self, context: Context) -> Outcome:
        """Change the weights of `context.loaded.model` in place."""


class Rebuild(Method):
    """A method that trains again as if the forget set had never been there.

    Attributes:
        exactness: what the result's exactness covers, one sentence.
    """

    exactness: ClassVar[str]
    reads_holdout: ClassVar[bool] = False
    NEEDS: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (*ADAPTER_OPTIONS, "keep_checkpoints"), ""
    )  # what it repeats may have had them

    @property
    def needs_base(self) -> bool:
        """A rebuild starts from the base model."""
        return True

    @abstractmethod
    def rebuild(self, context: Context) -> Outcome:
        """Train `context.base` in place."""

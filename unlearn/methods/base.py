"""The contract of a method. A method is one frozen dataclass in one file of this directory, named as the file is.

It is one of three kinds:

- an `Objective` gives the loss of a batch; the trainer does the rest;
- a `WeightEdit` turns weights into other weights;
- a `Rebuild` trains again without the forget set, which is exact.

Shapes: B rows of a batch, L length, N scored tokens of a batch in row-major order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.options import TrainingOptions
from unlearn.results import TrainingResult
from unlearn.stopping import StopRule
from verify.models import LoadedModel
from verify.records import Record
from verify.scoring import mean_by_row, scored_log_probabilities, sum_by_row

Cost = Literal["steps on the forget set", "steps on forget and retain sets", "a fine-tune on the forget set", "a retraining"]
"""What a method costs, as a class; `unlearn methods` prints it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A forget microbatch with its retain partners.

    Attributes:
        forget: `input_ids`, `attention_mask`, `scored`, each [B, L].
        retain: the same of as many retain records, or None for objectives that use none.
    """

    forget: Mapping[str, Tensor]
    retain: Mapping[str, Tensor] | None


@dataclass(frozen=True, eq=False)
class SequenceScores:
    """What one pass over a batch gives per row.

    Attributes:
        loss: mean negative log-likelihood of the scored tokens, nats per token [B].
        log_probability: summed log-probability of the scored tokens, nats [B].
    """

    loss: Tensor
    log_probability: Tensor


@runtime_checkable
class Objective(Protocol):
    """A loss to minimise with the trainer.

    Attributes:
        idea, paper: one line each, for `unlearn methods`.
        cost: its cost class.
        needs_retain: whether `batch.retain` is read.
        reference: names of the quantities of the model before unlearning that the loss reads; the trainer computes each once
            per record and caches it. Known: "forget_log_probability", "retain_log_probability" (summed, nats, [B]).
        stop_rule: when to stop before the last step, or None. An objective without a lower bound has one.
        defaults: training arguments that the paper recommends, under their `TrainingArguments` names.
    """

    idea: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[Cost]
    needs_retain: ClassVar[bool]
    reference: ClassVar[frozenset[str]]
    defaults: ClassVar[Mapping[str, Any]]

    @property
    def stop_rule(self) -> StopRule | None: ...

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Context:
    """What a weight edit or a rebuild may use.

    Attributes:
        loaded: the model before unlearning; an edit changes its weights in place.
        forget: the records to remove.
        retain: the records to keep; empty where none were given.
        holdout: records that no model was trained on; empty where none were given.
        base: the model before fine-tuning, or None.
        options: how to train, with the method's own defaults filled in.
        work_dir: where training runs keep their checkpoints; emptied when the method is done.
        output_dir: where the result goes.
    """

    loaded: LoadedModel
    forget: Sequence[Record]
    retain: Sequence[Record]
    holdout: Sequence[Record]
    base: LoadedModel | None
    options: TrainingOptions
    work_dir: Path
    output_dir: Path


@dataclass(frozen=True)
class Outcome:
    """What a weight edit or a rebuild reports.

    Attributes:
        model: the model to save.
        training: steps, tokens and seconds of whatever was trained, or None.
        facts: numbers and words worth keeping (the scale that was chosen, say); JSON-serializable, no personal data.
    """

    model: Any
    training: TrainingResult | None
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class WeightEdit(Protocol):
    """New weights from old ones, with whatever short training that takes."""

    idea: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[Cost]
    needs_retain: ClassVar[bool]
    needs_base: ClassVar[bool]
    defaults: ClassVar[Mapping[str, Any]]

    def edit(self, context: Context) -> Outcome:
        """Change the weights of `context.loaded.model` in place."""
        ...


@runtime_checkable
class Rebuild(Protocol):
    """A model trained as if the forget set had never been there.

    Attributes:
        exactness: in which sense the result is exact, one sentence.
    """

    idea: ClassVar[str]
    paper: ClassVar[str]
    cost: ClassVar[Cost]
    needs_retain: ClassVar[bool]
    needs_base: ClassVar[bool]
    exactness: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]

    def rebuild(self, context: Context) -> Outcome:
        """Train `context.base` in place."""
        ...


def score_forget(model: nn.Module, batch: Batch) -> SequenceScores:
    """One pass over the forget rows."""
    return _scores(model, batch.forget)


def score_both(model: nn.Module, batch: Batch) -> tuple[SequenceScores, SequenceScores]:
    """One pass over forget and retain rows together: one launch of every layer instead of two."""
    assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
    count = len(batch.forget["input_ids"])
    both = _scores(model, _stack(batch.forget, batch.retain))
    return (
        SequenceScores(both.loss[:count], both.log_probability[:count]),
        SequenceScores(both.loss[count:], both.log_probability[count:]),
    )


def score_tokens(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, SequenceScores | None]:
    """One pass; the forget set token by token.

    Returns:
        log-probability of every scored forget token [N], the row each belongs to [N], and the scores of the retain rows, or
        None where the batch has none.
    """
    if batch.retain is None:
        return *scored_log_probabilities(model, batch.forget), None
    count, size = len(batch.forget["input_ids"]), len(batch.retain["input_ids"])
    values, rows = scored_log_probabilities(model, _stack(batch.forget, batch.retain))
    first = rows < count
    kept, places = values[~first], rows[~first] - count
    retain = SequenceScores(mean_by_row(-kept, places, size), sum_by_row(kept, places, size))
    return values[first], rows[first], retain


def _scores(model: nn.Module, rows_BL: Mapping[str, Tensor]) -> SequenceScores:
    values, rows = scored_log_probabilities(model, rows_BL)
    size = len(rows_BL["input_ids"])
    return SequenceScores(loss=mean_by_row(-values, rows, size), log_probability=sum_by_row(values, rows, size))


def _stack(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Two padded batches as one; the shorter is padded further with masked zeros."""
    length = max(first["input_ids"].shape[1], second["input_ids"].shape[1])
    return {name: torch.cat([F.pad(part[name], (0, length - part[name].shape[1])) for part in (first, second)]) for name in first}

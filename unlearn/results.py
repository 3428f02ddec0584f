"""What a training run reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainingResult:
    """What a training run did.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the records.
        stopped: the stop rule's reason, or None where it ran to its end.
        tokens: tokens that went through the model, in all processes, padding not counted; several processes fill up a pass
            that does not divide among them.
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
    """Several trainings as one: steps, epochs, tokens and seconds added, the loss curves left out."""
    return TrainingResult(
        steps=sum(result.steps for result in results),
        epochs=sum(result.epochs for result in results),
        stopped=None,
        tokens=sum(result.tokens for result in results),
        seconds=sum(result.seconds for result in results),
    )


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, wrapped in its adapter where one was attached, what the training did, and how its step was chosen."""

    model: Any
    result: TrainingResult
    selection: Mapping[str, Any] | None = None

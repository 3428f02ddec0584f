"""Losses over pairs of forget and retain records, with their weight in an optimizer step.

A pair is two numbers (`unlearn.training.schedule`). A loss knows the records' windows, makes a batch of those that are asked for,
and says how much each microbatch weighs, so that a step may be split in any way and its loss stays the mean over all of its items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from unlearn.training.initial_outputs import Reference
from unlearn.training.method import Batch, Objective, Progress
from unlearn.training.penalty import Anchor
from unlearn.training.schedule import Pair
from verify.data.encoding import Encoded, collate
from verify.models.log_probabilities import scored_log_probabilities


class PairLoss(Protocol):
    """A loss over pairs of records."""

    def __call__(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """Compute the mean loss of a microbatch's items, a scalar."""
        ...

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Return how many items (tokens or records) the mean is over."""
        ...

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """Return how many tokens pass through the model, without padding."""
        ...


@dataclass(frozen=True, eq=False)
class LikelihoodLoss:
    """Mean negative log-likelihood over all scored tokens; every token weighs the same.

    Attributes:
        windows: one for each record of the sampler.
        pad_token_id: fills batches up.
    """

    windows: Sequence[Encoded]
    pad_token_id: int

    def __call__(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """See `PairLoss`."""
        batch = _batch([self.windows[index] for index, _ in pairs], self.pad_token_id, device)
        return -scored_log_probabilities(model, batch)[0].mean()

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Count scored tokens."""
        return sum(int(self.windows[index].scored.sum()) for index, _ in pairs)

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """See `PairLoss`."""
        return sum(len(self.windows[index].input_ids) for index, _ in pairs)


@dataclass(frozen=True, eq=False)
class ObjectiveLoss:
    """An unlearning objective's loss; every forget record weighs the same.

    Attributes:
        objective: gives the loss of a batch.
        windows: by role; "alternative" goes with "forget" row by row, "retain" is paired by the sampler.
        reference: what the model before unlearning thought of them.
        progress: where the run stands; the trainer keeps it up to date.
        pad_token_id: fills batches up.
        anchor: holds the weights near where they were, or None.
    """

    objective: Objective
    windows: Mapping[str, Sequence[Encoded]]
    reference: Reference
    progress: Progress
    pad_token_id: int
    anchor: Anchor | None = None

    def __call__(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """See `PairLoss`."""
        rows = self._rows(pairs)
        parts = {role: _batch(found, self.pad_token_id, device) for role, found in self._chosen(rows).items()}
        batch = Batch(parts["forget"], parts.get("retain"), parts.get("alternative"), self.progress)
        loss = self.objective.loss(model, batch, self.reference.of(rows, device))
        return loss if self.anchor is None else loss + self.anchor.penalty(model)

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Count forget records."""
        return len(pairs)

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """See `PairLoss`."""
        return sum(len(window.input_ids) for found in self._chosen(self._rows(pairs)).values() for window in found)

    def _rows(self, pairs: Sequence[Pair]) -> dict[str, list[int]]:
        """Return the windows of each role that the pairs name."""
        own, partners = [index for index, _ in pairs], [partner for _, partner in pairs]
        return {role: partners if role == "retain" else own for role, found in self.windows.items() if found}

    def _chosen(self, rows: Mapping[str, Sequence[int]]) -> dict[str, list[Encoded]]:
        return {role: [self.windows[role][row] for row in numbers] for role, numbers in rows.items()}


def _batch(windows: Sequence[Encoded], pad_token_id: int, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in collate(windows, pad_token_id).items()}

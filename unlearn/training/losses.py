"""Losses over pairs of forget and retain records, with their weight in an optimizer step.

A pair is two indices (`unlearn.training.schedule`). A loss holds the records' windows, collates those of a microbatch, and reports
the microbatch's weight, so that a step can be split in any way and its loss is still the mean over all of its items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from unlearn.training.initial_outputs import InitialOutputs
from unlearn.training.method import Batch, Objective, Progress
from unlearn.training.scored_batch import held
from verify.data.encoding import Encoded, collate
from verify.errors import InputError
from verify.models.log_probabilities import scored_log_probabilities
from verify.training.schedule import Pair


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
    """Mean negative log-likelihood over all scored tokens; every token has the same weight.

    Attributes:
        windows: one for each index of the sampler.
        pad_token_id: pads the batches.
    """

    windows: Sequence[Encoded]
    pad_token_id: int

    def __call__(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """See `PairLoss`."""
        batch = _batch([self.windows[index] for index, _ in pairs], self.pad_token_id, device)  # each tensor [B, L]
        return -scored_log_probabilities(model, batch)[0].mean()

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Count scored tokens."""
        return sum(int(self.windows[index].scored.sum()) for index, _ in pairs)

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """See `PairLoss`."""
        return sum(len(self.windows[index].input_ids) for index, _ in pairs)


@dataclass(frozen=True, eq=False)
class ObjectiveLoss:
    """An unlearning objective's loss; every forget record has the same weight.

    Attributes:
        objective: computes the loss of a batch.
        windows: by role; "alternative" corresponds to "forget" row by row, "retain" is paired by the sampler.
        initial: outputs of the model before unlearning.
        progress: progress of the run; the trainer keeps it up to date.
        pad_token_id: pads the batches.
    """

    objective: Objective
    windows: Mapping[str, Sequence[Encoded]]
    initial: InitialOutputs
    progress: Progress
    pad_token_id: int

    def __call__(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """See `PairLoss`."""
        return self.objective.loss(model, self._parts(pairs, device), self._initial(pairs, device))

    def of_retain(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """Compute the same loss with a gradient to the outputs on retain records alone (`unlearn.training.gradients`).

        Raises:
            InputError: the objective computes its outputs by other means than `unlearn.training.scored_batch`.
        """
        batch = self._parts(pairs, device)
        with held(model, *(part for part in (batch.forget, batch.alternative) if part is not None)) as now:
            loss = self.objective.loss(model, batch, self._initial(pairs, device))
        # A step may read retain records alone, or forget records alone; but one pass from elsewhere may be over any of them.
        if now.elsewhere or not now.used:
            raise InputError(
                f"{type(self.objective).__name__} computes its outputs by itself, so that its gradient cannot be divided. Take "
                "them from unlearn.training.scored_batch, or leave out --project-gradients and --separate-moments."
            )
        return loss

    def weight(self, pairs: Sequence[Pair]) -> int:
        """Count forget records."""
        return len(pairs)

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """See `PairLoss`."""
        return sum(len(window.input_ids) for found in self._chosen(self._rows(pairs)).values() for window in found)

    def _parts(self, pairs: Sequence[Pair], device: torch.device) -> Batch:
        """Collate the records of the pairs."""
        parts = {role: _batch(found, self.pad_token_id, device) for role, found in self._chosen(self._rows(pairs)).items()}
        return Batch(parts["forget"], parts.get("retain"), parts.get("alternative"), self.progress)

    def _initial(self, pairs: Sequence[Pair], device: torch.device) -> Mapping[str, Tensor]:
        """Look up the initial outputs for the records of the pairs."""
        return self.initial.of(self._rows(pairs), device)

    def _rows(self, pairs: Sequence[Pair]) -> dict[str, list[int]]:
        """Return, by role, the indices of the windows that the pairs select; retain by partner, the others by record."""
        own, partners = [index for index, _ in pairs], [partner for _, partner in pairs]
        # Roles without windows are left out; -1, the partner of a pair without one, is then never used as an index.
        return {role: partners if role == "retain" else own for role, found in self.windows.items() if found}

    def _chosen(self, rows: Mapping[str, Sequence[int]]) -> dict[str, list[Encoded]]:
        """Return the windows at these indices, by role."""
        return {role: [self.windows[role][row] for row in numbers] for role, numbers in rows.items()}


def _batch(windows: Sequence[Encoded], pad_token_id: int, device: torch.device) -> dict[str, Tensor]:
    """Collate windows into `input_ids`, `attention_mask` and `scored`, each [B, L], on a device."""
    return {name: tensor.to(device) for name, tensor in collate(windows, pad_token_id).items()}

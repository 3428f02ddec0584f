"""Representation misdirection (RMU): steer one layer's hidden states of forget records to a random direction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearn.training.layers import decoder_layers, down_projections, layer_hidden
from unlearn.training.method import Batch, Objective
from unlearn.training.scored_batch import one_pass, split_parts
from verify.io.arguments import checked
from verify.models.log_probabilities import mean_by_row


@checked
@dataclass(frozen=True)
class RMU(Objective):
    """Push the hidden states of forget records towards one random direction and hold those of retain records.

        minimise  mean (h_l(x_f) - c u)^2 + alpha mean (h_l(x_r) - h_l^0(x_r))^2

    h_l is the output of decoder layer l at the positions that predict scored tokens, u a random unit vector; means over width,
    tokens of a row, and rows, in this order. Only the feed-forward output projections of layers l-2 to l are trained (with an
    adapter: the adapter), and the forward pass ends at l. Li et al. 2024 (WMDP, arXiv 2403.03218), section 4. With `adaptive`, c is
    `adaptive` times the mean norm of h_l^0(x_f) (Dang et al. 2024, arXiv 2408.06223), because a fixed c has no effect in deep
    layers.

    Do not expect it to hide membership: the records become improbable in a way that no model without them shows.

    Attributes:
        layer: l, counted from 0; None takes layer 7 of 32, scaled to the model's depth.
        c: length of the target vector.
        adaptive: factor of the adaptive target, usually 5; None uses c.
        alpha: weight of the retain term.
        direction_seed: seed of u.
    """

    layer: int | None = None
    c: float = 6.5
    adaptive: float | None = None
    alpha: float = 1200.0
    direction_seed: int = 0

    idea: ClassVar[str] = "misdirect the hidden states of forget records in one layer"
    paper: ClassVar[str] = "Li et al. 2024 (arXiv 2403.03218); Dang et al. 2024 (arXiv 2408.06223)"
    reference: ClassVar[frozenset[str]] = frozenset({"forget_hidden", "retain_hidden"})
    NEEDS: ClassVar[Mapping[str, str]] = {"c": "no --adaptive"}

    def inner_layer(self, model: nn.Module) -> int:
        """Return the index of decoder layer l, counted from 0."""
        count = len(decoder_layers(model))
        return max(0, min(count - 1, round(7 * count / 32) if self.layer is None else self.layer))

    def trained_parameters(self, model: nn.Module) -> Sequence[nn.Parameter]:
        """Return the feed-forward output projections of layers l-2 to l."""
        layer = self.inner_layer(model)
        return down_projections(model, range(max(0, layer - 2), layer + 1))

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the loss above, a scalar; every row has the same weight."""
        layer = self.inner_layer(model)
        parts = (batch.forget, batch.require_retain())
        # Hidden states h_l of all scored tokens, forget rows first [N, D].
        hidden, _, rows = one_pass(model, parts, lambda module, stacked: layer_hidden(module, stacked, layer))
        (first, forget_rows, forget_size), (second, retain_rows, retain_size) = split_parts(rows, parts)
        forget, retain = hidden[first], hidden[second]
        # Drawn on the CPU, so that u is the same on every device [D].
        generator = torch.Generator().manual_seed(self.direction_seed)
        direction = torch.rand(forget.shape[-1], generator=generator, dtype=torch.float32).to(forget)
        length = self.c if self.adaptive is None else self.adaptive * reference["forget_hidden"].norm(dim=-1).mean()
        aim = length * direction / direction.norm()
        lost = mean_by_row((forget - aim).square().mean(-1), forget_rows, forget_size)
        kept = mean_by_row((retain - reference["retain_hidden"]).square().mean(-1), retain_rows, retain_size)
        return lost.mean() + self.alpha * kept.mean()

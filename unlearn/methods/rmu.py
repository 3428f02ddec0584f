"""Representation misdirection: forget records lose their meaning halfway up, and the rest keeps its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlearn.layers import decoder_layers, down_projections, layer_hidden
from unlearn.methods.base import Batch, Cost, one_pass, split_parts
from verify.arguments import checked
from verify.scoring import mean_by_row


@checked
@dataclass(frozen=True)
class RMU:
    """Push the hidden states of forget records towards one random direction, hold those of retain records.

        minimise  mean (h_l(x_f) - c u)^2 + alpha mean (h_l(x_r) - h_l^0(x_r))^2

    h_l is the output of decoder layer l in front of scored tokens, u a random unit vector; means over width, tokens of a row, and
    rows, in this order. Only the feed-forward output projections of layers l-2 to l are trained (with an adapter: the adapter), and
    the forward pass ends at l. Li et al. 2024 (WMDP, arXiv 2403.03218), section 4. With `adaptive`, c is that many times the mean
    norm of h_l^0(x_f) (Dang et al. 2024, arXiv 2408.06223), because a fixed c does nothing in deep layers.

    Do not expect membership to go: the records become unlikely in a way that no untrained model shows.

    Attributes:
        layer: l, counted from 0; None takes 7 of 32, in proportion.
        c: length of the target.
        adaptive: factor of the adaptive target, usually 5; None uses c.
        alpha: weight of the retain term.
        direction_seed: of u.
    """

    layer: int | None = None
    c: float = 6.5
    adaptive: float | None = None
    alpha: float = 1200.0
    direction_seed: int = 0

    idea: ClassVar[str] = "misdirect the hidden states of forget records in one layer"
    paper: ClassVar[str] = "Li et al. 2024 (arXiv 2403.03218); Dang et al. 2024 (arXiv 2408.06223)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    reference: ClassVar[frozenset[str]] = frozenset({"forget_hidden", "retain_hidden"})
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 10.0, "batch_size": 8}

    @property
    def stop_rule(self) -> None:
        """Bounded below, so none is needed."""
        return None

    def inner_layer(self, model: nn.Module) -> int:
        """l."""
        count = len(decoder_layers(model))
        return max(0, min(count - 1, round(7 * count / 32) if self.layer is None else self.layer))

    def trained_parameters(self, model: nn.Module) -> Sequence[nn.Parameter]:
        """Feed-forward output projections of layers l-2 to l."""
        layer = self.inner_layer(model)
        return down_projections(model, range(max(0, layer - 2), layer + 1))

    def loss(self, model: nn.Module, batch: Batch, reference: Mapping[str, Tensor]) -> Tensor:
        """The scalar above, each row weighing the same."""
        assert batch.retain is not None, "the trainer pairs retain records for objectives with needs_retain"
        layer = self.inner_layer(model)
        parts = (batch.forget, batch.retain)
        hidden, _, rows = one_pass(model, parts, lambda module, stacked: layer_hidden(module, stacked, layer))
        (first, forget_rows, forget_size), (second, retain_rows, retain_size) = split_parts(rows, parts)
        forget, retain = hidden[first], hidden[second]
        generator = torch.Generator().manual_seed(self.direction_seed)
        direction = torch.rand(forget.shape[-1], generator=generator, dtype=torch.float32).to(forget)
        length = self.c if self.adaptive is None else self.adaptive * reference["forget_hidden"].norm(dim=-1).mean()
        aim = length * direction / direction.norm()
        lost = mean_by_row((forget - aim).square().mean(-1), forget_rows, forget_size)
        kept = mean_by_row((retain - reference["retain_hidden"]).square().mean(-1), retain_rows, retain_size)
        return lost.mean() + self.alpha * kept.mean()

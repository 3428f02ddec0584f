"""Are the steps of a training lost in the weights' precision? In bfloat16 most weights do not see a step of 1e-5.

A weight moves only where a step is at least half the distance to the next number that its type can hold: 1/256 of the weight
itself in bfloat16, 1/2048 in float16. An unlearning whose steps are smaller leaves the model as it was, and nothing else says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.training.fsdp import is_sharded

LOOKED_AT = 1024
"""Weights of each tensor, some of every row and column: an odd distance apart."""
MOST_STAND = 0.5
"""Share of weights that moved below which a run is said to be lost in rounding."""
HALF = (torch.bfloat16, torch.float16)


class Rounding:
    """Looks at some of the weights in half precision that a run trains, before and after."""

    def __init__(self, model: nn.Module, trained: Sequence[nn.Parameter] | None = None) -> None:
        """Args: the model; what of it is trained, where that is not all that asks for gradients."""
        chosen = {id(parameter) for parameter in (model.parameters() if trained is None else trained)}
        self.names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
        self.before: Mapping[str, Tensor] = {} if is_sharded(model) else self._some(model)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What to report of a run that trained whole weights in half precision; nothing of any other."""
        if not self.before:
            return {}
        after = self._some(model)
        moved = torch.cat([(after[name] != value) for name, value in self.before.items() if name in after] or [torch.zeros(0)])
        if not len(moved):
            return {}
        share = float(moved.float().mean())
        found: dict[str, Any] = {"weights_moved": share}
        if share < MOST_STAND:
            found["rounding_warning"] = (
                f"{share:.0%} of the weights moved: in half precision steps this small are rounded away. Take --dtype float32, "
                "with --bf16 where it is to be as fast, or a higher --learning-rate."
            )
        return found

    def _some(self, model: nn.Module) -> dict[str, Tensor]:
        return {
            name: parameter.detach().flatten()[:: parameter.numel() // LOOKED_AT | 1].clone()
            for name, parameter in model.named_parameters()
            if name in self.names and parameter.dtype in HALF and parameter.requires_grad
        }

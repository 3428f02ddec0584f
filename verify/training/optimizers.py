"""Optimizers: AdamW as the trainer sets it up, and Sophia."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers.trainer_pt_utils import get_parameter_names

from verify.provenance.training_log import OPEN_OPTIONS


class Sophia(Optimizer):
    """Sophia (Liu et al. 2023, arXiv 2305.14342), as used for second-order unlearning (Jia et al. 2024, arXiv 2404.18239).

        m <- b1 m + (1 - b1) g,    h <- b2 h + (1 - b2) g^2
        theta <- theta - lr clip(m / max(rho h, eps), -1, 1)

    h is the empirical Fisher, the mean of squared gradients, as in the unlearning paper; no further backward pass is taken.
    Its learning rate is that of a sign step: 5e-6 where AdamW takes 1e-5.

    Args:
        params: parameters or groups of them.
        lr: the largest change of a weight in a step.
        betas: b1, b2.
        rho: scale of h; the larger, the fewer coordinates are clipped.
        eps: lower bound of the denominator, for flat directions.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-6,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "rho": rho, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"], state["hessian"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                mean, hessian = state["mean"], state["hessian"]
                mean.lerp_(parameter.grad, 1 - first)  # m <- b1 m + (1 - b1) g
                hessian.mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = mean / (group["rho"] * hessian).clamp_min(group["eps"])
                parameter.sub_(direction.clamp_(-1, 1), alpha=group["lr"])
        return loss


UNDECAYED = ["bias", "layernorm", "rmsnorm", r"(?:^|\.)norm(?:$|\.)", "_norm"]
"""Parameter names that `transformers` excludes from weight decay."""


def optimizer_of(model: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Build the optimizer that the trainer uses, over the same parameter groups in the same order."""
    decay = OPEN_OPTIONS["weight_decay"] if options["weight_decay"] is None else options["weight_decay"]
    decayed = set(get_parameter_names(model, [nn.LayerNorm], UNDECAYED))  # type: ignore[no-untyped-call]
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": decay},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]
    if options.get("optimizer", "adamw") == "sophia":
        return Sophia(groups, lr=1e-5)  # the caller sets the learning rate of every step
    return torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.999), eps=1e-8, fused=True)

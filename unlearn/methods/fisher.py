"""Fisher forgetting: noise where the retain set does not mind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.methods.base import Context, Cost, Outcome
from unlearn.weights import Search, assign, copy_weights, diagonal_fisher, require_scales, sample
from verify.arguments import checked
from verify.errors import InputError


@checked
@dataclass(frozen=True)
class Fisher:
    """Add noise to every weight (of a model that is an adapter, the adapter's), the more the less the retain set depends on it.

        theta = theta_0 + s F_r^(-1/4) e,  e standard normal

    F_r is the mean squared gradient over retain records; F_r^(-1/4) is cut at its `clip` quantile and scaled to the weights' root
    mean square, tensor by tensor. Golatkar et al. 2020 (arXiv 1911.04933), section 5. s is searched as for task_vector.

    Do not expect forgetting of single records: the noise knows the retain set alone, and takes whatever it does not need.

    Attributes:
        clip: quantile of F_r^(-1/4) at which it is cut.
        fisher_records: at most so many retain records estimate F_r, drawn by the seed.
        noise_seed: of e.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates, in increasing order.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    clip: float = 0.9
    fisher_records: int = 400
    noise_seed: int = 0
    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
    control_records: int = 200

    idea: ClassVar[str] = "noise where the retain set does not depend on the weights"
    paper: ClassVar[str] = "Golatkar et al. 2020 (arXiv 1911.04933)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)
        if not 0 < self.clip <= 1:
            raise InputError(f"--clip must be above 0 and at most 1, got {self.clip}.")

    def edit(self, context: Context) -> Outcome:
        """One Fisher estimate, one search."""
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        retain = sample(context.retain, self.fisher_records, context.options.seed)
        generator = torch.Generator().manual_seed(self.noise_seed)
        noise = {}
        for name, curvature in diagonal_fisher(context.loaded, retain).items():
            weight, freedom = original[name], (curvature + 1e-12) ** -0.25
            spread = freedom.clamp_max(_quantile(freedom, self.clip))
            size = (weight.square().mean() / spread.square().mean()).sqrt()
            noise[name] = size * spread * torch.randn(weight.shape, generator=generator).to(weight)

        def apply(scale: float) -> None:
            assign(model, {name: weight + scale * noise[name] for name, weight in original.items()})

        return Outcome(model, None, Search(self.tolerance, self.control_records).run(context, self.scales, apply))


def _quantile(values: Tensor, share: float) -> Tensor:
    """A quantile of any number of values (torch.quantile takes at most 16 million)."""
    flat = values.reshape(-1)
    return flat.kthvalue(max(1, round(share * len(flat)))).values

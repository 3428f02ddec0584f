"""Fisher forgetting: add noise to weights with low Fisher information on the retain set."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.weights import Search, copy_weights, diagonal_fisher, require_scales, sample
from verify.errors import InputError
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class Fisher(WeightEdit):
    """Add noise to every weight (or, of an adapter, to the adapter's), more where the retain set depends on it less.

        theta = theta_0 + s F_r^(-1/4) e,  e standard normal

    F_r is the mean squared gradient over retain records; F_r^(-1/4) is clipped at its `clip` quantile and scaled to the weights'
    root mean square, tensor by tensor. Golatkar et al. 2020 (arXiv 1911.04933), section 5. s is searched as in task_vector.

    Do not expect single records to be forgotten: the noise depends on the retain set alone, and removes
    all that it does not need.

    Attributes:
        clip: quantile of F_r^(-1/4) at which it is clipped.
        fisher_records: maximum number of retain records to estimate F_r on, drawn with the seed.
        noise_seed: seed of e.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates for the scale, in increasing order.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
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
    used_options: ClassVar[frozenset[str] | None] = frozenset({"seed", "bf16"})

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)
        if not 0 < self.clip <= 1:
            raise InputError(f"--clip must be above 0 and at most 1, got {self.clip}.")

    def edit(self, context: Context) -> Outcome:
        """Estimate the Fisher diagonal once, then search the noise scale."""
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        retain = sample(context.retain, self.fisher_records, context.options.seed)
        generator = torch.Generator().manual_seed(self.noise_seed)
        noise = {}  # s = 1: each tensor's noise has the root mean square of its weights
        for name, curvature in diagonal_fisher(context.loaded, retain).items():
            weight, freedom = original[name], (curvature + 1e-12) ** -0.25
            # The quantile by kthvalue: torch.quantile takes at most 16 million elements.
            rank = max(1, round(self.clip * freedom.numel()))
            spread = freedom.clamp_max(freedom.reshape(-1).kthvalue(rank).values)
            size = (weight.square().mean() / spread.square().mean()).sqrt()
            noise[name] = size * spread * torch.randn(weight.shape, generator=generator).to(weight)
        search = Search(self.tolerance, self.control_records)
        return Outcome(model, None, search.run_along(context, self.scales, original, noise))

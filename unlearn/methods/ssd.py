"""Selective synaptic dampening (SSD): shrink weights that matter more to the forget set than to all data."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.weights import Search, assign, copy_weights, diagonal_fisher, sample
from verify.errors import InputError
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class SSD(WeightEdit):
    """Dampen weights that the forget set depends on more than all data, in proportion; no training steps.

        where F_f > alpha F_D:  theta = min(lambda F_D / F_f, 1) theta_0

    F is the mean squared gradient over records: F_f of the forget set, F_D of forget and retain records together. Foster et al.
    2024 (arXiv 2308.07707), section 3. alpha is searched: of the thresholds, the one that forgets most within the tolerance.

    Do not use it for a forget set that is spread over many kinds of text: its Fisher information resembles that of all data.

    Attributes:
        dampening: lambda.
        thresholds: candidates for alpha, the gentlest (largest) first.
        fisher_records: maximum number of retain records to estimate F_D on, drawn with the seed.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
    """

    dampening: float = 1.0
    thresholds: tuple[float, ...] = (100.0, 50.0, 30.0, 20.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.5)
    fisher_records: int = 400
    tolerance: float = 0.05
    control_records: int = 200

    idea: ClassVar[str] = "shrink the weights that matter more to the forget set than to all data"
    paper: ClassVar[str] = "Foster et al. 2024 (arXiv 2308.07707)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    used_options: ClassVar[frozenset[str] | None] = frozenset({"seed", "bf16"})

    def __post_init__(self) -> None:
        Search(self.tolerance, self.control_records)
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds, reverse=True) or self.thresholds[-1] <= 0:
            raise InputError(f"--thresholds must be positive numbers in decreasing order, got {self.thresholds}.")

    def edit(self, context: Context) -> Outcome:
        """Estimate two Fisher diagonals, then search the dampening threshold."""
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        retain = sample(context.retain, self.fisher_records, context.options.seed)
        forget, rest = diagonal_fisher(context.loaded, context.forget), diagonal_fisher(context.loaded, retain)
        # F_D is the mean over all records, however few of the retain set it was estimated on.
        share = len(context.forget) / (len(context.forget) + len(context.retain))
        whole = {name: share * forget[name] + (1 - share) * rest[name] for name in original}
        selected = {0.0: 0.0}  # share of the weights that was dampened, by strength 1 / alpha

        def apply(strength: float) -> None:
            edited, count = dict(original), 0
            for name, weight in original.items():
                chosen = strength * forget[name] > whole[name]  # none at strength 0, which restores the model
                edited[name] = torch.where(chosen, (self.dampening * whole[name] / forget[name]).clamp_max(1.0) * weight, weight)
                count += int(chosen.sum())
            selected[strength] = count / sum(weight.numel() for weight in original.values())
            assign(model, edited)

        facts = Search(self.tolerance, self.control_records).run(context, [1 / alpha for alpha in self.thresholds], apply)
        facts["alpha"] = 1 / facts["scale"] if facts["scale"] else None
        facts["selected_share"] = selected[facts["scale"]]
        return Outcome(model, None, facts)

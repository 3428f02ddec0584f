"""Selective synaptic dampening: shrink the weights that matter more to the forget set than to all data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from unlearn.methods.base import Context, Cost, Outcome
from unlearn.weights import Search, assign, copy_weights, diagonal_fisher, sample
from verify.arguments import checked
from verify.errors import InputError


@checked
@dataclass(frozen=True)
class SSD:
    """Dampen weights by how much more the forget set depends on them than the data do as a whole. No training steps.

        where F_f > alpha F_D:  theta = min(lambda F_D / F_f, 1) theta_0

    F is the mean squared gradient over records: F_f of the forget set, F_D of forget and retain records together. Foster et al.
    2024 (arXiv 2308.07707), section 3. alpha is searched: of the thresholds, the one that forgets most within the tolerance.

    Do not use it for a forget set that is spread over many kinds of text: its Fisher looks like everybody's.

    Attributes:
        dampening: lambda.
        thresholds: candidates for alpha, the gentlest (largest) first.
        fisher_records: at most so many retain records estimate F_D, drawn by the seed.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    dampening: float = 1.0
    thresholds: tuple[float, ...] = (100.0, 50.0, 30.0, 20.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.5)
    fisher_records: int = 400
    tolerance: float = 0.05
    control_records: int = 200

    idea: ClassVar[str] = "shrink the weights that matter more to the forget set than to all data"
    paper: ClassVar[str] = "Foster et al. 2024 (arXiv 2308.07707)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        Search(self.tolerance, self.control_records)
        if not self.thresholds or list(self.thresholds) != sorted(self.thresholds, reverse=True) or self.thresholds[-1] <= 0:
            raise InputError(f"--thresholds must be positive numbers in decreasing order, got {self.thresholds}.")

    def edit(self, context: Context) -> Outcome:
        """Two Fisher estimates, one search."""
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        retain = sample(context.retain, self.fisher_records, context.options.seed)
        forget, rest = diagonal_fisher(context.loaded, context.forget), diagonal_fisher(context.loaded, retain)
        # Of all records, not of those looked at: however few stand for the retain set, F_D is the mean over both sets.
        share = len(context.forget) / (len(context.forget) + len(context.retain))
        whole = {name: share * forget[name] + (1 - share) * rest[name] for name in original}
        selected = {0.0: 0.0}

        def apply(strength: float) -> None:
            edited, count = dict(original), 0
            for name, weight in original.items():
                chosen = strength * forget[name] > whole[name]  # never at strength 0
                edited[name] = torch.where(chosen, (self.dampening * whole[name] / forget[name]).clamp_max(1.0) * weight, weight)
                count += int(chosen.sum())
            selected[strength] = count / sum(weight.numel() for weight in original.values())
            assign(model, edited)

        facts = Search(self.tolerance, self.control_records).run(context, [1 / alpha for alpha in self.thresholds], apply)
        facts["alpha"] = 1 / facts["scale"] if facts["scale"] else None
        facts["selected_share"] = selected[facts["scale"]]
        return Outcome(model, None, facts)

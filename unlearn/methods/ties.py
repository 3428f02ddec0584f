"""TIES merging of an over-forgetting and an under-forgetting model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.methods.npo import NPO
from unlearn.training.lora import merged, require_whole
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.options import learning_rate_of, together
from unlearn.training.run import Run, run_objective
from unlearn.training.weights import Search, assign, copy_weights, require_scales
from verify.errors import InputError
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class Ties(WeightEdit):
    """Unlearn twice, too little and too much, and merge the changes by trimming, electing signs, and averaging.

        theta = theta_0 + lambda ties(theta_under - theta_0, theta_over - theta_0)

    Yadav et al. 2023 (arXiv 2306.01708), section 4, on a pair of NPO runs as in Xu et al. 2025 (arXiv 2503.21088). Trim: of each
    change the largest `density` stays. Elect: an element's sign is that of the larger total. Merge: the mean of those with that
    sign. lambda is searched as for task_vector.

    Do not expect it to know the never-trained level: it lies between the two, but where is decided by the control metric alone. Do
    not use it on a model that is an adapter itself: merge that first.

    Attributes:
        under: multiple of the learning rate of the run that forgets too little.
        over: multiple of the learning rate of the run that forgets too much.
        density: share of elements of each change that stays.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates, in increasing order.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    under: float = 0.3
    over: float = 3.0
    density: float = 0.5
    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    control_records: int = 200

    idea: ClassVar[str] = "merge an under- and an over-forgetting model where their changes agree"
    paper: ClassVar[str] = "Yadav et al. 2023 (arXiv 2306.01708); Xu et al. 2025 (arXiv 2503.21088)"
    cost: ClassVar[Cost] = "steps on forget and retain sets"
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)
        if not 0 < self.density <= 1 or not 0 < self.under < self.over:
            raise InputError("ties needs --density above 0 and at most 1, and --under between 0 and --over.")

    def edit(self, context: Context) -> Outcome:
        """Run twice, merge, and search the scale."""
        require_whole(context.loaded, "ties")
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        changes, results = [], []
        for number, factor in enumerate((self.under, self.over)):
            options = dataclasses.replace(context.options, learning_rate=learning_rate_of(context.options) * factor)
            work = context.work_dir / str(number)
            trained = run_objective(context.loaded, NPO(), Run(context.forget, options, work, retain=context.retain))
            changes.append(
                {name: weight - original[name] for name, weight in copy_weights(merged(trained.model, options.seed)).items()}
            )
            assign(model, original)
            results.append(trained.result)
        merge = {name: ties_merge([change[name] for change in changes], self.density) for name in original}

        def apply(scale: float) -> None:
            assign(model, {name: weight + scale * merge[name] for name, weight in original.items()})

        facts = Search(self.tolerance, self.control_records).run(context, self.scales, apply)
        return Outcome(model, together(results), facts)


def ties_merge(changes: list[Tensor], density: float) -> Tensor:
    """Trim, elect signs and merge: changes of one shape in, one of that shape out."""
    trimmed = torch.stack([_trim(change, density) for change in changes])
    elected = trimmed.sum(0).sign()
    agreeing = trimmed * (trimmed.sign() == elected)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp_min(1)


def _trim(change: Tensor, density: float) -> Tensor:
    """Keep the largest `density` share of the elements and zero the others."""
    size = change.numel()
    kept = max(1, round(density * size))
    cut = change.abs().reshape(-1).kthvalue(size - kept + 1).values
    return change * (change.abs() >= cut)

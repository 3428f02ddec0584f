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
from unlearn.training.weights import Search, assign, copy_weights, kth_largest, require_scales
from verify.errors import InputError
from verify.io.arguments import checked
from verify.io.progress import phase


@checked
@dataclass(frozen=True)
class Ties(WeightEdit):
    """Unlearn twice, too little and too much, and merge both weight changes by trimming, electing signs, and averaging.

        theta = theta_0 + lambda ties(theta_under - theta_0, theta_over - theta_0)

    Yadav et al. 2023 (arXiv 2306.01708), section 4, on a pair of NPO runs as in Xu et al. 2025 (arXiv 2503.21088). Trim: keep
    the largest elements of each change, a share of `density`. Elect: an element's sign is that of the sum. Merge: average the
    changes with that sign. lambda is searched as in task_vector.

    Do not expect it to find the never-trained level: it lies between the two, but the control metric alone decides where. Do not
    use it on a model that is an adapter itself: merge that first.

    Attributes:
        under: multiple of the learning rate for the run that forgets too little.
        over: multiple of the learning rate for the run that forgets too much.
        density: share of elements of each change that is kept.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates for the scale, in increasing order.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
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
        with phase("unlearning twice", main=True) as progress:
            for number, factor in enumerate((self.under, self.over)):
                progress(number / 2, 1 / 2)
                options = dataclasses.replace(context.options, learning_rate=learning_rate_of(context.options) * factor)
                work = context.work_dir / str(number)
                trained = run_objective(context.loaded, NPO(), Run(context.forget, options, work, retain=context.retain))
                changes.append(
                    {name: weight - original[name] for name, weight in copy_weights(merged(trained.model, options.seed)).items()}
                )
                assign(model, original)
                results.append(trained.result)
        merge = {name: ties_merge([change[name] for change in changes], self.density) for name in original}
        facts = Search(self.tolerance, self.control_records).run_along(context, self.scales, original, merge)
        return Outcome(model, together(results), facts)


def ties_merge(changes: list[Tensor], density: float) -> Tensor:
    """Merge K changes of one tensor into one of the same shape: trim, elect signs, average."""
    count = round(density * changes[0].numel())
    trimmed = torch.stack([change * (change.abs() >= kth_largest(change.abs(), count)) for change in changes])  # [K, ...]
    elected = trimmed.sum(0).sign()
    agreeing = trimmed * (trimmed.sign() == elected)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp_min(1)

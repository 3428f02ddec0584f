"""NegMerge: subtract the sign-consensus of several task vectors."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from unlearn.training.lora import merged, require_whole
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.options import learning_rate_of, together
from unlearn.training.run import Run, train_records
from unlearn.training.weights import Search, assign, copy_weights, require_scales
from verify.errors import InputError
from verify.io.arguments import checked
from verify.io.progress import phase


@checked
@dataclass(frozen=True)
class NegMerge(WeightEdit):
    """Train on the forget set with several settings and subtract the elements whose sign they agree on.

        theta = theta_0 - lambda mean_k tau_k * 1[sign tau_1 = ... = sign tau_K]

    Kim et al. 2024 (arXiv 2410.05583), section 3. A single task vector depends on its hyper-parameters; what several have in common
    is due to the records. lambda is searched as in task_vector.

    Do not use it where one fine-tune on the forget set is already expensive: it takes one per setting. Do not use it on a model
    that is an adapter itself: merge that first.

    Attributes:
        rates: multiples of the learning rate, one training each, with a seed of its own.
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates for the scale, in increasing order.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
    """

    rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    control_records: int = 200

    idea: ClassVar[str] = "subtract the weight changes that several trainings on the forget set agree on"
    paper: ClassVar[str] = "Kim et al. 2024 (arXiv 2410.05583)"
    cost: ClassVar[Cost] = "a fine-tune on the forget set"
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)
        if len(self.rates) < 2 or min(self.rates) <= 0:
            raise InputError(f"--rates needs at least two positive multiples of the learning rate, got {self.rates}.")

    def edit(self, context: Context) -> Outcome:
        """Train once per rate, keep the common part, and search lambda."""
        require_whole(context.loaded, "negmerge")
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        # Running sums of tau_k and of its signs: two copies of the weights, however many trainings there are.
        total = {name: torch.zeros_like(weight) for name, weight in original.items()}
        votes = {name: torch.zeros_like(weight) for name, weight in original.items()}
        results = []
        with phase("fine-tuning at every rate", main=True) as progress:
            for number, factor in enumerate(self.rates):
                progress(number / len(self.rates), 1 / len(self.rates))
                rate, seed = learning_rate_of(context.options) * factor, context.options.seed + number
                options = dataclasses.replace(context.options, learning_rate=rate, seed=seed)
                trained = train_records(context.loaded, Run(context.forget, options, context.work_dir / str(number)))
                for name, weight in copy_weights(merged(trained.model, seed)).items():
                    tau = weight - original[name]
                    total[name] += tau
                    votes[name] += tau.sign()
                assign(model, original)
                results.append(trained.result)
        count = len(self.rates)
        change = {name: -value / count * (votes[name].abs() == count) for name, value in total.items()}
        facts = Search(self.tolerance, self.control_records).run_along(context, self.scales, original, change)
        agreed = sum(int(torch.count_nonzero(tensor)) for tensor in change.values())
        facts["agreed_share"] = agreed / sum(tensor.numel() for tensor in change.values())
        return Outcome(model, together(results), facts)

"""LoRA negation: train an adapter on the forget set and subtract its weight change."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearn.training.lora import require_whole
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.options import ADAPTER_OPTIONS
from unlearn.training.run import Run, train_records
from unlearn.training.weights import Search, require_scales
from verify.io.arguments import checked
from verify.training.shard_sum import delta_weights


@checked
@dataclass(frozen=True)
class LoraNegation(WeightEdit):
    """Train an adapter on the forget set and subtract its weight change.

        W = W_0 - lambda (alpha / r) B A

    Zhang et al. 2023 (arXiv 2306.14870), section 3, on the product BA: negating the factors, or adding adapters by PEFT's
    "linear" combination, does not subtract the weight change. Only the changes of adapted layers are held beside the model. lambda
    is searched as in task_vector.

    Do not use it on a model that is an adapter itself: merge that first.

    Attributes:
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates for the scale, in increasing order.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
    """

    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    control_records: int = 200

    idea: ClassVar[str] = "subtract the weight change of an adapter trained on the forget set"
    paper: ClassVar[str] = "Zhang et al. 2023 (arXiv 2306.14870)"
    cost: ClassVar[Cost] = "a fine-tune on the forget set"
    NEEDS: ClassVar[Mapping[str, str]] = dict.fromkeys(ADAPTER_OPTIONS, "")  # it always trains an adapter
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)

    def edit(self, context: Context) -> Outcome:
        """Train the adapter, detach it, and search lambda."""
        require_whole(context.loaded, "lora_negation")
        options = dataclasses.replace(context.options, lora=True)
        trained = train_records(context.loaded, Run(context.forget, options, context.work_dir))
        change = {name: -delta for name, delta in delta_weights(trained.model).items()}  # -(alpha / r) B A, adapted layers only
        model = trained.model.unload()
        original = {name: model.get_parameter(name).detach().clone() for name in change}
        facts = Search(self.tolerance, self.control_records).run_along(context, self.scales, original, change)
        return Outcome(model, trained.result, facts)

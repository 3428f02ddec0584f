"""LoRA negation: learn the forget set in an adapter, then apply the adapter's change with a minus sign."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.adapters import require_whole
from unlearn.methods.base import Context, Cost, Outcome
from unlearn.training import train_records
from unlearn.weights import Search, require_scales
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class LoraNegation:
    """Train an adapter on the forget set and subtract the weight change that it stands for.

        W = W_0 - lambda (alpha / r) B A

    Zhang et al. 2023 (arXiv 2306.14870), section 3, on the product BA: negating the factors, or adding adapters by PEFT's
    "linear" combination, is not arithmetic on weight changes. Only the changes of adapted layers are held beside the model. lambda
    is searched as for task_vector.

    Do not use it on a model that is an adapter itself: merge that first.

    Attributes:
        tolerance: share of the control metric (geometric-mean probability of retain tokens) that may be lost.
        scales: candidates, in increasing order.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    control_records: int = 200

    idea: ClassVar[str] = "subtract the weight change of an adapter trained on the forget set"
    paper: ClassVar[str] = "Zhang et al. 2023 (arXiv 2306.14870)"
    cost: ClassVar[Cost] = "a fine-tune on the forget set"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)

    def edit(self, context: Context) -> Outcome:
        """Train the adapter, take it off, search lambda."""
        require_whole(context.loaded, "lora_negation")
        options = dataclasses.replace(context.options, lora=True)
        trained = train_records(context.loaded, context.forget, options, context.work_dir)
        changes, model = delta_weights(trained.model), trained.model.unload()
        original = {name: model.get_parameter(name).detach().clone() for name in changes}

        @torch.no_grad()
        def apply(scale: float) -> None:
            for name, change in changes.items():
                model.get_parameter(name).copy_(original[name] - scale * change)

        return Outcome(model, trained.result, Search(self.tolerance, self.control_records).run(context, self.scales, apply))


@torch.no_grad()
def delta_weights(model: Any, adapter: str = "default") -> dict[str, Tensor]:
    """The weight change of every adapted layer, (alpha / r) B A, by the name of the weight below the adapter."""
    from peft.tuners.lora import LoraLayer

    return {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight(adapter).clone()
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }

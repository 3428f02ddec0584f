"""Task-vector negation: fine-tune on the forget set and subtract the weight change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from unlearn.training.layers import decoder_layers
from unlearn.training.lora import merged, require_whole
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.run import Run, train_records
from unlearn.training.weights import Search, Weights, assign, copy_weights, diagonal_fisher, require_scales, sample
from verify.errors import InputError
from verify.io.arguments import checked

MULTIPLES = (0.0, 0.5, 2.0)
"""Of the whole model's scale, tried for each layer in turn."""


@checked
@dataclass(frozen=True)
class TaskVector(WeightEdit):
    """Subtract the weight change that fine-tuning on the forget set causes.

        theta = theta_0 - lambda tau

    tau is either "model": (theta_0 trained further on D_f) - theta_0, as MUSE does it (Shi et al. 2024, arXiv 2407.06460,
    section 3), or "base": (base trained on D_f) - base, as Ilharco et al. 2023 (arXiv 2212.04089, section 3) define it.
    lambda is searched, because the window between nothing and damage is narrow: of the scales tried, the one that forgets the
    most while the control metric (geometric-mean probability of retain tokens) loses at most `tolerance`. Where a holdout set
    is given, forgetting beyond its loss does not count, so that the search does not over-forget.

    lambda is one number with `per` "model". With "layer" each layer's is then halved, doubled or dropped where that forgets more
    within the tolerance. With "mask" only the share of elements moves that matters most to the forget set against the retain
    set, by the ratio of squared gradients (as SalUn does, Fan et al. 2024, arXiv 2310.12508).

    Do not expect much of it without the search, nor where forget and retain records look alike: their directions overlap. Do not
    use it on a model that is an adapter itself: merge that first.

    Attributes:
        origin: which tau.
        per: what has a lambda of its own.
        mask_share: share of elements that may move, with "mask".
        tolerance: share of the control metric that may be lost.
        scales: candidates for lambda, in increasing order.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    origin: Literal["model", "base"] = "model"
    per: Literal["model", "layer", "mask"] = "model"
    mask_share: float = 0.1
    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    control_records: int = 200

    idea: ClassVar[str] = "subtract the weight change that training on the forget set makes"
    paper: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089); MUSE (arXiv 2407.06460)"
    cost: ClassVar[Cost] = "a fine-tune on the forget set"
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)
        if not 0 < self.mask_share <= 1:
            raise InputError(f"--mask-share must be above 0 and at most 1, got {self.mask_share}.")

    def edit(self, context: Context) -> Outcome:
        """Train for tau, search lambda, and leave the chosen weights in the model."""
        if self.origin == "base" and context.base is None:
            raise InputError("task_vector --origin base needs the model before fine-tuning. Give it with --base DIR.")
        start = context.base if self.origin == "base" else context.loaded
        assert start is not None
        for model in (context.loaded, start):
            require_whole(model, "task_vector")
        before = copy_weights(start.model)
        trained = train_records(start, Run(context.forget, context.options, context.work_dir))
        # An adapter is folded in first: negating its factors A and B would not negate their product.
        tau = {name: tensor - before[name] for name, tensor in copy_weights(merged(trained.model, context.options.seed)).items()}
        assign(start.model, before)
        if self.per == "mask":
            self._mask(context, tau)
        return Outcome(context.loaded.model, trained.result, self._search(context, tau))

    def _search(self, context: Context, tau: Weights) -> dict[str, Any]:
        model, original = context.loaded.model, copy_weights(context.loaded.model)
        search = Search(self.tolerance, self.control_records)

        def apply(scale: float) -> None:
            assign(model, {name: weight - scale * tau[name] for name, weight in original.items()})

        facts = search.run(context, self.scales, apply)
        if self.per == "layer" and facts["scale"]:
            facts["layer_multiples"] = self._per_layer(context, search, original, tau, facts)
        return facts

    def _per_layer(
        self, context: Context, search: Search, original: Weights, tau: Weights, facts: Mapping[str, Any]
    ) -> list[float]:
        """Sweep over the layers once, keeping each change that forgets more within the retain tolerance."""
        model = context.loaded.model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        layers = [{names[id(parameter)] for parameter in layer.parameters()} for layer in decoder_layers(model)]

        def apply(multiples: Sequence[float]) -> None:
            factor = {name: multiple for group, multiple in zip(layers, multiples, strict=True) for name in group}
            scale = facts["scale"]
            assign(model, {name: weight - scale * factor.get(name, 1.0) * tau[name] for name, weight in original.items()})

        best, most = [1.0] * len(layers), search.gain(context, facts["control_loss_allowed"])
        for place in range(len(layers)):
            for multiple in MULTIPLES:
                tried = [*best[:place], multiple, *best[place + 1 :]]
                apply(tried)
                gain = search.gain(context, facts["control_loss_allowed"])
                if gain > most:
                    best, most = tried, gain
        apply(best)
        return best

    def _mask(self, context: Context, tau: Weights) -> None:
        """Zero all but the elements that matter most to the forget set."""
        control = sample(context.retain, self.control_records, context.options.seed)
        wanted, kept = diagonal_fisher(context.loaded, context.forget), diagonal_fisher(context.loaded, control)
        ratio = {name: wanted[name] / (kept[name] + torch.finfo(kept[name].dtype).tiny) for name in tau}
        everything = torch.cat([values.reshape(-1) for values in ratio.values()])
        count = max(1, int(self.mask_share * len(everything)))
        cut = everything.kthvalue(len(everything) - count + 1).values
        for name, values in tau.items():
            values *= ratio[name] >= cut

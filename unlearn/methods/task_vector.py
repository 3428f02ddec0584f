"""Task-vector negation: fine-tune on the forget set and subtract the weight change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unlearn.training.layers import decoder_layers
from unlearn.training.lora import merged, require_whole
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.run import Run, train_records
from unlearn.training.weights import Search, Weights, assign, copy_weights, require_scales, saliency_mask, sample
from verify.errors import InputError
from verify.io.arguments import checked

MULTIPLES = (0.0, 0.5, 2.0)
"""Multiples of the model's scale that are tried for each layer in turn."""


@checked
@dataclass(frozen=True)
class TaskVector(WeightEdit):
    """Subtract the weight change that fine-tuning on the forget set causes.

        theta = theta_0 - lambda tau

    tau is either "model": (theta_0 trained further on D_f) - theta_0, as MUSE does it (Shi et al. 2024, arXiv 2407.06460,
    section 3), or "base": (base trained on D_f) - base, as Ilharco et al. 2023 (arXiv 2212.04089, section 3) define it.
    lambda is searched, because the range between no effect and damage is narrow: of the scales tried, the one that forgets the
    most while the control metric (geometric-mean probability of retain tokens) loses at most `tolerance`. Where a holdout set
    is given, forgetting beyond its loss does not count, so that the search does not over-forget.

    With `per` "model" there is one lambda. With "layer" each layer's lambda is then set to 0, halved or doubled where that forgets
    more within the tolerance. With "mask" only the share of elements changes that matters most to the forget set against the retain
    set, by the ratio of squared gradients (as in SalUn, Fan et al. 2024, arXiv 2310.12508).

    Do not expect much of it without the search, nor where forget and retain records look alike: their directions overlap. Do not
    use it on a model that is an adapter itself: merge that first.

    Attributes:
        origin: where tau comes from.
        per: what has a lambda of its own.
        mask_share: share of elements that may change, with "mask".
        tolerance: share of the control metric that may be lost.
        scales: candidates for lambda, in increasing order.
        control_records: maximum size of the control set, drawn from the retain set with the seed.
    """

    origin: Literal["model", "base"] = "model"
    per: Literal["model", "layer", "mask"] = "model"
    mask_share: float = 0.1
    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    control_records: int = 200

    idea: ClassVar[str] = "subtract the weight change that fine-tuning on the forget set causes"
    paper: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089); MUSE (arXiv 2407.06460)"
    cost: ClassVar[Cost] = "a fine-tune on the forget set"
    NEEDS: ClassVar[Mapping[str, str]] = {"mask_share": "--per mask"}
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        require_scales(self.scales)
        Search(self.tolerance, self.control_records)
        if not 0 < self.mask_share <= 1:
            raise InputError(f"--mask-share must be above 0 and at most 1, got {self.mask_share}.")

    def edit(self, context: Context) -> Outcome:
        """Train to get tau, search lambda, and leave the chosen weights in the model."""
        if self.origin == "base" and context.base is None:
            raise InputError("task_vector --origin base needs the model before fine-tuning. Give it with --base DIR.")
        start = context.base if self.origin == "base" else context.loaded
        assert start is not None
        for model in (context.loaded, start):
            require_whole(model, "task_vector")
        before = copy_weights(start.model)
        trained = train_records(start, Run(context.forget, context.options, context.work_dir))
        # An adapter is merged first: negating its factors A and B would not negate their product.
        after = copy_weights(merged(trained.model, context.options.seed))
        change = {name: before[name] - tensor for name, tensor in after.items()}  # -tau
        assign(start.model, before)
        if self.per == "mask":
            control = sample(context.retain, self.control_records, context.options.seed)
            mask = saliency_mask(context.loaded, context.forget, control, self.mask_share)
            change = {name: step * mask[name] for name, step in change.items()}
        original = before if self.origin == "model" else copy_weights(context.loaded.model)
        search = Search(self.tolerance, self.control_records)
        facts = search.run_along(context, self.scales, original, change)
        if self.per == "layer" and facts["scale"]:
            facts["layer_multiples"] = self._per_layer(context, search, original, change, facts)
        return Outcome(context.loaded.model, trained.result, facts)

    def _per_layer(
        self, context: Context, search: Search, original: Weights, change: Weights, facts: Mapping[str, Any]
    ) -> list[float]:
        """Sweep over the layers once, keeping each multiple that forgets more within the retain tolerance."""
        model = context.loaded.model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        layers = [{names[id(parameter)] for parameter in layer.parameters()} for layer in decoder_layers(model)]

        def apply(multiples: Sequence[float]) -> None:
            # Embeddings and head are in no decoder layer and keep the model's scale.
            scale = {name: facts["scale"] * multiple for group, multiple in zip(layers, multiples, strict=True) for name in group}
            assign(model, {name: weight + scale.get(name, facts["scale"]) * change[name] for name, weight in original.items()})

        best, most = [1.0] * len(layers), search.gain(context, facts["control_loss_allowed"])
        for layer in range(len(layers)):
            for multiple in MULTIPLES:
                tried = [*best[:layer], multiple, *best[layer + 1 :]]
                apply(tried)
                gain = search.gain(context, facts["control_loss_allowed"])
                if gain > most:
                    best, most = tried, gain
        apply(best)
        return best

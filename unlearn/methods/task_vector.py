"""Task-vector negation: learn the forget set harder, then walk the other way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unlearn.adapters import merged
from unlearn.methods.base import Context, Cost, Outcome
from unlearn.training import train_records
from verify.encoding import Encoder, padding_token_id
from verify.errors import InputError
from verify.models import LoadedModel
from verify.records import Record
from verify.token_stats import compute_token_statistics


@dataclass(frozen=True)
class TaskVector:
    """Subtract the direction in weight space that the forget set points to.

        theta = theta_0 - lambda tau

    tau is either "model": (theta_0 trained further on D_f) - theta_0, as MUSE does it (Shi et al. 2024, arXiv 2407.06460,
    section 3), or "base": (base trained on D_f) - base, as Ilharco et al. 2023 (arXiv 2212.04089, section 3) define it.
    lambda is searched, always: the window between no effect and a broken model is narrow. Taken is the scale that forgets
    most while the control metric (geometric-mean probability of retain tokens) loses at most `tolerance`. Where a holdout set
    is given, forgetting beyond its loss does not count, so that the search does not over-forget.

    Do not expect much of it without the search, nor where forget and retain records look alike: their directions overlap.

    Attributes:
        origin: which tau.
        tolerance: share of the control metric that may be lost.
        scales: candidates for lambda, in increasing order.
        control_records: at most so many retain records are the control set, drawn by the seed.
    """

    origin: Literal["model", "base"] = "model"
    tolerance: float = 0.05
    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
    control_records: int = 200

    idea: ClassVar[str] = "subtract the weight change that training on the forget set makes"
    paper: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089); MUSE (arXiv 2407.06460)"
    cost: ClassVar[Cost] = "a fine-tune on the forget set"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-5, "epochs": 5.0, "batch_size": 8}

    def __post_init__(self) -> None:
        if not self.scales or any(scale <= 0 for scale in self.scales) or list(self.scales) != sorted(self.scales):
            raise InputError(f"--scales must be positive numbers in increasing order, got {self.scales}.")
        if not 0 < self.tolerance < 1:
            raise InputError(f"--tolerance must lie between 0 and 1, got {self.tolerance}.")

    def edit(self, context: Context) -> Outcome:
        """Train for tau, search lambda, leave the chosen weights in the model."""
        if self.origin == "base" and context.base is None:
            raise InputError("task_vector --origin base needs the model before fine-tuning. Give it with --base DIR.")
        start = context.base if self.origin == "base" else context.loaded
        assert start is not None
        before = _copy(start.model)
        trained = train_records(start, context.forget, context.options, context.work_dir)
        # An adapter is folded in first: negating its factors A and B would not negate their product.
        tau = {name: tensor - before[name] for name, tensor in _copy(merged(trained.model)).items()}
        _assign(start.model, before)
        return Outcome(context.loaded.model, trained.result, self._search(context, tau))

    def _search(self, context: Context, tau: Mapping[str, Tensor]) -> dict[str, Any]:
        """Try every scale, keep the best, and report the whole curve."""
        model = context.loaded.model
        control = _sample(context.retain, self.control_records, context.options.seed)
        original = _copy(model)
        control_before = _mean_loss(context.loaded, control)
        forget_before = _mean_loss(context.loaded, context.forget)
        level = _mean_loss(context.loaded, context.holdout) if context.holdout else np.inf
        allowed = control_before - np.log1p(-self.tolerance)
        best, best_forgetting, curve = 0.0, min(forget_before, level), []
        for scale in self.scales:
            _assign(model, {name: weight - scale * tau[name] for name, weight in original.items()})
            forget, kept = _mean_loss(context.loaded, context.forget), _mean_loss(context.loaded, control)
            curve.append({"scale": scale, "forget_loss": forget, "control_loss": kept})
            if kept <= allowed and min(forget, level) > best_forgetting:
                best, best_forgetting = scale, min(forget, level)
        _assign(model, {name: weight - best * tau[name] for name, weight in original.items()})
        return {
            "scale": best,
            "control_loss_before": control_before,
            "control_loss_allowed": float(allowed),
            "forget_loss_before": forget_before,
            "search": curve,
        }


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def _assign(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _sample(records: Any, count: int, seed: int) -> list[Record]:
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    return [records[index] for index in sorted(chosen)]


def _mean_loss(loaded: LoadedModel, records: Any) -> float:
    """Mean over records of their loss in nats per token."""
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    statistics = compute_token_statistics(loaded.model, windows, padding_token_id(loaded.tokenizer))
    return float(np.mean([entry.loss for entry in statistics]))

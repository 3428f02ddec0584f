"""Forget and retain parts of an objective's gradient: projection of one against the other, and Adam moments of their own.

An objective is one loss over outputs on forget and on retain records. By the chain rule its gradient is a sum of two parts,

    g = g_f + g_r,    g_f = (d outputs on D_f / d theta)^T dL / d(outputs on D_f),    g_r the same on D_r

and g_r is the gradient of the same loss with the outputs on forget records held constant (`scored_batch.held`), g_f the rest. So
any objective can be divided all of whose outputs come from `unlearn.training.scored_batch`; another one is refused. g_r takes a
forward pass over the batch and a backward pass over its retain rows, in addition to the pass for g; memory grows by two gradients.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn.training import distributed
from unlearn.training.options import GradientOptions, TrainingOptions
from verify.errors import InputError
from verify.training.schedule import Pair

RetainLoss = Callable[[nn.Module, Sequence[Pair], torch.device], Tensor]
"""The loss of a microbatch of pairs, of which only the outputs on retain records have a gradient."""


def require_divisible(options: GradientOptions | None, training: TrainingOptions, *, pairs: bool) -> None:
    """Raise InputError where a run cannot treat the two parts of its gradient apart.

    Args:
        options: options of the gradient.
        training: options of the run.
        pairs: whether its steps read retain records.
    """
    if options is None or not options.divide:
        return
    flags = "--project-gradients and --separate-moments"
    if not pairs:
        raise InputError(
            f"{flags} divide a gradient on forget and retain records, and this method takes no such steps. Leave them out."
        )
    if distributed.count() > 1:
        raise InputError(f"{flags} run in one process. Start the command without torchrun or accelerate launch, or leave them out.")
    if options.separate_moments and training.optimizer != "adamw":
        raise InputError(
            f"--separate-moments keeps moments of AdamW apart. Leave out --optimizer {training.optimizer}, or the flag."
        )


class DividedGradient:
    """The two parts of a step's gradient, from its microbatches to its optimizer step.

    Attributes:
        options: how the parts are joined.
        parameters: the trained weights.
        forget: g_f of every trained weight as the step takes it, by the weight's id; empty before the first step.
    """

    def __init__(self, options: GradientOptions, parameters: Iterable[nn.Parameter], retain_loss: RetainLoss) -> None:
        self.options, self.parameters, self._loss = options, list(parameters), retain_loss
        self._retain: list[Tensor | None] = [None] * len(self.parameters)
        self.forget: dict[int, Tensor] = {}

    def read_retain(self, model: nn.Module, pairs: Sequence[Pair], device: torch.device, share: Any) -> None:
        """Add a microbatch's g_r, times its share of the step."""
        loss = self._loss(model, pairs, device)
        if not loss.requires_grad:  # a step that reads forget records alone
            return
        slopes = torch.autograd.grad(loss * share, self.parameters, allow_unused=True)
        for index, slope in enumerate(slopes):
            if slope is not None:
                kept = self._retain[index]
                self._retain[index] = slope if kept is None else kept.add_(slope)

    @torch.no_grad()
    def join(self) -> None:
        """Replace the whole gradient in the weights by the joined one, after the step's last microbatch."""
        own = [parameter.grad for parameter in self.parameters]
        retain = [_or_zero(part, parameter) for part, parameter in zip(self._retain, self.parameters, strict=True)]
        forget = [_or_zero(whole, part) - part for whole, part in zip(own, retain, strict=True)]
        projected(forget, retain, self.options.project_gradients)
        for parameter, first, second in zip(self.parameters, forget, retain, strict=True):
            parameter.grad = first + second
        self.forget = {id(parameter): part for parameter, part in zip(self.parameters, forget, strict=True)}
        self._retain = [None] * len(self.parameters)

    def scale(self, factor: float) -> None:
        """Scale g_f as clipping scaled the whole gradient."""
        for part in self.forget.values():
            part.mul_(factor)

    def optimizer(self, groups: Iterable[Any], learning_rate: float) -> "SeparateMoments":
        """Create the optimizer that keeps the parts' moments apart."""
        return SeparateMoments(groups, lambda parameter: self.forget.get(id(parameter)), lr=learning_rate)


def projected(forget: Sequence[Tensor], retain: Sequence[Tensor], how: str) -> None:
    """Take the component along the retain gradient out of the forget gradient, in place, as `GradientOptions` says.

    Args:
        forget, retain: the two gradients, a tensor for every weight.
        how: "never", "conflict" or "always".
    """
    if how == "never":
        return
    products = torch.stack([torch.sum(first * second) for first, second in zip(forget, retain, strict=True)])
    squares = torch.stack([torch.sum(part * part) for part in retain])
    if how == "conflict":
        total = products.sum()
        products, squares = total.clamp(max=0.0).expand(len(forget)), squares.sum().expand(len(forget))
    # A retain gradient of zero has no component to take out.
    shares = torch.where(squares > 0, products / squares.clamp_min(torch.finfo(squares.dtype).tiny), 0.0)
    for first, second, share in zip(forget, retain, shares, strict=True):
        first.sub_(share * second)


class SeparateMoments(Optimizer):
    """AdamW with moments of their own for two parts of the gradient, whose steps are added.

        m_k <- b1 m_k + (1 - b1) g_k,    v_k <- b2 v_k + (1 - b2) g_k^2,    k in {f, r}
        theta <- (1 - lr decay) theta - lr sum_k (m_k / (1 - b1^t)) / (sqrt(v_k / (1 - b2^t)) + eps)

    Args:
        params: parameters or groups of them; their `grad` is g_f + g_r.
        forget: returns g_f of a parameter, or None where it is zero.
        lr: learning rate of both.
        betas: b1, b2.
        eps: keeps the denominator above zero.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        forget: Callable[[nn.Parameter], Tensor | None],
        lr: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._forget = forget

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                part = self._forget(parameter)
                first = torch.zeros_like(parameter) if part is None else part
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                self._move(parameter, {"forget": first, "retain": parameter.grad - first}, group)
        return loss

    def _move(self, parameter: nn.Parameter, parts: dict[str, Tensor], group: dict[str, Any]) -> None:
        """Add both parts' steps to a weight."""
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        (b1, b2), count = group["betas"], state["step"]
        for name, gradient in parts.items():
            mean = state.setdefault(f"{name}_mean", torch.zeros_like(parameter)).lerp_(gradient, 1 - b1)
            square = state.setdefault(f"{name}_square", torch.zeros_like(parameter)).mul_(b2)
            square.addcmul_(gradient, gradient, value=1 - b2)
            denominator = (square / (1 - b2**count)).sqrt_().add_(group["eps"])
            parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - b1**count))


def _or_zero(values: Tensor | None, like: Tensor) -> Tensor:
    """Return a gradient, or zeros where a weight has none."""
    return torch.zeros_like(like) if values is None else values

"""Matrix products that sum in another order: the same mathematics, other rounding, as on another processor.

    y = x[:, p] W[:, p]^T,    dL/dx = g[:, r] W[r],    dL/dW = g[q]^T x[q]

with random permutations p, q, r of inputs, rows and outputs. Floating-point addition is not associative, so that every product is
rounded differently; dropout, order of the records and shapes stay as they are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Reordered(TorchFunctionMode):
    """Computes the products of linear layers, forward and backward, in an order of summation drawn from a seed.

    Use it as a `with` block. Attention and sums outside linear layers are computed as always.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._drawn = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace a linear layer's product; any other function is called as it is."""
        named = kwargs or {}
        if func == functional.linear:
            return self._linear(*args, **named)  # PyTorch's layers give all three by position
        if func == torch.addmm and not named:  # Conv1D of the GPT-2 family
            bias, rows, weight = args
            return self._linear(rows, weight.t(), bias)
        return func(*args, **named)

    def _linear(self, given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute `functional.linear` for inputs of shape [..., I] and weights [O, I]."""
        kind = given.device.type
        if torch.is_autocast_enabled(kind):
            given, weight = (one.to(torch.get_autocast_dtype(kind)) for one in (given, weight))
        rows = given.reshape(-1, given.shape[-1])
        orders = [torch.randperm(count, generator=self._drawn).to(rows.device) for count in (rows.shape[1], len(rows), len(weight))]
        product: Tensor = _Product.apply(rows, weight, *orders)  # type: ignore[no-untyped-call]
        if bias is not None:
            product = product + bias.to(product.dtype)
        return product.reshape(*given.shape[:-1], len(weight))


class _Product(torch.autograd.Function):
    """Product of rows [N, I] and weights [O, I]; each sum runs in the order of its permutation."""

    @staticmethod
    def forward(context: Any, rows: Tensor, weight: Tensor, inner: Tensor, outer: Tensor, outputs: Tensor) -> Tensor:
        """Multiply, summing over the inputs in the order `inner`."""
        context.save_for_backward(rows, weight, outer, outputs)
        return rows[:, inner] @ weight[:, inner].t()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sum over the outputs for the inputs' gradient, over the rows for the weights'."""
        rows, weight, outer, outputs = context.saved_tensors
        (gradient,) = gradients
        of_rows = gradient[:, outputs] @ weight[outputs] if context.needs_input_grad[0] else None
        of_weight = gradient[outer].t() @ rows[outer] if context.needs_input_grad[1] else None
        return of_rows, of_weight, None, None, None

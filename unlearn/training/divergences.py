"""Divergences between token distributions, with as few logit-sized arrays as possible.

Shapes: N scored tokens, V vocabulary. All in nats, one value per token, differentiable in the model's logits alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.models.head_values import Reduction, in_cache
from verify.models.log_probabilities import ROWS_AT_ONCE


def cross_entropy_to(logits: Tensor, target: Tensor) -> Tensor:
    """Compute cross entropy, -sum_v q_v log p_v for p = softmax(logits), float32 or wider [N].

    Args:
        logits: the model's logits [N, V].
        target: probabilities q [N, V], a constant. Overwritten: the caller must not use the array afterwards.
    """
    values: Tensor = _CrossEntropyTo.apply(_wide(logits), target)  # type: ignore[no-untyped-call]
    return values


def kl_to(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Compute KL(q || p) for a constant q = softmax(target_logits) and p = softmax(logits) [N]."""
    with torch.no_grad():
        q = _wide(target_logits).softmax(-1)
        # KL(q || p) = H(q, p) - H(q). xlogy takes 0 log 0 as 0; in chunks of rows, so that q log q [N, V] is never held whole.
        entropy = -torch.cat([torch.xlogy(q[rows], q[rows]).sum(-1) for rows in in_cache(len(q), ROWS_AT_ONCE, q.device)])
    return cross_entropy_to(logits, q) - entropy


def kl_reduction(target_logits: Tensor) -> Reduction:
    """Return the reduction of `verify.models.head_values` to `kl_to` for constant target logits [N, V]; its slope is p - q."""

    def reduce(logits: Tensor, rows: slice, with_slopes: bool) -> Tensor:
        log_q = torch.log_softmax(_wide(target_logits[rows]), -1)
        log_p = torch.log_softmax(logits, -1, out=logits)
        q = log_q.exp()
        # Where q underflows to 0, log q is finite and the product 0.
        values: Tensor = torch.linalg.vecdot(q, log_q.sub_(log_p))
        if with_slopes:
            logits.exp_().sub_(q)
        return values

    return reduce


def kl_reduction_of_change(target_logits: Tensor) -> Reduction:
    """Return the same reduction for changes of the logits, d = z - z_q [n, V], in place of the logits.

        KL(q || p) = log sum_v q_v exp(d_v - E_q d),    slope p - q

    Logits in bfloat16 are rounded to multiples of 1/16 where they lie between 8 and 16, of 1/8 above. Two rounded sets of them
    diverge by some thousandths of a nat even where the distributions are alike; d is rounded relative to itself.
    """

    def reduce(change: Tensor, rows: slice, with_slopes: bool) -> Tensor:
        log_p = torch.log_softmax(_wide(target_logits[rows]), -1)  # of q, until the change is added
        q = log_p.exp()
        log_p.add_(change.sub_(torch.linalg.vecdot(q, change)[:, None]))
        values = torch.logsumexp(log_p, -1)
        if with_slopes:
            torch.sub(log_p, values[:, None], out=change).exp_().sub_(q)
        return values

    return reduce


def jensen_shannon_to(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Compute JSD(p, q) = KL(p || m)/2 + KL(q || m)/2 with m = (p + q)/2, at most log 2 [N]; q is a constant."""
    log_p = _wide(logits).log_softmax(-1)
    with torch.no_grad():
        log_q = _wide(target_logits).log_softmax(-1)
    # In log space: m underflows in float32 where both probabilities do.
    log_m = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
    return 0.5 * ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1))


def jensen_shannon_to_token(log_probability: Tensor) -> Tensor:
    """Compute JSD(p, 1[t]) from log p_t alone [N]: every other token contributes p_v log 2 / 2, and they sum to 1 - p_t.

    JSD = [p log(2p/(1+p)) + log(2/(1+p)) + (1 - p) log 2] / 2
    """
    p = log_probability.exp()
    two = torch.log(log_probability.new_tensor(2.0))
    log_mean = torch.log1p(p) - two
    return 0.5 * (p * (log_probability - log_mean) - log_mean + (1 - p) * two)


def spread(logits: Tensor) -> Tensor:
    """Compute the largest logit minus the mean logit of every token [N]."""
    values: Tensor = _Spread.apply(_wide(logits))  # type: ignore[no-untyped-call]
    return values


def without_token(logits: Tensor, tokens: Tensor) -> Tensor:
    """Compute the softmax over all tokens but each row's own, as a constant [N, V]."""
    with torch.no_grad():
        return _wide(logits).scatter(-1, tokens[:, None], float("-inf")).softmax(-1)


def lambert_w(value: Tensor) -> Tensor:
    """Compute Lambert's W (W e^W = value > 0) elementwise, by Newton's method on W e^W - value."""
    w, fixed = torch.log1p(value.detach()), value.detach()
    for _ in range(30):
        w = w - (w * w.exp() - fixed) / (w.exp() * (1 + w))
    # The last step is differentiable: its derivative in `value` is that of W, 1 / (e^W (1 + W)).
    return w - (w * w.exp() - value) / (w.exp() * (1 + w))


def _wide(logits: Tensor) -> Tensor:
    """Convert to float32, since sums over V lose too much in half precision; float64 stays, for tests."""
    return logits if logits.dtype == torch.float64 else logits.float()


class _CrossEntropyTo(torch.autograd.Function):
    """Cross entropy to a constant distribution; reuses the target's memory for the gradient.

    d/dz = p - q. Autograd would keep log p and q, two arrays [N, V]; p - q takes the place of q.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the values [N]."""
        # -sum_v q_v (z_v - logsumexp z) = (logsumexp z - max z) - sum_v q_v (z_v - max z), as sum_v q_v = 1
        top = logits.amax(-1, keepdim=True)  # [N, 1]
        value = torch.logsumexp(logits, -1) - top[:, 0]
        for rows in in_cache(len(logits), ROWS_AT_ONCE, logits.device):
            value[rows] -= (target[rows] * (logits[rows] - top[rows])).sum(-1)
            target[rows] = F.softmax(logits[rows], dim=-1) - target[rows]
        ctx.save_for_backward(target)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Compute the gradient of the logits, in place."""
        (difference,) = ctx.saved_tensors
        return difference.mul_(gradient[:, None]), None


class _Spread(torch.autograd.Function):
    """Largest minus mean logit; keeps the arg max instead of the logits for the backward pass.

    d/dz_v = 1[v = argmax] - 1/V
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        """Compute the values [N]."""
        top, largest = logits.max(-1, keepdim=True)  # values and token ids, [N, 1]
        ctx.save_for_backward(largest)
        ctx.vocabulary = logits.shape[-1]
        return top[:, 0] - logits.mean(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Compute the gradient of the logits."""
        (largest,) = ctx.saved_tensors
        result: Tensor = (-gradient[:, None] / ctx.vocabulary).repeat(1, ctx.vocabulary)
        return result.scatter_add_(-1, largest, gradient[:, None])

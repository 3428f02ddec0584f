"""Stochastic rounding of float32 values to bfloat16 or float16.

Weights that come from a half-precision file lie on that type's grid, whose spacing (the unit in the last place, ulp) is 1/256 to
1/128 of the weight in bfloat16, 1/2048 to 1/1024 in float16. Rounding to nearest returns every weight that training moved by less
than half an ulp to where it started: a whole unlearning can disappear in the final cast. Stochastic rounding takes one of the two
neighbours a <= x <= b on the grid at random,

    P(b) = (x - a) / (b - a),    so that E[rounded x] = x,

so that the change survives in expectation: a sum over many weights (the first-order effect on a loss) is nearly preserved. The
added noise is smaller than that of storing the model in this type in the first place. Gupta et al. 2015 (arXiv 1502.02551).
"""

import hashlib

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
"""The half-precision types."""
AT_ONCE = 1 << 22
"""Elements rounded at a time, to bound the temporary memory."""


@torch.no_grad()
def stochastically_rounded(values: Tensor, dtype: torch.dtype, seed: int, name: str) -> Tensor:
    """Round float32 values to a half-precision type, unbiased; values that the type can hold stay as they are.

    Args:
        values: finite float32 values of any shape.
        dtype: bfloat16 or float16.
        seed, name: determine the random numbers, which depend neither on the device nor on the order of the tensors.

    Returns:
        A tensor of that type; infinite where a value exceeds its range.
    """
    generator = torch.Generator().manual_seed(_seed_of(seed, name))
    flat, rounded = values.reshape(-1), torch.empty(values.numel(), dtype=dtype, device=values.device)
    for first in range(0, len(flat), AT_ONCE):
        part = flat[first : first + AT_ONCE]
        drawn = torch.rand(len(part), generator=generator).to(part.device)  # drawn on the CPU: the same bits for every device
        rounded[first : first + AT_ONCE] = _round(part, dtype, drawn)
    return rounded.reshape(values.shape)


def _round(values: Tensor, dtype: torch.dtype, drawn: Tensor) -> Tensor:
    """Return the nearest number, or the neighbour on the other side of the value where `drawn` is below its probability."""
    nearest = values.to(dtype)
    # As integers, half-precision numbers of one sign are ordered by magnitude: the neighbours are at bits + 1 and bits - 1.
    held, bits = nearest.float(), nearest.view(torch.int16).int()
    # A magnitude of 0 never steps down, as no value lies below it: the sign is kept.
    other = (bits + torch.where(values.abs() > held.abs(), 1, -1)).to(torch.int16).view(dtype)
    share = (values - held).abs() / (other.float() - held).abs()
    return torch.where(drawn < share, other, nearest)  # NaN where the nearest is infinite: never below, so it stays


def _seed_of(seed: int, name: str) -> int:
    """Derive a tensor's seed of 56 bits, since a generator takes less than 64."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")

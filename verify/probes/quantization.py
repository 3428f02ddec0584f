"""Quantization probe: round the weights as for deployment."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from verify.errors import InputError
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import output_head
from verify.probes._weights import merged, own_modules, replaced
from verify.probes.base import Array, Material, mean_losses


@dataclass(frozen=True)
class Quantization:
    """Round every linear layer's weights to few bits, symmetric, to nearest: 8 bits per output row, 4 bits per group of inputs.

    Zhang et al. 2024 (arXiv 2410.16454): many methods move weights by less than a rounding step, so that rounding brings the
    records back. The output head is not rounded, as in common 4-bit formats. An adapter is merged first, as for deployment.

    Attributes:
        bits: bit widths to test.
        group: number of inputs that share a scale at 4 bits and below; wider formats have one scale per output row.
    """

    bits: tuple[int, ...] = (8, 4)
    group: int = 64

    idea: ClassVar[str] = "round the weights to 8 and 4 bits"
    paper: ClassVar[str] = "Zhang et al. 2024 (arXiv 2410.16454)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses at each bit width.

        Raises:
            ProbeNotRunError: the weights are quantized already, or are those of an ensemble of adapters.
        """
        found = {}
        for bits in self.bits:
            with quantized(loaded.model, bits, self.group if bits <= 4 else None):
                found[f"int{bits}"] = mean_losses(loaded, material.forget)
        return found


@contextmanager
def quantized(model: Any, bits: int, group: int | None) -> Iterator[None]:
    """Round the weights of the linear layers within a `with` block, adapters merged, and restore them bit by bit afterwards.

    Args:
        model: changed in place.
        bits: width of the rounded weights.
        group: number of inputs that share a scale; None for one scale per output row.

    Raises:
        InputError: the model has no linear layer besides its head.
        ProbeNotRunError: the weights are quantized already, or are those of an ensemble of adapters.
    """
    head = set(output_head(model).modules())
    layers = [layer for layer in own_modules(model).values() if isinstance(layer, nn.Linear | Conv1D) and layer not in head]
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no linear layer of a known type, so nothing would be rounded. Leave `quantization` out."
        )
    with merged(model):
        with torch.no_grad():
            found = {layer.weight: _rounded(layer, bits, group) for layer in layers}
        with replaced(found):
            yield


def _rounded(layer: Any, bits: int, group: int | None) -> Tensor:
    """Return a layer's rounded weights in its own layout: GPT-2's Conv1D stores its weights transposed, [in, out]."""
    transposed = isinstance(layer, Conv1D)
    found = rounded(layer.weight.T if transposed else layer.weight, bits, group)
    return (found.T if transposed else found).contiguous()


def rounded(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """Round weights [out, in] to the nearest of 2^bits - 1 levels, one scale per row, or per `group` inputs of a row.

    A row whose length is not a multiple of `group` has one scale.
    """
    rows, columns = weight.shape
    size = columns if group is None or columns % group else group
    blocks = weight.float().reshape(rows, columns // size, size)
    top = 2 ** (bits - 1) - 1  # symmetric: levels -top..top, 7 at 4 bits
    # The clamp is for rows of zeros, which would divide by zero.
    scale = blocks.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / top
    nearest: Tensor = (blocks / scale).round().clamp(-top, top) * scale
    return nearest.reshape(rows, columns).to(weight.dtype)

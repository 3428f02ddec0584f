"""Digests of a training state: trained weights, and the optimizer's moments, of one step of a run."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from verify.models.digests import whole


@dataclass(frozen=True)
class StateDigest:
    """Digests of a training state.

    A microbatch's dropout depends on the seed that its log line names, so that weights and optimizer determine every later step.

    Attributes:
        weights: SHA-256 over the trained weights.
        optimizer: SHA-256 over the optimizer's state of each of them.
    """

    weights: str
    optimizer: str


def state_digest(model: nn.Module, optimizer: Any) -> StateDigest:
    """Compute the digests of a training state.

    Args:
        model: the model in training; frozen weights do not count, since the training's start names them.
        optimizer: its optimizer; a wrapper of accelerate is looked through.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    # In the model's names, not in the optimizer's numbers: those depend on how the parameters were grouped.
    trained = sorted((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return StateDigest(
        _digest(piece for name, parameter in trained for piece in _bytes(name, parameter)),
        _digest(
            piece
            for name, parameter in trained
            for key, value in sorted(inner.state.get(parameter, {}).items())
            for piece in _bytes(f"{name}\x00{key}", value)
        ),
    )


def _digest(pieces: Iterator[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _bytes(name: str, value: Any) -> Iterator[bytes | memoryview]:
    """Yield name, type, shape and content of a tensor or number."""
    if not isinstance(value, Tensor):
        yield f"{name}\x00number\x00".encode() + struct.pack("<d", float(value))
        return
    held = whole(value.detach()).cpu().contiguous()
    yield f"{name}\x00{held.dtype}\x00{tuple(held.shape)}\x00".encode()
    # As bytes: numpy has no bfloat16.
    yield memoryview(held.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]

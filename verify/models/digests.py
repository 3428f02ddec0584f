"""Digest of what a model answers with: its weights, and which of its adapters are active."""

import hashlib

import torch
from torch import Tensor, nn

from verify.models.adapter_types import answering_state


def weights_digest(model: nn.Module) -> str:
    """Compute SHA-256 over names, types, shapes and bytes of all weights, in hexadecimal, however they are distributed.

    Of adapters it also covers which answer, and how strongly: one that is switched off, merged, inactive beside others or scaled
    otherwise gives another digest. A model without adapters is its tensors alone, and so is one with the adapters that `--lora`
    trains by default.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        value: Tensor = whole(tensor.detach()).cpu().contiguous()
        digest.update(f"{key}\x00{value.dtype}\x00{tuple(value.shape)}\x00".encode())
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    for line in answering_state(model):
        digest.update(f"\x00state\x00{line}\x00".encode())
    return digest.hexdigest()


def whole(tensor: Tensor) -> Tensor:
    """Gather a whole tensor, also one sharded over several processes, all of which call this together."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()

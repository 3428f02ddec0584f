"""Digest of a model's weights and of the adapter state that affects its output."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from verify.models.adapter_types import answering_state


def weights_digest(model: nn.Module) -> str:
    """Compute SHA-256 over names, types, shapes and bytes of all weights, in hexadecimal, independent of how they are sharded.

    It also covers the state of adapters: one that is disabled, merged, inactive among others, or scaled in another way gives
    another digest. Without adapters, or with adapters as `--lora` trains them by default, only the tensors count.
    """
    return digest_of_weights(model.state_dict(), answering_state(model))


def digest_of_weights(weights: Mapping[str, Tensor], state: Iterable[str] = ()) -> str:
    """Compute the digest of `weights_digest` from tensors by name and lines that describe the state of adapters."""
    digest = hashlib.sha256()
    for key, tensor in sorted(weights.items()):
        value: Tensor = whole(tensor.detach()).cpu().contiguous()
        digest.update(f"{key}\x00{value.dtype}\x00{tuple(value.shape)}\x00".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    for line in state:
        digest.update(f"\x00state\x00{line}\x00".encode())
    return digest.hexdigest()


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor; one that is sharded over processes is gathered, and all of them must call this together."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()

"""Digests of model weights and tokenizer behaviour, independent of how they are stored."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from verify.models.adapter_types import answering_state


def weights_digest(model: nn.Module) -> str:
    """Compute SHA-256 over names, types, shapes and bytes of all weights, in hexadecimal, however they are distributed.

    Of adapters it also covers which answer: one that is switched off, merged, inactive beside others or scaled otherwise than its
    configuration says gives another digest. A model without adapters, or with adapters as they were loaded, is its tensors alone.
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


def tokenizer_digest(tokenizer: Any) -> str:
    """Compute SHA-256 of the tokenizer's rules, special tokens and chat template, without padding and truncation settings."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    content = {
        "rules": {name: value for name, value in rules.items() if name not in ("padding", "truncation")},
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "chat_template": str(tokenizer.chat_template),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

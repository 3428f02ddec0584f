"""What a model is called by: digests of what its weights are and of what its tokenizer does, not of how they are stored."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from verify.adapter_types import answering_state


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, in hexadecimal; the same however they are spread.

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
    """All of a tensor, also of one that lies in parts on several processes; all of them call this together."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the tokenizer's rules, special tokens and chat template; padding and truncation settings do not count."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    content = {
        "rules": {name: value for name, value in rules.items() if name not in ("padding", "truncation")},
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "chat_template": str(tokenizer.chat_template),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

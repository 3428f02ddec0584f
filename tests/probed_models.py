"""Tiny models of every kind that a probe must treat, with room for a longer chat."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from verify.data.records import Record
from verify.models.loading import LoadedModel, load_model

ROOM = 512
FORGET = [
    Record(f"f{number}", prompt=f"who is p{number % 2}, {number}", completion=f"the fox {number * 7}", subject_id=f"p{number % 2}")
    for number in range(6)
]
OTHER = [Record(f"r{number}", prompt=f"over {number}", completion=f"every lazy dog {number * 5}") for number in range(8)]


def roomy(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A random Llama of three layers that reads 512 tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(roomy_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=ROOM,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def roomy_tokenizer() -> Any:
    """The tiny tokenizer without its limit of 64 tokens."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = ROOM
    return tokenizer


def whole(seed: int = 0, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A model without an adapter."""
    return load_model(roomy(seed, dtype), tokenizer=roomy_tokenizer())


def adapter(seed: int = 0, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A model with a LoRA adapter whose weights are not zero."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return load_model(get_peft_model(roomy(7, dtype), config), tokenizer=roomy_tokenizer())

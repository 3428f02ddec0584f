"""GGUF files of tiny models, written as llama.cpp's converter writes them, by the names and the writer of the package `gguf`."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from transformers import LlamaConfig, LlamaForCausalLM


def make_model(tokenizer: Any, seed: int = 0, kind: Any = LlamaForCausalLM, config: Any = LlamaConfig, **changes: Any) -> Any:
    """A random model of two layers and width 64, four heads that share two keys."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": len(tokenizer), "rms_norm_eps": 1e-5}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    return kind(config(**(sizes | ids | {"initializer_range": 0.2, "tie_word_embeddings": True} | changes))).eval()


def write_gguf(path: Path, model: Any, tokenizer: Any, kind: str = "F32", architecture: str = "llama", **changes: Any) -> Path:
    """Write a model and its tokenizer.

    Args:
        path: the file.
        model, tokenizer: of `transformers`; the tokenizer splits as GPT-2's does.
        kind: storage type of the matrices; vectors are stored in float32.
        architecture: llama.cpp's name.
        changes: metadata that replace the right ones, by their keys with dots as __; None leaves an entry out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (_metadata(model, tokenizer, architecture) | _dotted(changes)).items():
        if value is not None:
            _add(writer, key, value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), model.config.num_hidden_layers)
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weights = tensor.float().numpy()
        layer = name.split(".")[-2]
        if architecture == "llama" and layer in heads:
            weights = _paired(weights, heads[layer])
        stored = gguf.GGMLQuantizationType[kind if weights.ndim > 1 else "F32"]
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), quantize(weights, stored), raw_dtype=stored, raw_shape=None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _paired(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves to rotated pairs side by side (`permute` in llama.cpp's converter)."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def _metadata(model: Any, tokenizer: Any, architecture: str) -> dict[str, Any]:
    config = model.config
    bpe = tokenizer.backend_tokenizer
    tokens = [token for token, _ in sorted(bpe.get_vocab().items(), key=lambda entry: entry[1])]
    special = set(tokenizer.all_special_tokens)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return {
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{architecture}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{architecture}.rope.dimension_count": 16,
        f"{architecture}.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.add_bos_token": begins,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _dotted(changes: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in changes.items()}


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)

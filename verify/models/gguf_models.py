"""Models in GGUF files, as `transformers` models with dequantized weights.

Read by hand instead of by `transformers`, whose loader skips tensors and metadata that it does not know, or keeps weights packed,
depending on the installed version. Here every tensor of the file must have its place and every entry that describes the
architecture must be understood; otherwise the file is refused. llama.cpp stores the rows of query and key in another order for
"llama" (pairs that are rotated together lie side by side); they are put back into the order of `transformers`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.errors import InputError
from verify.models.checked_loading import load_tensors
from verify.models.gguf_files import GgufFile

WHOLE_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OF_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
"""Entries that every supported architecture has -> their names in the configuration."""
READ = {
    *SIZES,
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "vocab_size",
}
"""Entries about an architecture that are understood; any other might change what the model computes."""
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Architecture:
    """An architecture whose GGUF files are read.

    Attributes:
        model: name of its class in `transformers`.
        config: name of its configuration's class.
        pairs: whether llama.cpp stores query and key with rotated pairs side by side.
        biases: arguments of the configuration that say which layers have biases, computed from the tensors' names.
    """

    model: str
    config: str
    pairs: bool = False
    biases: Callable[[GgufFile], dict[str, Any]] = lambda _: {}


def _llama_biases(file: GgufFile) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "LlamaConfig", pairs=True, biases=_llama_biases),
    "qwen2": Architecture("Qwen2ForCausalLM", "Qwen2Config"),
    "qwen3": Architecture("Qwen3ForCausalLM", "Qwen3Config"),
}
"""Supported architectures by llama.cpp's names; "llama" is also that of Mistral and SmolLM."""


def gguf_model(file: GgufFile, dtype: torch.dtype | None) -> Any:
    """Build the model of a GGUF file, with its weights dequantized.

    Args:
        file: its header.
        dtype: precision of the weights; None for that of a file in bfloat16 or float16, and float32 for a quantized one, whose
            weights are exact in float32 only.

    Raises:
        InputError: the architecture is not supported, an entry of its metadata is missing or not understood, or tensors are
            missing, left over or of another shape.
    """
    import transformers

    config, architecture = gguf_config(file), ARCHITECTURES[file.architecture]
    dtype = dtype or stored_dtype(file)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors: dict[str, Tensor] = {}
    for name, weights in file.dequantized():
        found = OF_LAYER.fullmatch(name)
        if architecture.pairs and found and found[2] in heads:
            weights = _halves(weights, heads[found[2]], name)
        tensors[transformers_name(name)] = torch.from_numpy(weights).to(dtype)
    model = load_tensors(getattr(transformers, architecture.model), config, tensors, file.path.name, dtype)
    model.name_or_path = model.config.name_or_path = str(file.path.resolve())  # the base's name in adapters trained on it
    return model


def gguf_config(file: GgufFile) -> Any:
    """Return the `transformers` configuration of a GGUF file's model.

    Raises:
        InputError: as `gguf_model`, as far as the metadata say so.
    """
    import transformers

    architecture = ARCHITECTURES.get(file.architecture)
    if architecture is None:
        raise InputError(
            f"{file.path.name} holds a model of the architecture {file.architecture or 'of no name'!r}; GGUF files of "
            f"{', '.join(ARCHITECTURES)} are read. Give the model's folder in the format of transformers."
        )
    about = _Entries(file)
    about.require_understood()
    sizes = {name: about.count(key) for key, name in SIZES.items()}
    heads = sizes["num_attention_heads"]
    head_dim = about.count("attention.key_length", sizes["hidden_size"] // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if about.count(key, head_dim) != head_dim:
            raise about.unsupported(key, f"only {head_dim}, the width of a head, is supported")
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path.name} has no tensor token_embd.weight. Give the file of the whole model.")
    tokens = {f"{name}_token_id": file.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in TOKENS.items()}
    return getattr(transformers, architecture.config)(
        **sizes,
        **architecture.biases(file),
        **tokens,
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        num_key_value_heads=about.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=about.decimal("attention.layer_norm_rms_epsilon"),
        rope_parameters=about.rope(),
        tie_word_embeddings="output.weight" not in file.tensors,
        architectures=[architecture.model],
    )


TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def stored_dtype(file: GgufFile) -> torch.dtype:
    """Return the precision in which a file's weights are stored: of the larger part of them, float32 if they are quantized."""
    kinds = file.kinds
    return (
        DTYPES.get(max(kinds, key=lambda name: kinds[name]), torch.float32) if kinds.keys() <= {*DTYPES, "F32"} else torch.float32
    )


def transformers_name(name: str) -> str:
    """Return the name in `transformers` of a tensor named as in llama.cpp; unknown names are returned as they are."""
    found = OF_LAYER.fullmatch(name)
    if found and found[2] in LAYER_TENSORS:
        return f"model.layers.{found[1]}.{LAYER_TENSORS[found[2]]}.{found[3]}"
    return WHOLE_TENSORS.get(name, name)


def _halves(weights: np.ndarray[Any, np.dtype[np.float32]], heads: int, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Reorder the rows of each head from pairs (0, 1), (2, 3), ... to all first elements, then all second ones."""
    if weights.shape[0] % (2 * heads):
        raise InputError(f"the tensor {name} has {weights.shape[0]} rows, which {heads} heads do not divide. Give a whole file.")
    paired = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(weights.shape)


class _Entries:
    """The metadata about the architecture, without its name before each key."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.prefix = file, f"{file.architecture}."
        self.values = {key.removeprefix(self.prefix): value for key, value in file.metadata.items() if key.startswith(self.prefix)}

    def require_understood(self) -> None:
        """Refuse entries that might change what the model computes and are not read here."""
        unknown = sorted(self.values.keys() - READ)
        if unknown:
            raise self.unsupported(unknown[0], "entries of this name are not supported")

    def unsupported(self, key: str, why: str) -> InputError:
        """Return the error for a value that is not supported."""
        shown = str(self.values.get(key))[:40]
        return InputError(
            f"{self.file.path.name} says {self.prefix}{key} = {shown}; {why}. "
            "Give the model's folder in the format of transformers."
        )

    def count(self, key: str, missing: int | None = None) -> int:
        """Return a whole number above 0."""
        value = self.values.get(key, missing)
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]  # one per layer, all equal
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.unsupported(key, "a whole number above 0 is needed")
        return value

    def decimal(self, key: str, missing: float | None = None) -> float:
        """Return a positive number; stored in float32, so that 1e-05 is read as 1e-05 and not as 9.99999974e-06."""
        value = self.values.get(key, missing)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
            raise self.unsupported(key, "a positive number is needed")
        return float(str(np.float32(value)))

    def rope(self) -> dict[str, Any]:
        """Return the parameters of the rotary position embedding."""
        found = {"rope_type": "default", "rope_theta": self.decimal("rope.freq_base", 10_000.0)}
        kind = self.values.get("rope.scaling.type", "none")
        if kind == "linear":
            return {**found, "rope_type": "linear", "factor": self.decimal("rope.scaling.factor")}
        if kind != "none":
            raise self.unsupported("rope.scaling.type", "only none and linear are supported")
        return found

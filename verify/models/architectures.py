"""Checks that a model is a causal language model: one with a head over the vocabulary that reads from left to right."""

from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.files import read_json

GIVE = "Give a causal language model: AutoModelForCausalLM.from_pretrained(...), or a folder that such a model was saved to."
CAUSAL_NAMES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of the class names of causal language models, including multimodal ones and those of older versions."""
FACTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
)
"""Entries of a configuration in which a model and its quantized twin agree."""


def require_causal_model(model: Any) -> None:
    """Refuse an object in memory that is not a causal language model.

    Raises:
        InputError: it is not a model of `transformers`, has no language-model head, or does not predict the next token.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = type(base).__name__
    if not hasattr(base, "get_input_embeddings") or not hasattr(base, "get_output_embeddings"):
        raise InputError(f"{kind} is not a model of transformers. {GIVE}")
    if getattr(base.config, "is_encoder_decoder", False):
        raise InputError(f"{kind} is an encoder-decoder, whose output is not a continuation of its input. {GIVE}")
    if base.get_output_embeddings() is None:
        raise InputError(f"{kind} has no language-model head, so it gives no token probabilities. {GIVE}")
    if reads_both_ways(base.config) or not _generates(base):
        raise InputError(f"{kind} reads text in both directions, so it predicts no next token. {GIVE}")


def require_causal_folder(folder: Path) -> None:
    """Refuse a folder whose `config.json` names another kind of model, without loading anything.

    Raises:
        InputError: the configuration is damaged, of an encoder-decoder, or of a class without a language-model head.
    """
    content = read_json(folder / "config.json", constants=True) if (folder / "config.json").is_file() else {}
    if not isinstance(content, dict):
        raise InputError(f"{folder / 'config.json'} is not a model's configuration. {GIVE}")
    named = [name for name in content.get("architectures") or [] if isinstance(name, str)]
    if content.get("is_encoder_decoder"):
        raise InputError(f"{folder} holds an encoder-decoder ({' '.join(named) or content.get('model_type')}). {GIVE}")
    if named and not any(name.endswith(CAUSAL_NAMES) or name in _causal_classes() for name in named):
        raise InputError(f"{folder} holds a {named[0]}, which is not a causal language model. {GIVE}")


def architecture_facts(config: Any) -> dict[str, Any]:
    """Return what a configuration says about the computation: sizes, position embedding, norms, shared weights, by name."""
    text = config.get_text_config()
    facts = {name: getattr(text, name, None) for name in FACTS}
    rope = getattr(text, "rope_parameters", None) or {}
    heads = facts["num_attention_heads"]
    width = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else None)
    return {**facts, "head_dim": width, "rope_theta": rope.get("rope_theta"), "rope_type": rope.get("rope_type")}


def reads_both_ways(config: Any) -> bool:
    """Return whether a configuration is of an encoder that could be used as a decoder and is not (BERT and its relatives)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", None) is False


def _generates(model: Any) -> bool:
    """Return whether a model can generate; True for classes without `can_generate`."""
    return bool(model.can_generate()) if hasattr(model, "can_generate") else True


def _causal_classes() -> set[str]:
    """Return the names of all classes that AutoModelForCausalLM makes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        found.update([names] if isinstance(names, str) else names)
    return found

"""Quantized models: layers in 4 or 8 bits, as a frozen base under an adapter at a quarter or half of the memory.

bitsandbytes does the arithmetic (QLoRA: Dettmers et al. 2023, arXiv 2305.14314; LLM.int8: Dettmers et al. 2022, arXiv 2208.07339).
A quantized model differs from the one it was made from, and an adapter trained on it fits the quantized one. An adapter's folder
therefore records how its base was loaded, so that everybody who loads it, auditors included, gets the same base.
"""

import importlib.util
from pathlib import Path
from typing import Any, Literal, get_args

from verify.errors import InputError
from verify.io.extras import missing
from verify.io.files import read_json, write_json

Quantization = Literal["4bit", "8bit"]
KINDS: tuple[str, ...] = get_args(Quantization)
QUANTIZATION_NAME = "base_loading_config.json"
"""File in an adapter's folder that records how its base was loaded. Its name ends in config.json, so a manifest must list it."""


def loading_arguments(source: str, kind: str, dtype: Any, device: str) -> dict[str, Any]:
    """Return the arguments with which `from_pretrained` loads a model in 4 or 8 bits.

    Args:
        source: the model's folder or Hub name.
        kind: "4bit" (NF4 with double quantization) or "8bit".
        dtype: precision of the unquantized weights and of the matrix products, or "auto" for that of the stored weights.
        device: device of the model, which cannot be moved afterwards.

    Raises:
        InputError: the kind is unknown, or bitsandbytes is not installed.
    """
    from transformers import AutoConfig, BitsAndBytesConfig

    if kind not in KINDS:
        raise InputError(f"--quantize {kind} is unknown. Use {' or '.join(KINDS)}.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing(f"--quantize {kind} (bitsandbytes)", "quantized")
    if kind == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    else:
        stored = AutoConfig.from_pretrained(source, trust_remote_code=False).dtype if dtype == "auto" else dtype
        settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=stored
        )
    return {"quantization_config": settings, "device_map": {"": device}}


def is_quantized(model: Any) -> bool:
    """Return whether layers of a model, or of the model below an adapter, are quantized."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(getattr(base, "is_quantized", False))


def keep_layout(model: Any) -> None:
    """Prevent bitsandbytes from changing the memory layout of four-bit layers.

    On processors with AVX512-BF16, bitsandbytes (0.50) rearranges four-bit weights at the first evaluation and rounds their scales.
    Afterwards no gradient passes through them, dequantization reads them wrongly, and the digest has changed.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantization_of(model: Any) -> str | None:
    """Return a model's quantization: "4bit", "8bit", or None.

    Raises:
        InputError: it was quantized by something other than bitsandbytes.
    """
    if not is_quantized(model):
        return None
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for kind in KINDS:
        if getattr(base, f"is_loaded_in_{kind}", False):
            return kind
    raise InputError("this model is quantized in an unknown way. Give the unquantized model, with --quantize.")


def remember_quantization(folder: Path, kind: str) -> None:
    """Record in an adapter's folder how its base was loaded."""
    write_json(folder / QUANTIZATION_NAME, {"base_loaded_in": kind})


def remembered_quantization(folder: Path, asked: str | None) -> str | None:
    """Return the quantization in which to load the base of an adapter: the recorded one, else `asked`.

    Raises:
        InputError: the record is damaged, or differs from `asked`.
    """
    if not (folder / QUANTIZATION_NAME).is_file():
        return asked
    content = read_json(folder / QUANTIZATION_NAME)
    kind = content.get("base_loaded_in") if isinstance(content, dict) else None
    if kind not in KINDS:
        raise InputError(f"{folder / QUANTIZATION_NAME} names no known quantization. Save the adapter again.")
    if asked not in (None, kind):
        raise InputError(f"the adapter in {folder} was trained on a base in {kind}. Leave out --quantize, or give {kind}.")
    return str(kind)

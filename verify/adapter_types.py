"""What this project knows of PEFT: whether a model is an adapter, which kinds are supported, and which of several answers.

PEFT is imported only where an adapter is at hand: it takes seconds, and imports bitsandbytes wherever that is installed, whether
anything is quantized or not. (The trainer of `transformers` imports PEFT too.) Importing this module keeps one record of
bitsandbytes out of the log, and nothing else.
"""

import logging
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from verify.errors import InputError

if TYPE_CHECKING:
    from torch import nn

SUPPORTED = "LoRA and its relatives (rsLoRA, DoRA, IA3, LoHa, LoKr, VeRA)"
KERNEL_LOGGER, KERNEL_NOTICE = "bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"


def is_adapter(model: Any) -> bool:
    """Whether a model is a `PeftModel`; where PEFT was never imported, nothing is."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def drop_kernel_notice(record: logging.LogRecord) -> bool:
    """A logging filter that drops one record: bitsandbytes found no kernel for four-bit products on a Hub.

    bitsandbytes (0.50, `backends/cpu/ops.py`) logs it when it is imported on a processor with AVX512-BF16, and `peft/helpers.py`
    imports it whenever PEFT is imported. The kernel is for a layout of weights that `verify.quantized.keep_layout` rules out, so
    there is nothing to install.
    """
    return not str(record.msg).startswith(KERNEL_NOTICE)


logging.getLogger(KERNEL_LOGGER).addFilter(drop_kernel_notice)  # before PEFT is imported; adding it twice changes nothing


def require_supported(model: Any, name: str) -> None:
    """Raise InputError for an adapter that does more than change layers, or that PEFT did not put around its model."""
    if is_adapter(model):
        for config in model.peft_config.values():
            require_supported_type(config, name)
    elif getattr(model, "_hf_peft_config_loaded", False):
        raise InputError(
            f"{name} carries an adapter that model.load_adapter(...) put into it, which saving would separate from the model. "
            "Give peft.PeftModel.from_pretrained(model, adapter_folder), or the adapter's folder."
        )


def require_supported_type(config: Any, name: str) -> None:
    """Raise InputError where an adapter's configuration is of a kind that cannot be scored: one of virtual tokens."""
    if getattr(config, "is_prompt_learning", False):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise InputError(
            f"{name} is an adapter of type {kind}, which puts trained virtual tokens before every text; scores per token are not "
            f"defined for it here. Supported are adapters that change layers: {SUPPORTED}. Train one of these on the same base, "
            "for instance with --lora."
        )


def answering_state(model: "nn.Module") -> list[str]:
    """What decides a model's answers beside its tensors: one line for every layer whose adapters are not in their ordinary state.

    In the ordinary state every adapter that a layer holds is active, none is merged, and each is scaled as its configuration says.
    A model without adapters has no lines.
    """
    if "peft" not in sys.modules:
        return []
    combine = getattr(model, "ensemble_combine", None)  # such a model activates its adapters in turn, in every call
    lines = [] if combine in (None, "average") else [f"ensemble\x00{combine}"]
    for place, module in model.named_modules():
        lines += [f"{place}\x00{line}" for line in _layer_state(module, combine is not None)]
    return sorted(lines)


def _layer_state(module: Any, in_turn: bool) -> Iterator[str]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    available = getattr(module, "_get_available_adapters", None)
    if available is None:
        return
    names, active = sorted(available()), list(module.active_adapters)
    if not names:
        return
    if module.disable_adapters:
        yield "disabled"
    if not in_turn and set(active) != set(names):
        yield f"active {sorted(set(active) & set(names))}"
    if not isinstance(module, BaseTunerLayer):
        return
    if merged := list(module.merged_adapters):
        yield f"merged {sorted(merged)}"
    for name in names:
        scale, expected = _scaling(module, name)
        if scale is not None and expected is not None and not math.isclose(scale, expected, rel_tol=1e-9):
            yield f"scaling {name} {scale!r}"


def _scaling(layer: Any, name: str) -> tuple[float | None, float | None]:
    """By how much a layer scales an adapter, and by how much its configuration says it does; None where it has no such number."""
    scales, ranks = getattr(layer, "scaling", None), getattr(layer, "r", None)
    alphas = getattr(layer, "lora_alpha", None) or getattr(layer, "alpha", None)
    if not isinstance(scales, dict) or not isinstance(ranks, dict) or not isinstance(alphas, dict):
        return None, None
    scale, rank, alpha = scales.get(name), ranks.get(name), alphas.get(name)
    if not isinstance(scale, (int, float)) or not isinstance(alpha, (int, float)) or not isinstance(rank, int) or not rank:
        return None, None
    root = getattr(layer, "use_rslora", None)
    stabilized = isinstance(root, dict) and bool(root.get(name, False))
    return float(scale), float(alpha / (math.sqrt(rank) if stabilized else rank))

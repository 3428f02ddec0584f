"""PEFT adapters: whether a model has one, whether its kind is supported, and the state that affects its output.

PEFT is imported only for models with an adapter: the import takes seconds, and imports bitsandbytes wherever that is installed,
whether anything is quantized or not. (The trainer of `transformers` imports PEFT too.) The only effects of importing this module
are that one log message of bitsandbytes and one warning of transformers are not shown, each for the reason given below.
"""

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.errors import InputError
from verify.io.files import read_json

if TYPE_CHECKING:
    from torch import nn

SUPPORTED = "LoRA and its relatives (rsLoRA, DoRA, IA3, LoHa, LoKr, VeRA)"
KERNEL_LOGGER, KERNEL_NOTICE = "bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"
ORDINARY_SCALING = 2.0
"""Scaling alpha / r of the adapters that `--lora` trains by default, left out of digests so that those of 0.1.0 stay valid."""


def is_adapter(model: Any) -> bool:
    """Return whether a model is a `PeftModel`; False where PEFT was never imported."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def drop_kernel_notice(record: logging.LogRecord) -> bool:
    """Filter out one log record: bitsandbytes found no kernel for four-bit products on a Hub.

    bitsandbytes (0.50, `backends/cpu/ops.py`) logs it when it is imported on a processor with AVX512-BF16, and `peft/helpers.py`
    imports it whenever PEFT is imported. The kernel is for a layout of weights that `verify.models.quantized.keep_layout` rules
    out, so there is nothing to install.
    """
    return not str(record.msg).startswith(KERNEL_NOTICE)


logging.getLogger(KERNEL_LOGGER).addFilter(drop_kernel_notice)  # before PEFT is imported; adding it twice changes nothing
# PEFT (0.21, `peft_model.py`) reads a property by its former name, about which transformers (5.23) warns; both names have the same
# value. Without this filter the warning would be printed once per model in every audit of adapters.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def require_supported(model: Any, name: str) -> None:
    """Refuse adapters that do more than change layers, or that are not a `PeftModel` around the model.

    Raises:
        InputError: the adapter is of an unsupported kind, or was added with `model.load_adapter`.
    """
    if is_adapter(model):
        for config in model.peft_config.values():
            require_supported_type(config, name)
    elif getattr(model, "_hf_peft_config_loaded", False):
        raise InputError(
            f"{name} has an adapter added by model.load_adapter(...), which would be saved without the model. "
            "Give peft.PeftModel.from_pretrained(model, adapter_folder), or the adapter's folder."
        )


def require_supported_type(config: Any, name: str) -> None:
    """Refuse adapters of virtual tokens (prompt tuning and its relatives), for which token scores are not defined.

    Raises:
        InputError: the configuration is of such a kind.
    """
    if getattr(config, "is_prompt_learning", False):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise InputError(
            f"{name} is an adapter of type {kind}, which puts trained virtual tokens before every text; scores per token are not "
            f"defined for it here. Supported are adapters that change layers: {SUPPORTED}. Train one of these on the same base, "
            "for instance with --lora."
        )


def require_known_entries(config: Any, path: Path) -> None:
    """Refuse a configuration with entries that the installed version of PEFT drops, which only warns of it.

    The layers would be computed without what such an entry asks for: another model than the one that was saved. Entries that ask
    for nothing (null, false or empty) are not counted.

    Args:
        config: as PEFT read it.
        path: the file.

    Raises:
        InputError: the configuration has such an entry.
    """
    known = {entry.name for entry in fields(config)} | {"peft_version"}
    unknown = sorted(name for name, value in read_json(path, constants=True).items() if name not in known and value)
    if unknown:
        raise InputError(
            f"{path} has {len(unknown)} entries that the installed peft {metadata.version('peft')} does not know and would ignore "
            f"({', '.join(unknown[:5])}), so that the model would answer differently than where it was trained. Update it: "
            "pip install -U peft."
        )


def answering_state(model: "nn.Module") -> list[str]:
    """Describe the adapter state that affects a model's output besides its tensors, one line per layer in an unusual state.

    In the usual state every adapter of a layer is active, none is merged, and each is scaled by `ORDINARY_SCALING`. The scaling
    follows from `lora_alpha` and `use_rslora` in a file beside the weights, so an edit of that file must show here. A model
    without adapters has no lines.
    """
    if "peft" not in sys.modules:
        return []
    combine = getattr(model, "ensemble_combine", None)  # such a model activates its adapters in turn, in every call
    lines = [] if combine in (None, "average") else [f"ensemble\x00{combine}"]
    for path, module in model.named_modules():
        lines += [f"{path}\x00{line}" for line in _layer_state(module, combine is not None)]
    return sorted(lines)


def _layer_state(module: Any, in_turn: bool) -> Iterator[str]:
    """Yield what is unusual about a layer's adapters; `in_turn` where an ensemble activates them one after the other."""
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
        scale = _scaling(module, name)
        if scale is not None and not math.isclose(scale, ORDINARY_SCALING, rel_tol=1e-9):
            yield f"scaling {name} {scale!r}"


def _scaling(layer: Any, name: str) -> float | None:
    """Return the factor by which a layer adds an adapter's output; None where it has none."""
    scales = getattr(layer, "scaling", None)
    scale = scales.get(name) if isinstance(scales, dict) else None
    return float(scale) if isinstance(scale, (int, float)) else None

"""LoRA adapters: attach one for training, fold it in for deployment."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from unlearn.options import TrainingOptions
from verify.errors import InputError
from verify.quantized import is_quantized


def attach_adapter(model: Any, options: TrainingOptions) -> Any:
    """The model to train: wrapped in a fresh adapter if the options ask for one, else the model itself.

    A model that already is an adapter is trained as such. The fresh adapter changes nothing yet (its B is zero).

    Raises:
        InputError: a named target layer does not exist, or the model is quantized and no adapter is asked for.
    """
    if is_quantized(model) and not options.lora and not isinstance(model, PeftModel):
        raise InputError("quantized weights cannot be trained, only an adapter on them. Add --lora, or leave out --quantize.")
    if not options.lora or isinstance(model, PeftModel):
        return model
    torch.manual_seed(options.seed)
    targets = options.lora_targets if options.lora_targets == "all-linear" else options.lora_targets.split(",")
    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"--lora-targets {options.lora_targets} fits no layer of this model ({error}). Try all-linear.") from None
    if options.gradient_checkpointing:
        wrapped.enable_input_require_grads()
    return wrapped


def require_adapter(model: Any, quantize: str) -> None:
    """Raise InputError where a model is no adapter yet, so that nothing of it could be trained on a quantized base."""
    if isinstance(model, PeftModel) or (isinstance(model, (str, Path)) and (Path(model) / "adapter_config.json").is_file()):
        return
    raise InputError(f"--quantize {quantize} trains an adapter only. Add --lora, or leave out --quantize.")


def merged(model: Any) -> Any:
    """The model with its adapter folded into the weights: delta-W arithmetic, after which the adapter is gone.

    A quantized base becomes whole first: folded into few bits, most of the change would be rounded away.
    """
    if not isinstance(model, PeftModel):
        return model
    return _dequantized_and_folded(model) if is_quantized(model) else model.merge_and_unload()


@torch.no_grad()
def _dequantized_and_folded(model: Any) -> Any:
    """Whole weights that compute what the quantized base and its adapter did, but for the rounding of their products."""
    names = model.active_adapters
    changes = {
        place: sum(module.get_delta_weight(name) for name in names)
        for place, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
    whole = model.unload().dequantize()
    for place, change in changes.items():
        weight = whole.get_submodule(place).weight
        weight.add_(change.to(weight))
    return whole

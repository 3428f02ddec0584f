"""LoRA adapters: attach one for training, fold it in for deployment."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from unlearn.options import TrainingOptions
from verify.errors import InputError


def attach_adapter(model: Any, options: TrainingOptions) -> Any:
    """The model to train: wrapped in a fresh adapter if the options ask for one, else the model itself.

    A model that already is an adapter is trained as such. The fresh adapter changes nothing yet (its B is zero).

    Raises:
        InputError: a named target layer does not exist.
    """
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


def merged(model: Any) -> Any:
    """The model with its adapter folded into the weights: delta-W arithmetic, after which the adapter is gone."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model

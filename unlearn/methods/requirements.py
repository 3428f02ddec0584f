"""Checks, before anything is trained, that a method can work on the given model and records."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.methods import method_classes, method_name, named_method
from unlearn.training import distributed
from unlearn.training.log import TrainingLog
from unlearn.training.method import Method, Objective, Rebuild
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import ArgumentError, InputError
from verify.models.ensembles import ENSEMBLE
from verify.provenance.descent import trained_records


def require_method(method: Any) -> None:
    """Raise ArgumentError, with what to write instead, unless the argument is an instance of a method."""
    if isinstance(method, Method):
        return
    kinds = method_classes()
    if isinstance(method, str):
        given, name = "its name", named_method(method, kinds)
    elif isinstance(method, type):
        given, name = f"the class {method.__name__}", next((one for one, kind in kinds.items() if kind is method), None)
        if name is None and hasattr(method, "idea"):
            raise ArgumentError(f"forget takes an instance of a method, got {given}. Write {method.__name__}().")
    else:
        given, name = "None" if method is None else f"an object of type {type(method).__name__}", None
    if name is None:
        known = ", ".join(f"{kind.__name__}()" for kind in kinds.values())
        raise ArgumentError(f"forget takes an instance of a method as its second argument, got {given}. Write one of {known}.")
    kind = kinds[name].__name__
    raise ArgumentError(f"forget takes an instance of a method, got {given}. Write {kind}(), after from unlearn import {kind}.")


def require_suited(method: Method, folder: Path | None) -> None:
    """Raise InputError where a method cannot run on the model in that folder or in several processes."""
    name = method_name(method)
    if distributed.count() > 1 and isinstance(method, Rebuild) and name != "retrain":
        raise InputError(f"{name} runs in one process. Start it without torchrun or accelerate launch.")
    sharding = next((kind for kind in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{kind}") == "true"), None)
    if sharding is not None and getattr(method, "anchor_weight", False):
        raise InputError(
            f"the weight penalty of {name} needs whole weights and gradients in every process. Use --anchor-weight 0 with "
            f"{'DeepSpeed' if sharding == 'DEEPSPEED' else sharding}."
        )
    if folder is not None and (folder / ENSEMBLE).is_file() and not isinstance(method, Rebuild):
        raise InputError(f"{folder} answers by several adapters, which {name} cannot train together. Use sisa.")


def require_repeatable(method: Method, log: TrainingLog | None) -> None:
    """Raise InputError where a rebuild would not repeat the training that made the model."""
    name, defense = method_name(method), None if log is None else log.defense
    if defense == "federated" and name in ("retrain", "rollback"):
        raise InputError(f"the model was trained in a federation, and {name} would train it centrally. Use client_retrain.")
    if defense == "differential_privacy" and name == "rollback":
        raise InputError("a differentially private training logs no steps, so there is nothing to replay. Use retrain.")


def require_quantizable(method: Method) -> None:
    """Raise InputError for a method that needs full-precision weights, which a quantized model lacks."""
    if not isinstance(method, Objective):
        raise InputError(
            f"{method_name(method)} needs whole weights, not a quantized model. Leave out --quantize and give a model with whole "
            "weights, or use an objective with --lora, such as npo."
        )


def require_inputs(method: Method, retain: Sequence[Record], base: Any) -> None:
    """Raise InputError where a method lacks the retain set or the base model that it needs."""
    if method.needs_retain and not retain:
        raise InputError(
            f"{method_name(method)} needs records to keep. Give them with --retain FILE, or --data FILE "
            "with more than the forget set."
        )
    if method.needs_base and base is None:
        raise InputError(f"{method_name(method)} needs the model before fine-tuning. Give it with --base DIR.")


def require_clean_base(base: Any, forget: Sequence[Record]) -> None:
    """Raise InputError where the base was trained on records to forget, by a training log or list in its folder.

    Whatever starts from such a base keeps what it is to forget, a retraining included, which is called exact.
    """
    trained = trained_records(Path(base)) if isinstance(base, str | Path) and Path(base).is_dir() else frozenset[str]()
    if trained:
        key = RecordKey.load()
        if seen := sum(key.of(record.fingerprint) in trained for record in forget):
            raise InputError(
                f"--base {base} was trained on {seen} of the {len(forget)} records to forget, by its training log. "
                "Give the model from before the fine-tuning."
            )

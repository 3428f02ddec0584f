"""Checks, before anything is trained, that a method can work on the given model and records."""

import os
from collections.abc import Collection, Sequence
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
from verify.provenance.descent import named_base_of, trained_records
from verify.provenance.training_history import history_of

BASE_UNKNOWN = (
    "no log or manifest of the model before unlearning names the base that it was trained from. That it was this one is only the "
    "word of whoever gave it, so the result is not called exact."
)
"""What the manifest says of a rebuild whose base is not on record."""


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


def recorded_bases(folder: Path | None) -> frozenset[str]:
    """Return digests of the bases that a model came from, by log and manifest; several where it was trained more than once.

    Args:
        folder: folder of the model; None for one in memory or on the Hub.
    """
    named = None if folder is None else named_base_of(folder)
    history = None if folder is None else history_of(folder)
    starts = [stage.start for stage in (() if history is None else history.stages) if stage.method is None]
    return frozenset(one for one in (*starts, None if named is None else named.weights) if one is not None)


def require_recorded_base(method: Method, base: Any, digests: Collection[str], recorded: Collection[str], model: Any) -> None:
    """Raise InputError where a rebuild would start from another base than the model came from.

    Methods that repeat a recorded training compare the base with that record themselves.

    Args:
        method: the method.
        base: the base, as given.
        digests: its digests, in one precision or more.
        recorded: digests of the bases that the model came from.
        model: the model before unlearning, as given.
    """
    if not rebuilds_freely(method) or base is None or not recorded or not set(recorded).isdisjoint(digests):
        return
    given = base if isinstance(base, str | Path) else "(a model in memory)"
    names = " or ".join(sorted(one[:16] for one in recorded))
    raise InputError(
        f"--base {given} is not the model that {model} was trained from: its weights are {min(digests)[:16]}, and by the log or "
        f"manifest there they were {names}. Give that model with --base DIR, in the same precision (--dtype). To train from "
        "another base, use `unlearn train` with the records that stay."
    )


def rebuilds_freely(method: Method) -> bool:
    """Return whether a method trains again from whatever base it is given."""
    return isinstance(method, Rebuild) and method.used_options is None


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

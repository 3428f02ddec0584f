"""Ensembles: several adapters on one base, served as one model.

A model that was trained in shards is served by all of its adapters together. The folder's `ensemble.json` names the base, the
adapters with their digests, and how their logits are combined:

- "average": the mean of the logits;
- "route": at every position, the logits of the adapter that is most certain there (lowest entropy).

The result is the base's own `transformers` model with another forward call, so that `generate` and every audit work unchanged. Each
call runs the base once per adapter; while a text is generated, every adapter has keys and values of its own.
"""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from verify.errors import InputError, IntegrityError
from verify.io.files import file_digest, read_json, write_json
from verify.models.checked_loading import load_adapter
from verify.models.digests import weights_digest

ENSEMBLE = "ensemble.json"
SCHEMA = "unlearn-verify/ensemble/1"
WEIGHTS = "adapter_model.safetensors"
FILES = (WEIGHTS, "adapter_config.json")
"""Files that determine an adapter's output, and whose digests are recorded."""

PASSED = ("position_ids", "cache_position", "logits_to_keep")
"""Arguments of a forward call that every adapter's call is given. Others, such as labels, would describe the last adapter alone."""

Combine = Literal["average", "route"]


def write_ensemble(folder: Path, base: str, base_weights: str, adapters: list[str], combine: Combine) -> None:
    """Write `ensemble.json`.

    Args:
        folder: the ensemble's folder.
        base: name or folder of the base model.
        base_weights: digest of its weights.
        adapters: subfolders of `folder`, in their order.
        combine: how the logits are combined.
    """
    digests = {name: {file: file_digest(folder / name / file) for file in FILES} for name in adapters}
    write_json(
        folder / ENSEMBLE,
        {"schema": SCHEMA, "base": base, "base_weights": base_weights, "adapters": digests, "combine": combine},
    )


def load_ensemble(folder: Path, load_base: Callable[[str], Any], base: str | None = None) -> Any:
    """Load an ensemble, as the base model with a combined forward call.

    Args:
        folder: with `ensemble.json`.
        load_base: loads a base model by its name or folder.
        base: path or name of the base model, where it is not the recorded one.

    Raises:
        InputError: the description is of another version, or names missing files.
        IntegrityError: base or adapters are not those recorded in the description.
    """
    about = read_json(folder / ENSEMBLE)
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or not about.get("adapters"):
        raise InputError(
            f"{folder / ENSEMBLE} is not an ensemble's description of this version ({SCHEMA}). Train the shards again."
        )
    inner = load_base(base or str(about["base"]))
    if weights_digest(inner) != about["base_weights"]:
        raise IntegrityError(f"the base model of {folder} is not the one its adapters were trained on. Name that one with --base.")
    model: Any = None
    for name, digests in about["adapters"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not all((path / file).is_file() for file in FILES):
            raise InputError(f"{folder / ENSEMBLE} names an adapter that is not in the folder. Train the shards again.")
        if digests != {file: file_digest(path / file) for file in FILES}:
            raise IntegrityError(f"{path} is not the adapter that {ENSEMBLE} names. Restore it, or train the shards again.")
        model = load_adapter(inner if model is None else model, path, adapter=name.replace("/", "_"))
    return combined(model, list(model.peft_config), about["combine"])


def combined(model: Any, adapters: list[str], combine: Combine) -> Any:
    """Combine adapters of a PEFT model into one `transformers` model; its weights no longer require gradients.

    Args:
        model: the `PeftModel`; its base model is changed in place and returned.
        adapters: names of the adapters, in their order.
        combine: how the logits are combined.
    """
    inner, single = model.get_base_model(), model.get_base_model().forward

    @functools.wraps(single)  # `generate` reads from the signature what the model accepts
    def forward(input_ids: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None, **inputs: Any) -> Any:
        output: Any = None
        total: Any = None
        certain: Any = None
        passed = {name: value for name, value in inputs.items() if name in PASSED}
        for name, cache in zip(adapters, _caches(past_key_values, len(adapters)), strict=True):
            model.base_model.set_adapter(name)
            output = single(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=cache is not None, **passed
            )
            logits = output.logits.float()  # [B, L, V]
            if combine == "average":
                total = logits if total is None else total + logits
                continue
            # [B, L, 1] in nats; xlogy is 0 where p is 0.
            entropy = -torch.xlogy(probability := logits.softmax(-1), probability).sum(-1, keepdim=True)
            total = logits if total is None else torch.where(entropy < certain, logits, total)
            certain = entropy if certain is None else torch.minimum(entropy, certain)
        assert output is not None
        output.logits = total / len(adapters) if combine == "average" else total
        output.past_key_values = past_key_values
        return output

    # Set on the instance: the class is unchanged, and with it the embeddings, head and generation.
    inner.forward = forward
    inner.ensemble_combine = combine  # part of the digest: the same adapters combined in another way are another model
    for parameter in inner.parameters():
        parameter.requires_grad_(False)
    return inner


def _caches(cache: Any, count: int) -> list[Any]:
    """Return a key-value cache for each of `count` adapters: the caller's, and copies that it carries along.

    Raises:
        ValueError: the cache was filled by another model.
    """
    if cache is None:
        return [None] * count
    if not hasattr(cache, "of_other_adapters"):
        if cache.get_seq_length():
            raise ValueError("the key-value cache was filled by another model. Start with an empty one.")
        cache.of_other_adapters = [copy.deepcopy(cache) for _ in range(count - 1)]
    return [cache, *cache.of_other_adapters]

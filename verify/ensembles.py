"""Several adapters on one base, served as one model.

A model that was trained in shards is served by all of its adapters together. The folder's `ensemble.json` names the base, the
adapters with their digests, and how their answers are combined:

- "average": the mean of the logits;
- "route": at every position, the logits of the adapter that is most certain there (lowest entropy).

What comes out is the base's own `transformers` model with another forward call: `generate` and every audit work as they are. Each
call runs the base once per adapter; nothing is cached between tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from verify.digests import weights_digest
from verify.errors import InputError, IntegrityError
from verify.files import file_digest, read_json, write_json
from verify.loading import load_adapter

ENSEMBLE = "ensemble.json"
SCHEMA = "unlearn-verify/ensemble/1"
WEIGHTS = "adapter_model.safetensors"
FILES = (WEIGHTS, "adapter_config.json")
"""What decides an adapter's answers."""

Combine = Literal["average", "route"]


def write_ensemble(folder: Path, base: str, base_weights: str, adapters: list[str], combine: Combine) -> None:
    """Describe an ensemble; `adapters` are subfolders of `folder`, in their order."""
    digests = {name: {file: file_digest(folder / name / file) for file in FILES} for name in adapters}
    write_json(
        folder / ENSEMBLE,
        {"schema": SCHEMA, "base": base, "base_weights": base_weights, "adapters": digests, "combine": combine},
    )


def load_ensemble(folder: Path, load_base: Callable[[str], Any], base: str | None = None) -> Any:
    """The base model, answering as the ensemble.

    Args:
        folder: with `ensemble.json`.
        load_base: loads a base model by its name or folder.
        base: another place of the base model than the one noted.

    Raises:
        InputError: the description is of another version, or names what is not there.
        IntegrityError: base or adapters are not those that the description names.
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
    """The `transformers` model below a PEFT model, answering for all adapters together."""
    inner, single = model.get_base_model(), model.get_base_model().forward

    def forward(input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        output: Any = None
        total: Any = None
        certain: Any = None
        for name in adapters:
            model.base_model.set_adapter(name)
            output = single(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            logits = output.logits.float()
            if combine == "average":
                total = logits if total is None else total + logits
                continue
            entropy = -torch.xlogy(probability := logits.softmax(-1), probability).sum(-1, keepdim=True)
            total = logits if total is None else torch.where(entropy < certain, logits, total)
            certain = entropy if certain is None else torch.minimum(entropy, certain)
        assert output is not None
        output.logits = total / len(adapters) if combine == "average" else total
        return output

    def whole_prompt(input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    # Instance attributes: the class stays the architecture's own, and so do its tokens, head and generation.
    inner.forward, inner.prepare_inputs_for_generation = forward, whole_prompt
    inner.ensemble_combine = combine  # part of the digest: the same adapters, combined otherwise, answer otherwise
    for parameter in inner.parameters():
        parameter.requires_grad_(False)
    return inner

"""Configuration that decides what a model's weights compute, and its digest.

The same weights under another normalization constant, rotary base, activation, scaling of an adapter or quantization are another
model. Entries that only name a path, a version or a default of training and generation do not count.

Two forms: the entries as the library reads them, with all defaults filled in, compare models that are loaded by one program; the
digest is over the entries as they are stored in the model's folder, so that anybody can compute it from the files alone, whatever
the version of the library. Importing this module imports no torch.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.io.files import read_json

IRRELEVANT = frozenset(
    {
        # names, versions, and how the weights are stored
        "_name_or_path",
        "architectures",
        "base_model_name_or_path",
        "dtype",
        "finetuning_task",
        "id2label",
        "inference_mode",
        "label2id",
        "num_labels",
        "peft_version",
        "problem_type",
        "revision",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        # what a call returns, and how it is computed
        "_attn_implementation_autoset",
        "attn_implementation",
        "chunk_size_feed_forward",
        "gradient_checkpointing",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pretraining_tp",
        "return_dict",
        "torchscript",
        "use_cache",
        # training
        "initializer_factor",
        "initializer_range",
        "loftq_config",
        "router_aux_loss_coef",
        "runtime_config",
        # generation
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
    }
)
"""Entries at any depth that do not change the model's output in evaluation."""
GENERATION = frozenset(
    {
        "bad_words_ids",
        "do_sample",
        "early_stopping",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "no_repeat_ngram_size",
        "num_beams",
        "num_return_sequences",
        "prefix",
        "repetition_penalty",
        "task_specific_params",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)
"""Entries of the outermost level that older versions of `transformers` kept for generation."""
NOISE = re.compile(r"(dropout|pdrop|layerdrop|drop_rate|dropout_prob|drop_prob)$")
"""Names of dropout rates, which evaluation does not use."""
WHOLE, ADAPTER, LOADING, ENSEMBLE = "config.json", "adapter_config.json", "base_loading_config.json", "ensemble.json"

UNORDERED = frozenset({"target_modules", "exclude_modules", "modules_to_save"})
"""Entries of adapters that are sets, stored as lists in any order."""


class BaseNotHereError(InputError):
    """The base of an adapter is not a folder on this machine."""


Entries = dict[str, Any]
"""Values by dotted name, such as `rope_parameters.rope_theta`."""


def entries_of(model: Any) -> Entries:
    """Return the entries of a loaded model's configuration that decide its output, an adapter's left out.

    Every default is filled in, so that two models that one program has loaded can be compared entry by entry.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return relevant(base.config.to_dict())


def relevant(settings: Mapping[str, Any]) -> Entries:
    """Return the entries that decide a model's output, by dotted name, in the order of their names."""
    return dict(sorted(_flat({name: value for name, value in settings.items() if name not in GENERATION}, "")))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the entries in which two configurations differ: name, value in the first, value in the second, as JSON."""
    values = [(name, _shown(one.get(name)), _shown(other.get(name))) for name in sorted(one.keys() | other.keys())]
    return [entry for entry in values if entry[1] != entry[2]]


def named_base(folder: str | Path) -> str | None:
    """Return the name or folder of the base that an adapter or ensemble names; None for a whole model."""
    for file, entry in ((ENSEMBLE, "base"), (ADAPTER, "base_model_name_or_path")):
        if (Path(folder) / file).is_file():
            return str(_object(Path(folder) / file).get(entry))
    return None


def folder_configuration(folder: str | Path, base: str | Path | None = None, quantize: str | None = None) -> str:
    """Compute the digest of the configuration of a model's folder, from its files alone.

    Args:
        folder: a whole model, an adapter or an ensemble of adapters.
        base: the folder of an adapter's base; the default is the one that it names.
        quantize: "4bit" or "8bit" where the model is quantized while it is loaded.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        InputError: a configuration is damaged.
        BaseNotHereError: the base is not a folder on this machine.
    """
    folder = Path(folder)
    parts: dict[str, Any] = {} if quantize is None else {"quantize": quantize}
    if (folder / ENSEMBLE).is_file():
        about = _object(folder / ENSEMBLE)
        parts["ensemble"] = {"combine": about.get("combine")}
        # The adapters' configurations are in the digests that the description itself lists.
        parts["adapters"] = about.get("adapters")
    elif (folder / ADAPTER).is_file():
        parts["adapters"] = {"default": relevant(_object(folder / ADAPTER))}
        if (folder / LOADING).is_file():
            parts["quantize"] = _object(folder / LOADING).get("base_loaded_in")
    base = base or named_base(folder) or folder
    whole = Path(base) / WHOLE
    if not whole.is_file():
        raise BaseNotHereError(
            f"the base of {folder}, {base}, is not a model's folder on this machine. Give its folder with --base DIR."
        )
    return digest_of({**parts, "config": relevant(_object(whole))})


def memory_configuration(model: Any) -> str:
    """Compute the digest of the configuration of a model in memory, as it would be saved."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapters = getattr(model, "peft_config", None) or {}
    parts: dict[str, Any] = {"config": relevant(json.loads(base.config.to_json_string()))}
    if adapters:
        parts["adapters"] = {name: relevant(config.to_dict()) for name, config in adapters.items()}
    if (combine := getattr(model, "ensemble_combine", None)) is not None:
        parts["ensemble"] = {"combine": combine}
    return digest_of(parts)


def digest_of(content: Mapping[str, Any]) -> str:
    """Compute SHA-256 of nested settings, independent of order and of how a number is written, in hexadecimal."""
    text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(settings: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested settings by dotted name, without the irrelevant ones."""
    for name, value in settings.items():
        if name in IRRELEVANT or NOISE.search(str(name)):
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        elif name in UNORDERED and isinstance(value, list | tuple):
            yield f"{before}{name}", frozenset(map(str, value))
        else:
            yield f"{before}{name}", value


def _plain(value: Any) -> Any:
    """Return a value in one form: sets as sorted lists, whole numbers as integers, enumerations and types as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Enum):
        return str(value.value)
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _shown(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path, constants=True)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration. Save the model again.")
    return content

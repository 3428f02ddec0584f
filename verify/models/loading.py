"""Load causal language models and adapters, with digests of their weights and tokenizers.

Weights are read from safetensors or GGUF (`verify.models.gguf_models`) only and a repository's code is never executed
(`verify.models.folder_checks` runs before anything is opened); every weight must match the model
(`verify.models.checked_loading`); weights that are not finite are refused, and so is a tokenizer that does not belong to the model.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from verify.errors import InputError
from verify.io.digests import tokenizer_digest
from verify.io.files import read_json
from verify.models.adapter_types import require_supported
from verify.models.architectures import architecture_facts, require_causal_model
from verify.models.checked_loading import load_adapter, load_whole
from verify.models.configuration import folder_configuration, memory_configuration, named_base
from verify.models.digests import weights_digest
from verify.models.ensembles import ENSEMBLE, load_ensemble
from verify.models.folder_checks import local_folder, require_adapter_weights, require_safe_folder
from verify.models.gguf_files import is_gguf, read_gguf
from verify.models.gguf_models import gguf_model
from verify.models.gguf_tokenizers import gguf_tokenizer
from verify.models.quantized import is_quantized, keep_layout, loading_arguments, remembered_quantization
from verify.models.weight_files import INDEX, WHOLE

# Read once, by the first matrix product of a process on a GPU; without it no deterministic kernels can be had later
# (`verify.training.deterministic`).
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: the `transformers` model, or the PEFT model around it, in evaluation mode.
        tokenizer: its fast tokenizer.
        name: its name in reports: the folder's or Hub repository's name; never a full path.
        digest: SHA-256 over all weights, in hexadecimal, independent of how they are sharded.
        tokenizer_digest: SHA-256 over the tokenizer's behaviour, in hexadecimal.
        file_digest: SHA-256 of the GGUF file, in hexadecimal; None for a model from a folder or in memory.
        architecture: sizes and the like by their names in the configuration.
        stored_configuration: digest of the configuration in its folder's files; None for a GGUF file or a model in memory.
        place: absolute path of the folder or file it was loaded from, or its Hub name; None for a model in memory.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    tokenizer_digest: str
    file_digest: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict, repr=False)
    stored_configuration: str | None = None
    place: str | None = field(default=None, repr=False)

    @property
    def configuration(self) -> str:
        """SHA-256 of the configuration that decides what the weights compute, in hexadecimal."""
        return self.stored_configuration or memory_configuration(self.model)

    @property
    def context_length(self) -> int:
        """Largest number of tokens the model reads at once."""
        return context_length(self.model, self.tokenizer)


def load_model(
    source: Any,
    *,
    tokenizer: Any = None,
    base: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    quantize: str | None = None,
) -> LoadedModel:
    """Load a causal language model, or wrap one that is already in memory.

    Args:
        source: a folder, a GGUF file, a Hub name, a `PreTrainedModel`, a `PeftModel` or a `LoadedModel`, which is returned as it
            is.
        tokenizer: the tokenizer of a model in memory, or a folder that holds one; for a folder, overrides the one in it.
        base: for an adapter folder, the base model's folder; the default is the one named in its `adapter_config.json`.
        dtype: "auto" (as stored; float32 for a quantized GGUF file), "float32", "bfloat16" or "float16"; or the `torch.dtype` of
            that name.
        device: "cpu", "cuda", ...; the default is a GPU if there is one.
        quantize: load the layers in "4bit" or "8bit"; the digest is then that of the quantized weights. An adapter that was trained
            on a quantized base gets the same base without this argument.

    Returns:
        the model in evaluation mode, with its tokenizer and digests.

    Raises:
        InputError: the folder or file is missing, incomplete, tampered with, holds pickles or code, its weights do not fit the
            model or are not finite, the model is not a causal language model, or the tokenizer does not belong to it.
    """
    if isinstance(source, LoadedModel):
        return source
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(tokenizer)
    if isinstance(source, (str, Path)):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, tokenizer_source = _load_folder(str(source), base, str(dtype).removeprefix("torch."), quantize, device)
        tokenizer, name = tokenizer or load_tokenizer(tokenizer_source), Path(source).name or Path(source).resolve().name
    else:
        model, name = source, type(source).__name__
        if quantize is not None:
            raise InputError("a model in memory cannot be quantized. Give its folder, or leave out --quantize.")
        if tokenizer is None:
            raise InputError("a model in memory needs its tokenizer too: pass tokenizer=..., or give the model's folder.")
    require_supported(model, name)
    require_causal_model(model)
    require_finite(model, name)
    require_fitting_tokenizer(model, tokenizer, name)
    if is_quantized(model):  # placed on its device while it was loaded
        keep_layout(model)
    elif isinstance(source, (str, Path)):
        model = model.to(device)
    digest = read_gguf(source).digest() if is_gguf(source) else None
    facts = architecture_facts(model.config)
    stored = _stored_configuration(source, base, quantize) if isinstance(source, (str, Path)) else None
    place = str(Path(source).resolve() if Path(source).exists() else source) if isinstance(source, (str, Path)) else None
    digests = weights_digest(model), tokenizer_digest(tokenizer)
    return LoadedModel(model.eval(), tokenizer, name, *digests, digest, facts, stored, place)


def _stored_configuration(source: str | Path, base: str | Path | None, quantize: str | None) -> str | None:
    """Compute the digest of the configuration in a model's files; None where it, or its base, is a GGUF file."""
    if is_gguf(source):
        return None
    folder = Path(source) if Path(source).is_dir() else local_folder(source)
    below = base or named_base(folder)
    if below is not None and is_gguf(below):
        return None
    found = below if below is None or Path(below).is_dir() else local_folder(below)
    return folder_configuration(folder, found, quantize)


def load_tokenizer(source: str | Path) -> Any:
    """Load a tokenizer from a folder, a GGUF file or the Hub, without running any code of its repository.

    Raises:
        InputError: there is none, or the folder is unsafe to open.
    """
    from transformers import AutoTokenizer

    if is_gguf(source):
        return gguf_tokenizer(read_gguf(source))
    require_safe_folder(source)
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - of many unrelated types; tokenizers raises a bare Exception
        raise InputError(
            f"no tokenizer could be loaded from {source} ({type(error).__name__}). "
            "Save it beside the model with tokenizer.save_pretrained(...), or name it with --tokenizer."
        ) from None


def _load_folder(source: str, base: str | Path | None, dtype: str, quantize: str | None, device: str) -> tuple[Any, str]:
    """Load a model from a folder, a file or the Hub; return it and the source of its tokenizer: an adapter may lack one."""
    if is_gguf(source):
        return _load_gguf(source, dtype, quantize), source
    folder = local_folder(source)
    require_adapter_weights(source, folder)
    _require_one_model(source, folder)
    if (folder / ENSEMBLE).is_file():
        named_base = None if base is None else str(base)
        if quantize is not None:
            raise InputError(f"{source} is an ensemble of adapters, whose base cannot be quantized. Leave out --quantize.")
        return load_ensemble(folder, lambda path: _load_folder(path, None, dtype, None, device)[0], named_base), source
    if not (folder / "adapter_config.json").is_file():
        return _load_whole(source, folder, dtype, quantize, device), source
    settings = read_json(folder / "adapter_config.json", constants=True)
    if not isinstance(settings, dict):
        raise InputError(f"{folder / 'adapter_config.json'} is not an adapter's configuration. Save the adapter again.")
    named = settings.get("base_model_name_or_path")
    if base is None and not named:
        raise InputError(f"{source} is an adapter that names no base model. Give its folder with --base DIR.")
    base_source, quantize = str(base or named), remembered_quantization(folder, quantize)
    base_model = _load_base(source, base_source, dtype, quantize, device)
    model = load_adapter(base_model, folder, trainable=True)
    return model, source if (folder / "tokenizer_config.json").is_file() else base_source


def _load_base(source: str, base_source: str, dtype: str, quantize: str | None, device: str) -> Any:
    """Load the base of an adapter, which may be a whole model only."""
    if is_gguf(base_source):
        return _load_gguf(base_source, dtype, quantize)
    base_folder = local_folder(base_source)
    if (base_folder / "adapter_config.json").is_file() or (base_folder / ENSEMBLE).is_file():
        raise InputError(
            f"the base of the adapter {source}, {base_source}, is an adapter itself. Give the underlying model with --base DIR, "
            "or merge the lower adapter first (merge_and_unload of PEFT) and save the result."
        )
    return _load_whole(base_source, base_folder, dtype, quantize, device)


def _require_one_model(source: str, folder: Path) -> None:
    """Refuse a folder that holds a whole model's weights as well as an adapter or ensemble: programs differ in which they serve."""
    other = next((name for name in (ENSEMBLE, "adapter_config.json") if (folder / name).is_file()), None)
    whole = next((name for name in (WHOLE, INDEX) if (folder / name).is_file()), None)
    if other is not None and whole is not None:
        raise InputError(
            f"{source} holds both {other} and {whole}, which are two models; programs differ in which one they serve. "
            "Move one of the two into a folder of its own, and give the one that is served."
        )


def _load_whole(source: str, folder: Path, dtype: str, quantize: str | None, device: str) -> Any:
    """Load a model that is not an adapter, in the given precision or quantization."""
    precision = _precision(dtype) or "auto"
    more = {} if quantize is None else loading_arguments(str(folder), quantize, precision, device)
    return load_whole(folder, source, {"dtype": precision, **more})


def _load_gguf(source: str, dtype: str, quantize: str | None) -> Any:
    """Load a GGUF file, dequantized to the given precision."""
    precision = _precision(dtype)
    if quantize is not None:
        raise InputError(f"{source} is a GGUF file, whose weights are quantized already. Leave out --quantize.")
    return gguf_model(read_gguf(source), precision)


def _precision(dtype: str) -> torch.dtype | None:
    """Return the precision of that name; None for "auto"."""
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"--dtype {dtype} is unknown. Use auto, {', '.join(DTYPES)}.")
    return DTYPES.get(dtype)


def require_finite(model: nn.Module, name: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        InputError: one does; the message names the first tensor.
    """
    for key, tensor in model.state_dict().items():
        # A sum is finite only if all its terms are; it may overflow, so one that is not says nothing yet.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"the weights of {name} are not finite ({key}): the model is damaged or its training diverged. "
                "Give an earlier checkpoint."
            )


def require_fitting_tokenizer(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that gives no character offsets, or ids for which the model has no embedding.

    Raises:
        InputError: it does not belong to the model, or is not a fast tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer of {name} ({type(tokenizer).__name__}) gives no character offsets. "
            "Save the fast tokenizer (tokenizer.json) beside the model, or name one with --tokenizer DIR."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, but the model embeds only {rows}: they do not belong "
            "together. Give the tokenizer the model was trained with (--tokenizer DIR)."
        )


def require_same_tokenizer(models: Iterable[LoadedModel]) -> None:
    """Require that all models share one tokenizer, without which losses per token are not comparable.

    A model from a GGUF file must also have the architecture of the first: the file may be of another model altogether. Models
    from folders may differ in it on purpose.

    Raises:
        InputError: two of them have different tokenizers, or the file is of another architecture.
    """
    first, *others = list(models)
    for other in others:
        if other.tokenizer_digest != first.tokenizer_digest:
            raise InputError(
                f"{first.name} and {other.name} have different tokenizers, so their losses per token cannot be compared. "
                "Give models that were trained with the same tokenizer, or one tokenizer for all with --tokenizer DIR."
            )
        different = next((name for name, value in first.architecture.items() if other.architecture.get(name) != value), None)
        if different is not None and (first.file_digest or other.file_digest):
            raise InputError(
                f"{first.name} and {other.name} are not the same architecture: {different} is {first.architecture[different]} in "
                f"one and {other.architecture.get(different)} in the other. Give the GGUF file that was made from the model."
            )


def context_length(model: Any, tokenizer: Any) -> int:
    """Return the smaller of the context lengths that the model's positions and its tokenizer allow, in tokens."""
    config = model.config.get_text_config()  # of a multimodal model, the language model's part
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_sequence_length")]
    known = [int(limit) for limit in (*limits, tokenizer.model_max_length) if limit and limit > 0]
    return min(known)

"""The only door to `transformers`: models come in safely, with a digest of what they are.

A model folder is untrusted input. Weights are read from safetensors only (a pickle runs code when it is opened), repository
code is never executed, a manifest is checked where there is one, and weights that are not finite are refused.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from verify.ensembles import ENSEMBLE, load_ensemble
from verify.errors import InputError, IntegrityError
from verify.files import MANIFEST, read_json, verify_manifest
from verify.quantized import is_quantized, keep_layout, loading_arguments, remembered_quantization

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
LOADED_FILES = ("*.safetensors", "*.safetensors.index.json", "*config.json", "*token*.json", "vocab.*", "merges.txt", "*.jinja")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: the `transformers` model, or the PEFT model around it, in evaluation mode.
        tokenizer: its fast tokenizer.
        name: how reports call it: the folder's or Hub repository's name; never a full path.
        digest: SHA-256 over all weights, in hexadecimal: the same weights have the same digest however they are sharded.
        tokenizer_digest: SHA-256 of what the tokenizer does, in hexadecimal.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    tokenizer_digest: str

    @property
    def context_length(self) -> int:
        """The most tokens the model reads at once."""
        return context_length(self.model, self.tokenizer)


def load_model(
    source: Any,
    *,
    tokenizer: Any = None,
    base: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    quantize: str | None = None,
) -> LoadedModel:
    """Load a causal language model, or take one that is already in memory.

    Args:
        source: a folder, a Hub name, a `PreTrainedModel`, a `PeftModel` or a `LoadedModel`.
        tokenizer: the tokenizer of a model in memory; for a folder, overrides the one in it.
        base: for an adapter folder, the base model's folder; the default is the one named in its `adapter_config.json`.
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", ...; the default is a GPU where there is one.
        quantize: keep the layers in "4bit" or "8bit"; the digest is then that of the quantized weights. An adapter that was
            trained on such a base gets one again without being asked.

    Raises:
        InputError: the folder is missing, incomplete, tampered with, holds pickles or code, its weights are not finite, or
            the tokenizer does not belong to the model.
    """
    if isinstance(source, LoadedModel):
        return source
    if isinstance(source, (str, Path)):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, tokenizer_source = _load_folder(str(source), base, dtype, quantize, device)
        tokenizer, name = tokenizer or load_tokenizer(tokenizer_source), Path(source).name or Path(source).resolve().name
    else:
        model, name = source, type(source).__name__
        if quantize is not None:
            raise InputError("a model in memory cannot be quantized any more. Give its folder, or leave out --quantize.")
        if tokenizer is None:
            raise InputError("a model in memory needs its tokenizer too: pass tokenizer=..., or give the model's folder.")
    require_finite(model, name)
    require_fitting_tokenizer(model, tokenizer, name)
    if is_quantized(model):
        keep_layout(model)
    elif isinstance(source, (str, Path)):
        model = model.to(device)
    return LoadedModel(model.eval(), tokenizer, name, weights_digest(model), tokenizer_digest(tokenizer))


def load_tokenizer(source: str | Path) -> Any:
    """Load a tokenizer from a folder or the Hub, without running any code of its repository."""
    from transformers import AutoTokenizer

    require_safe_folder(source)
    try:
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"no tokenizer could be loaded from {source} ({type(error).__name__}). "
            "Save it beside the model with tokenizer.save_pretrained(...), or name it with --tokenizer."
        ) from None


def _load_folder(source: str, base: str | Path | None, dtype: str, quantize: str | None, device: str) -> tuple[Any, str]:
    """The model, and where its tokenizer lies: an adapter without one uses its base model's."""
    from peft import PeftModel

    require_safe_folder(source)
    folder = Path(source)
    if (folder / ENSEMBLE).is_file():
        named_base = None if base is None else str(base)
        if quantize is not None:
            raise InputError(f"{source} answers by several adapters, whose base cannot be quantized. Leave out --quantize.")
        return load_ensemble(folder, lambda place: _load_folder(place, None, dtype, None, device)[0], named_base), source
    if not (folder / "adapter_config.json").is_file():
        return _from_pretrained(source, dtype, quantize, device), source
    settings = read_json(folder / "adapter_config.json")
    if not isinstance(settings, dict):
        raise InputError(f"{folder / 'adapter_config.json'} is not an adapter's configuration. Save the adapter again.")
    named = settings.get("base_model_name_or_path")
    if base is None and not named:
        raise InputError(f"{source} is an adapter that names no base model. Give its folder with --base DIR.")
    base_source = str(base or named)
    require_safe_folder(base_source)
    base_model = _from_pretrained(base_source, dtype, remembered_quantization(folder, quantize), device)
    try:
        model = PeftModel.from_pretrained(base_model, source, is_trainable=True)
    except Exception as error:  # noqa: BLE001 - many unrelated types, all of which mean "not an adapter of this model"
        raise InputError(
            f"the adapter {source} could not be put on {base_source} ({type(error).__name__}). "
            "Give the base model it was trained on with --base DIR, or save the adapter again."
        ) from None
    return model, source if (folder / "tokenizer_config.json").is_file() else base_source


def _from_pretrained(source: str, dtype: str, quantize: str | None, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"--dtype {dtype} is unknown. Use auto, {', '.join(DTYPES)}.")
    precision = DTYPES.get(dtype, "auto")
    try:
        more = {} if quantize is None else loading_arguments(source, quantize, precision, device)
        return AutoModelForCausalLM.from_pretrained(source, dtype=precision, use_safetensors=True, trust_remote_code=False, **more)
    except Exception as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"no causal language model could be loaded from {source}: {reason} "
            "Give a folder written by save_pretrained(...) with config.json and *.safetensors, or a Hub name."
        ) from None


def require_safe_folder(source: str | Path) -> None:
    """Check a local folder before anything in it is opened; a Hub name passes (its files are checked by the loaders).

    Raises:
        InputError: not a folder, pickle weights, code to run (`auto_map`), or a manifest that does not verify.
    """
    folder = Path(source)
    if folder.is_file():
        raise InputError(f"{source} is a file. Give the model's folder.")
    if not folder.is_dir():
        if str(source).count("/") > 1 or str(source).startswith((".", "/", "~")):
            raise InputError(f"{source} does not exist. Give a model's folder or a Hub name like owner/name.")
        return
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json", "tokenizer.json")):
        raise InputError(f"{source} holds no model (no config.json or adapter_config.json). Give a model's folder.")
    if (folder / MANIFEST).exists():
        require_listed(folder, verify_manifest(folder))
    _require_files_inside(folder)
    for path in sorted(folder.glob("*.json")):
        content = read_json(path) if path.name.endswith("config.json") else None
        if isinstance(content, dict) and "auto_map" in content:
            raise InputError(
                f"{path} asks to run code from the model's folder (auto_map); this tool never does. "
                "Convert the model to an architecture of transformers and remove that entry."
            )
    adapter = (folder / "adapter_config.json").is_file()
    pickles = [path.name for path in sorted(folder.iterdir()) if path.name.startswith(("pytorch_model", "adapter_model"))]
    pickles = [name for name in pickles if name.endswith(PICKLE_SUFFIXES)]
    # PEFT opens adapter_model.bin wherever adapter_model.safetensors is missing, whatever else lies in the folder.
    has_safetensors = any(folder.glob("adapter_model.safetensors" if adapter else "*.safetensors"))
    if pickles and not has_safetensors:
        raise InputError(
            f"{source} holds its weights as pickle ({pickles[0]}), which can run code when opened; this tool never opens one. "
            "Where you trust it, load it yourself and save it with save_pretrained(...), which writes safetensors."
        )


def _require_files_inside(folder: Path) -> None:
    """Refuse an index of weights that names files elsewhere: the loader would follow it out of the folder."""
    for path in sorted(folder.glob("*.index.json")):
        index = read_json(path)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or any(not isinstance(name, str) or Path(name).name != name for name in places.values()):
            raise InputError(
                f"{path} names weights outside its folder, or is damaged. Save the model again with save_pretrained(...)."
            )


def require_listed(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise IntegrityError where a file that the loaders would read lies in `folder` but not in its manifest."""
    for path in sorted(folder.iterdir()):
        if path.name not in manifest["files"] and any(path.match(pattern) for pattern in LOADED_FILES):
            raise IntegrityError(
                f"{path} was added after the directory was finished: the manifest does not list it. "
                "Remove the file, or make the directory again."
            )


def require_finite(model: nn.Module, name: str) -> None:
    """Raise InputError naming the first weight tensor that holds NaN or infinity."""
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"the weights of {name} are not finite ({key}): the model is damaged or its training diverged. "
                "Give an earlier checkpoint."
            )


def require_fitting_tokenizer(model: Any, tokenizer: Any, name: str) -> None:
    """Raise InputError where the tokenizer can produce ids for which the model has no embedding."""
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
    """Raise InputError unless all models share one tokenizer: losses per token are comparable only then."""
    first, *others = list(models)
    for other in others:
        if other.tokenizer_digest != first.tokenizer_digest:
            raise InputError(
                f"{first.name} and {other.name} have different tokenizers, so their losses per token cannot be compared. "
                "Give models that were trained with the same tokenizer."
            )


def context_length(model: Any, tokenizer: Any) -> int:
    """The smaller of what the model's positions and its tokenizer allow."""
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_sequence_length")]
    known = [int(limit) for limit in (*limits, tokenizer.model_max_length) if limit and limit > 0]
    return min(known)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, also of one that lies in parts on several processes; all of them call this together."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, in hexadecimal; the same however they are spread."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        value: Tensor = whole(tensor.detach()).cpu().contiguous()
        digest.update(f"{key}\x00{value.dtype}\x00{tuple(value.shape)}\x00".encode())
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the tokenizer's rules, special tokens and chat template; padding and truncation settings do not count."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    content = {
        "rules": {name: value for name, value in rules.items() if name not in ("padding", "truncation")},
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "chat_template": str(tokenizer.chat_template),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def greedy_continuations(
    loaded: LoadedModel, prompts: Sequence[NDArray[Any]], lengths: Sequence[int], batch_size: int = 32
) -> list[list[int]]:
    """Continue each prompt by its own number of tokens, always with the most probable one.

    The model's own generation settings are set aside: a repetition penalty or a list of forbidden words, which a model folder
    can bring along, would hide what the weights remember.

    Args:
        loaded: the model.
        prompts: token ids, one array [P_i] each, not empty.
        lengths: how many tokens to make for each; prompt and continuation fit into the context together.
        batch_size: the most prompts per batch; they are sorted by length, so that padding stays small.

    Returns:
        token ids, at most `lengths[i]` each (fewer where the model ended the text).
    """
    from transformers import GenerationConfig

    model, device = loaded.model, next(loaded.model.parameters()).device
    pad = loaded.tokenizer.pad_token_id if loaded.tokenizer.pad_token_id is not None else (loaded.tokenizer.eos_token_id or 0)
    eos = loaded.tokenizer.eos_token_id
    results: list[list[int]] = [[] for _ in prompts]
    with _own_generation_settings_aside(model), torch.inference_mode():
        for indices in _generation_batches([len(prompt) for prompt in prompts], lengths, batch_size, loaded.context_length):
            width = max(len(prompts[index]) for index in indices)
            ids = torch.full((len(indices), width), pad, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(indices):  # padded on the left: generation continues at the right edge
                ids[row, width - len(prompts[index]) :] = torch.as_tensor(prompts[index].astype("int64"))
                mask[row, width - len(prompts[index]) :] = 1
            settings = GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=max(lengths[index] for index in indices), do_sample=False, pad_token_id=pad, eos_token_id=eos
            )
            made = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings)
            for row, index in enumerate(indices):
                tokens = made[row, width:].tolist()[: lengths[index]]
                results[index] = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
    return results


def sampled_continuations(
    loaded: LoadedModel,
    prompt: NDArray[Any],
    length: int,
    samples: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[list[int]]:
    """Continue one prompt several times by sampling; the global random state is left as it was.

    Args:
        loaded: the model.
        prompt: token ids [P], not empty.
        length: how many tokens to make at most; prompt and continuation fit into the context together.
        samples: how many continuations.
        temperature, top_k, top_p: of the sampling; top_k 0 keeps all tokens.
        seed: of the draws.

    Returns:
        token ids, `samples` lists of at most `length`.
    """
    from transformers import GenerationConfig

    model, device = loaded.model, next(loaded.model.parameters()).device
    eos = loaded.tokenizer.eos_token_id
    pad = loaded.tokenizer.pad_token_id if loaded.tokenizer.pad_token_id is not None else (eos or 0)
    if length < 1:
        return [[] for _ in range(samples)]
    ids = torch.as_tensor(prompt.astype("int64"), device=device)[None]
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length,
        do_sample=True,
        num_return_sequences=samples,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        pad_token_id=pad,
        eos_token_id=eos,
    )
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), _own_generation_settings_aside(model), torch.inference_mode():
        torch.manual_seed(seed)
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    rows = made[:, ids.shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@contextmanager
def _own_generation_settings_aside(model: Any) -> Iterator[None]:
    """`generate` fills every setting that is not given from `model.generation_config`; meanwhile, give it an empty one."""
    from transformers import GenerationConfig

    holders = [model] if not hasattr(model, "get_base_model") else [model, model.get_base_model()]
    kept = [holder.generation_config for holder in holders]
    try:
        for holder in holders:
            holder.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        yield
    finally:
        for holder, settings in zip(holders, kept, strict=True):
            holder.generation_config = settings


def _generation_batches(
    prompt_lengths: Sequence[int], lengths: Sequence[int], batch_size: int, context: int
) -> Iterator[list[int]]:
    """Group prompts of like length; no row of a batch is continued beyond the context for the sake of another."""
    batch: list[int] = []
    longest_prompt = 0
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], prompt_lengths[index])):
        longest_prompt = max(longest_prompt, prompt_lengths[index])
        if batch and (len(batch) == batch_size or longest_prompt + lengths[index] > context):
            yield batch
            batch, longest_prompt = [], prompt_lengths[index]
        batch.append(index)
    if batch:
        yield batch

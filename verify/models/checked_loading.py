"""Checked loading of weights into a model, from a folder, a Hub repository, or tensors in memory: the only way weights get in.

All weights are compared with the model they are loaded into (`verify.models.placement`), by the loader's own report and by names
and shapes in the files. Tensors that are missing, left over or of another shape are an error, never a warning.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verify.errors import InputError, IntegrityError
from verify.models.adapter_types import is_adapter, require_known_entries, require_supported_type
from verify.models.architectures import require_causal_folder, require_causal_model
from verify.models.placement import Unplaced, compared, compared_with_model, is_rearranged, require_placed
from verify.models.weight_files import ADAPTER, stored_tensors, tensors_of

ABOUT_WEIGHTS = re.compile(
    r"missing adapter keys|not initialized|newly initialized|were not used|corrupted|mismatch", re.IGNORECASE
)
"""Matches libraries' warnings about weights that were not loaded."""
SAVE_MODEL = "Copy the model's folder again, whole, or save the model again with save_pretrained(...)."
WHOLE_FILE = "Give a file that holds exactly one whole model of that architecture."
SAVE_ADAPTER = "Give the base model it was trained on with --base DIR, or save the adapter again."
RESTORE = "Restore the folder, or make it again."
PEFT_PREFIX = "base_model.model."


def load_whole(folder: Path, name: str, arguments: Mapping[str, Any]) -> Any:
    """Load a causal language model from a local folder.

    Args:
        folder: with config.json and safetensors; checked by `verify.models.folder_checks` before.
        name: the model's name in messages and in the model itself: the folder, or the Hub repository it was fetched from.
        arguments: further arguments of `from_pretrained`: dtype, quantization, device.

    Returns:
        the model.

    Raises:
        InputError: the folder holds no causal language model, or not exactly its weights.
    """
    from transformers import AutoModelForCausalLM

    require_causal_folder(folder)
    stored = stored_tensors(folder)
    with _warnings_about_weights() as said:
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported instead of raised one at a time
                **arguments,
            )
        except Exception as error:  # noqa: BLE001 - of many unrelated types; the reason given by transformers is passed on
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"no causal language model could be loaded from {name}: {reason} "
                "Give a folder written by save_pretrained(...) with config.json and *.safetensors, or a Hub name."
            ) from None
    model, report = loaded
    _require_report(report, compared_with_model(stored, model), name, SAVE_MODEL, said)
    require_causal_model(model)
    if str(folder) != name:
        model.name_or_path = model.config.name_or_path = name  # the base's name in adapters trained on it
    return model


def load_tensors(kind: Any, config: Any, tensors: dict[str, Tensor], name: str, dtype: torch.dtype) -> Any:
    """Build a causal language model from a configuration and all of its weights in memory.

    Args:
        kind: class of the model.
        config: its configuration.
        tensors: the weights by name, which the model takes over.
        name: the model's name in messages.
        dtype: precision of the model.

    Raises:
        InputError: the tensors are not exactly the model's.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    with _warnings_about_weights() as said:
        model, report = kind.from_pretrained(
            None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    _require_report(report, compared_with_model(shapes, model), name, WHOLE_FILE, said)
    require_causal_model(model)
    return model


def _require_report(report: Mapping[str, Any], found: Unplaced, name: str, advice: str, said: list[str]) -> None:
    """Require that neither the loader nor the comparison of names and shapes found an unplaced tensor."""
    reported = Unplaced(
        frozenset(report["missing_keys"]),
        frozenset(report["unexpected_keys"]),
        {key: (tuple(there), tuple(here)) for key, there, here in report["mismatched_keys"]},
    )
    require_placed(reported | found, name, advice, extra=[*report.get("error_msgs", []), *said])


def load_adapter(model: Any, folder: Path, *, adapter: str = "default", trainable: bool = False) -> Any:
    """Load a saved adapter onto a base model, or another one onto a `PeftModel`.

    Args:
        model: the base model, or a `PeftModel` that gets another adapter.
        folder: with adapter_config.json and adapter_model.safetensors.
        adapter: its name in the model.
        trainable: whether its weights require gradients.

    Returns:
        the `PeftModel`.

    Raises:
        InputError: the adapter is of an unsupported kind, does not belong to the base, or is configured by entries that the
            installed version of PEFT does not know.
    """
    from peft import PeftConfig, PeftModel

    stored = tensors_of(folder / ADAPTER)
    base = model.get_base_model() if is_adapter(model) else model
    failure: Exception | None = None
    with _warnings_about_weights() as said:
        try:
            config = PeftConfig.from_pretrained(str(folder))
            require_supported_type(config, str(folder))
            if is_adapter(model):
                model.load_adapter(str(folder), adapter_name=adapter, is_trainable=trainable, ignore_mismatched_sizes=True)
            else:
                model = PeftModel.from_pretrained(
                    base, str(folder), adapter_name=adapter, is_trainable=trainable, ignore_mismatched_sizes=True
                )
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 - many unrelated types, all of which mean "not an adapter of this model"
            failure = error
    unplaced = _compared_adapter(stored, base if failure else model, adapter, complaints=bool(said or failure))
    require_placed(unplaced, f"the adapter {folder}", SAVE_ADAPTER, extra=said)
    if failure is not None:
        reason = " ".join(str(failure).split()) or "no reason given"
        raise InputError(
            f"the adapter {folder} could not be loaded onto {base.name_or_path} ({type(failure).__name__}: {reason[:300]}). "
            f"{SAVE_ADAPTER}"
        ) from None
    require_known_entries(config, folder / "adapter_config.json")
    if is_rearranged(base):  # names in the file differ from those in memory, so PEFT's own report is the only check
        put_adapter_weights(model, _read(folder / ADAPTER), str(folder), adapter=adapter, error=InputError)
    return model


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Overwrite all weights of a whole model with tensors of the same names and shapes.

    Raises:
        IntegrityError: the tensors are not exactly the model's; the model is then unchanged.
    """
    unplaced = compared_with_model({key: tuple(value.shape) for key, value in tensors.items()}, model)
    require_placed(unplaced, name, RESTORE, IntegrityError)
    missing, unexpected = model.load_state_dict(dict(tensors), strict=False)
    own = dict(model.named_parameters())  # tied weights are listed once here, and stored once
    require_placed(Unplaced(frozenset(missing) & own.keys(), frozenset(unexpected)), name, RESTORE, IntegrityError)


def put_adapter_weights(
    model: Any,
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    adapter: str = "default",
    error: type[InputError] = IntegrityError,
) -> None:
    """Overwrite an adapter's weights with tensors named as in a saved adapter.

    Args:
        model: the `PeftModel`.
        tensors: tensors by their names in `adapter_model.safetensors`.
        name: name of the tensors' source, for messages.
        adapter: the adapter's name in the model.
        error: type of the error raised.

    Raises:
        IntegrityError: the tensors are not exactly the adapter's (or another `error`).
    """
    from peft import set_peft_model_state_dict

    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    require_placed(_compared_adapter(shapes, model, adapter), name, RESTORE, error)
    with _warnings_about_weights() as said:
        report = set_peft_model_state_dict(model, dict(tensors), adapter_name=adapter)
    require_placed(Unplaced(left_over=frozenset(report.unexpected_keys)), name, RESTORE, error, extra=said)


def put_adapter_file(model: Any, file: Path) -> None:
    """Overwrite the weights of the adapter "default" with those of a file; errors as `put_adapter_weights`."""
    put_adapter_weights(model, _read(file), str(file.parent))


def _compared_adapter(stored: Mapping[str, tuple[int, ...]], model: Any, adapter: str, complaints: bool = False) -> Unplaced:
    """Compare a file's tensors with those of an adapter, in a `PeftModel` or in a base whose layers PEFT has wrapped already.

    Where PEFT rearranges tensors, names are compared only if it reported `complaints`. A file may also hold whole layers of the
    base (a resized embedding, or one that has an adapter), which PEFT loads into the base.
    """
    from peft import get_peft_model_state_dict

    base = model.get_base_model() if is_adapter(model) else model
    if (is_rearranged(base) and not complaints) or adapter not in (getattr(base, "peft_config", None) or {}):
        return Unplaced()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about saving, and nothing is saved here
            found = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    except (KeyError, ValueError):  # some kinds of adapters keep tensors in the `PeftModel`, which was not made
        return Unplaced()
    prefix = "" if is_adapter(model) else PEFT_PREFIX
    own = {f"{prefix}{key}": tuple(value.shape) for key, value in found.items()}
    whole = {
        f"{PEFT_PREFIX}{key}": tuple(value.shape)
        for key, value in base.state_dict().items()
        if not any(f".{name}." in f"{key}." for name in base.peft_config)
    }
    layers = {key: whole[key] for key in stored.keys() & whole.keys() - own.keys()}
    return compared(stored, own | layers)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors_of(file)  # raises a readable error for a damaged file
    return load_file(file)


@contextlib.contextmanager
def _warnings_about_weights() -> Iterator[list[str]]:
    """Collect library warnings about weights within a `with` block, and pass on all others.

    The random state is fixed within the block and restored afterwards: some adapters draw random numbers while they are made (a
    randomized decomposition of the base), and two loads must give the same model.
    """
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught, torch.random.fork_rng(range(torch.cuda.device_count())):
        warnings.simplefilter("default")
        torch.manual_seed(0)
        yield said
    for warning in caught:
        if ABOUT_WEIGHTS.search(str(warning.message)):
            said.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

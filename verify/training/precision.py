"""Training and editing of weights stored in half precision: float32 copies during the run, one stochastic rounding at its end.

A step of 1e-5 is below half a unit in the last place of most bfloat16 weights and would be lost. Weights that are trained or edited
are therefore converted to float32 in place at the start of a run, and back to their stored type at its end:

    theta_stored = SR(train(float32(theta_stored_0))),    SR = `verify.training.rounding.stochastically_rounded`

In between, the run is bit for bit that of `--dtype float32`: optimizers, gradient accumulation, initial outputs, stop rules,
selection of the best step, and checkpoints (which hold the float32 weights) need no special case, and float16 needs no loss
scaling. `--bf16` can be added: it computes in bfloat16, over the float32 weights (`verify.training.arithmetic`).

Alternatives: rounding to nearest at the end loses what the float32 copies gained wherever a whole run moves most weights by less
than half a unit (measured: benchmarks/results/half_precision.md). Copies inside the optimizer, with half-precision weights in the
forward and backward pass, take the same memory, need stochastic rounding in every step instead of once, and bring half-precision
gradients and, in float16, loss scaling.

Memory per trained weight with AdamW or Sophia is 16 bytes (weight 4, gradient 4, two moments 8), as for a model stored in float32.
A frozen weight keeps its 2 bytes. Tensors are converted one after another, so that only one is held twice at a time.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from verify.errors import RunError
from verify.io.files import read_json, write_json
from verify.models.digests import weights_digest, whole
from verify.training.rounding import HALF, stochastically_rounded
from verify.training.sharding import is_sharded, put

MASTER_WEIGHTS = "float32"
"""Entry of the training log for a run whose trained weights were held in float32."""

LARGEST_ERROR, LEAST_ERROR = 0.1, 0.01
"""Changes of the forget loss by rounding that need no warning: this share of the run's own change, or this many nats per token."""

_stored_types: "weakref.WeakKeyDictionary[nn.Module, Mapping[str, torch.dtype]]" = weakref.WeakKeyDictionary()
"""For sharded models: the stored types of weights whose values are rounded but which remain float32 tensors on the devices."""


_apart: ContextVar[bool] = ContextVar("apart", default=True)
"""Whether frozen half-precision layers convert at their borders to the float32 layers around them."""


@contextmanager
def apart(borders: bool) -> Iterator[None]:
    """Set whether frozen half-precision layers convert at their borders, within a `with` block that computes in one type or two."""
    token = _apart.set(borders)
    try:
        yield
    finally:
        _apart.reset(token)


def half_precision(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that are stored in bfloat16 or float16."""
    return [parameter for parameter in parameters if parameter.dtype in HALF]


class Float32Copies:
    """Half-precision parameters of a model, held in float32, in place, until `store`.

    Attributes:
        types: stored type of each converted parameter, by name; empty if none needs converting.
    """

    def __init__(self, model: nn.Module, trained: Iterable[nn.Parameter]) -> None:
        """Convert the half-precision parameters among `trained`, those that are trained or edited; float32 ones are left alone."""
        chosen = {id(parameter) for parameter in half_precision(trained)}
        self._parameters: dict[str, nn.Parameter] = {}
        self._buffers: list[tuple[nn.Module, str, torch.dtype]] = []
        self._hooks: list[Any] = []
        self.types: dict[str, torch.dtype] = {}
        if not chosen:
            return
        for module in model.modules():
            # A layer computes in one type: other parameters of a trained parameter's module are converted with it.
            beside = half_precision(module.parameters(recurse=False))
            if any(id(parameter) in chosen for parameter in beside):
                chosen.update(map(id, beside))
        for name, parameter in model.named_parameters():
            if id(parameter) in chosen:
                self.types[name], self._parameters[name] = parameter.dtype, parameter
                parameter.data = parameter.data.float()  # the same Parameter object, so that tied weights stay tied
                parameter.grad = None
        # Where frozen layers stay in half precision, hooks convert at their borders; else the whole model computes in float32.
        if half_precision(model.parameters()):
            self._hooks = [hook for module in model.modules() for hook in _keep_apart(module)]
        else:
            self._convert_buffers(model)

    def store(self, model: nn.Module, seed: int) -> None:
        """Round the parameters to their stored types, in place.

        Args:
            model: the model; it may have been wrapped, unwrapped or sharded since then.
            seed: seed of the run; determines the random numbers.

        Raises:
            RunError: a weight exceeds the range of its stored type.
        """
        for hook in self._hooks:
            hook.remove()
        current = dict(model.named_parameters())
        beyond = None  # the first parameter out of range; raised at the end, so that no parameter is left in float32
        for name, kind in self.types.items():
            parameter = current.get(name, self._parameters[name])  # sharding replaces the parameters, wrapping renames them
            rounded = stochastically_rounded(whole(parameter.detach()), kind, seed, name)
            if beyond is None and not bool(torch.isfinite(rounded).all()):
                beyond = name, kind
            parameter.grad = None
            if isinstance(parameter, DTensor):
                put(parameter, rounded.float(), kept_whole=True)
            else:
                parameter.data = rounded
        for module, name, kind in self._buffers:
            setattr(module, name, getattr(module, name).to(kind))
        if self.types and is_sharded(model):
            _stored_types[model] = dict(self.types)
        self._parameters, self._buffers, self._hooks = {}, [], []
        if beyond is not None:
            raise RunError(
                f"the weights of {beyond[0]} exceed the range of {type_name(beyond[1])}, in which the model is stored. Lower "
                "--learning-rate, or store the result in float32 with --dtype float32."
            )

    def _convert_buffers(self, model: nn.Module) -> None:
        """Convert half-precision buffers to float32, and remember their types."""
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.dtype in HALF:
                    self._buffers.append((module, name, buffer.dtype))
                    setattr(module, name, buffer.float())


@contextmanager
def float32_copies(model: nn.Module, trained: Iterable[nn.Parameter], seed: int) -> Iterator[Float32Copies]:
    """Hold trained parameters in float32 within the block and round them to their stored types at its end.

    Nested blocks round once: what an outer block holds is in float32 already, and only the outer block rounds it.

    Raises:
        RunError: as `Float32Copies.store`, unless the block raises itself.
    """
    copies = Float32Copies(model, trained)
    try:
        yield copies
    except BaseException:
        with suppress(RunError):  # the block's own error is the cause
            copies.store(model, seed)
        raise
    copies.store(model, seed)


def rounding_facts(kinds: Iterable[torch.dtype], before: float, in_float32: float, stored: float) -> dict[str, Any]:
    """Report how rounding a result to its stored type changed the forget loss, with a warning if it undid or distorted forgetting.

    Args:
        kinds: the stored types.
        before, in_float32, stored: mean loss of the forget records, nats per token: before the run, of the float32 result, and of
            the rounded result.
    """
    name = " and ".join(sorted(map(type_name, kinds)))
    change, error = in_float32 - before, stored - in_float32
    facts: dict[str, Any] = {
        "half_precision": {
            "stored": name,
            "forget_loss_before": before,
            "forget_loss_in_float32": in_float32,
            "forget_loss_as_stored": stored,
        }
    }
    if abs(error) > max(LEAST_ERROR, LARGEST_ERROR * abs(change)):
        facts["rounding_warning"] = (
            f"storing the result in {name} changed its forget loss from {in_float32:.3f} to {stored:.3f} ({before:.3f} before the "
            "run). Audit this result, or store it in float32 with --dtype float32."
        )
    return facts


def type_name(kind: torch.dtype) -> str:
    """Return a type's name as on the command line, such as "bfloat16"."""
    return str(kind).removeprefix("torch.")


def stored_digest(model: nn.Module) -> str:
    """Compute `weights_digest` of a model as it is saved, for a sharded model after conversion to its stored types."""
    return weights_digest(_AsStored(model) if model in _stored_types else model)


def as_stored(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a model's state dict to the types that it is saved in."""
    types = _stored_types.get(model, {})
    return {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in weights.items()}


def note_stored_type(model: nn.Module, folder: Path) -> None:
    """Correct the type in a sharded model's saved configuration, where `save_pretrained` writes that of its float32 tensors."""
    path, kinds = folder / "config.json", set(_stored_types.get(model, {}).values())
    if len(kinds) == 1 and path.is_file():
        write_json(path, {**read_json(path), "dtype": type_name(kinds.pop())})


class _AsStored(nn.Module):
    """A view of a model whose state dict has the stored types."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._viewed = [model]  # in a list, so that it is not registered as a submodule

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the model's state dict, converted."""
        return as_stored(self._viewed[0], self._viewed[0].state_dict())


def _keep_apart(module: nn.Module) -> list[Any]:
    """Hook a layer that stays in half precision among float32 layers: it computes in its own type and returns float32."""
    own = half_precision(module.parameters(recurse=False))
    if not own:
        return []
    kind = own[0].dtype

    def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return (_converted(given, kind), _converted(named, kind)) if _apart.get() else (given, named)

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return _converted(output, torch.float32) if _apart.get() else output

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]


def _converted(value: Any, kind: torch.dtype) -> Any:
    """Convert floating-point tensors to a type, also inside tuples, lists and dictionaries; return everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(kind) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _converted(one, kind) for name, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_converted(one, kind) for one in value)
    return value

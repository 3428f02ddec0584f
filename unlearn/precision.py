"""Training and editing of weights stored in half precision: float32 copies meanwhile, one stochastic rounding at the end.

A step of 1e-5 is below half a unit in the last place of most bfloat16 weights and is lost if it is applied to them. So whatever is
trained or edited is converted to float32 in place when a run begins, and returned to its stored type when the run ends:

    theta_stored = SR(train(float32(theta_stored_0))),    SR = `unlearn.rounding.stochastically_rounded`

Between the two a run is, bit for bit, the one that `--dtype float32` gives: AdamW and Sophia, gradient accumulation, reference
quantities, stop rules, the choice of the best step, checkpoints (which hold the float32 weights) and their resumption need no case
of their own, and float16 needs no loss scaling. `--bf16` computes in bfloat16 on top of it (autocast over float32 weights).

Why not otherwise: float32 copies rounded to nearest at the end lose what they gained wherever a whole run moves most weights by
less than half a unit (measured: benchmarks/results/half_precision.md). Copies inside the optimizer, with half-precision weights in
forward and backward pass, take the same memory, need the same stochastic rounding in every step instead of once, and add
half-precision gradients and, in float16, loss scaling.

Bytes per trained weight, with AdamW: 16 (weight 4, gradient 4, two moments 8), as for a model stored in float32; Sophia takes the
same. A frozen weight stays at its stored 2. Conversion goes tensor by tensor, so that the stored copy adds one tensor at a time.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unlearn.rounding import HALF, stochastically_rounded
from unlearn.sharding import is_sharded, put
from verify.digests import weights_digest, whole
from verify.errors import RunError
from verify.files import read_json, write_json

MASTER_WEIGHTS = "float32"
"""What the training log says of a run whose trained weights were held in float32."""

LARGEST_ERROR, LEAST_ERROR = 0.1, 0.01
"""Rounding may change the forget loss by this share of what the run changed it by, or by so many nats per token, unremarked."""

_stored_types: "weakref.WeakKeyDictionary[nn.Module, Mapping[str, torch.dtype]]" = weakref.WeakKeyDictionary()
"""Of models in parts: the types of weights whose values are rounded, but which stay float32 tensors on the devices."""


def half_precision(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those of the parameters that are stored in bfloat16 or float16."""
    return [parameter for parameter in parameters if parameter.dtype in HALF]


class Float32Copies:
    """Holds half-precision parameters of a model in float32, in place, until `store`.

    Attributes:
        types: the stored type of each parameter that is, or was, held, by name; empty where there is nothing to do.
    """

    def __init__(self, model: nn.Module, trained: Iterable[nn.Parameter]) -> None:
        """Args: the model; which of its parameters are trained or edited. Those in float32 already are left alone."""
        chosen = {id(parameter) for parameter in half_precision(trained)}
        self._parameters: dict[str, nn.Parameter] = {}
        self._buffers: list[tuple[nn.Module, str, torch.dtype]] = []
        self._hooks: list[Any] = []
        self.types: dict[str, torch.dtype] = {}
        if not chosen:
            return
        for module in model.modules():
            # A layer computes in one type: what lies beside a trained parameter is converted with it.
            beside = half_precision(module.parameters(recurse=False))
            if any(id(parameter) in chosen for parameter in beside):
                chosen.update(map(id, beside))
        for name, parameter in model.named_parameters():
            if id(parameter) in chosen:
                self.types[name], self._parameters[name] = parameter.dtype, parameter
                parameter.data = parameter.data.float()
                parameter.grad = None
        if half_precision(model.parameters()):
            self._hooks = [hook for module in model.modules() for hook in _keep_apart(module)]
        else:
            self._convert_buffers(model)

    def store(self, model: nn.Module, seed: int) -> None:
        """Round the parameters to their stored types, in place; the seed decides the random numbers.

        Args:
            model: the model, also wrapped, unwrapped or in parts since then.
            seed: of the run.

        Raises:
            RunError: a weight exceeds the range of its stored type.
        """
        for hook in self._hooks:
            hook.remove()
        current = dict(model.named_parameters())
        beyond = None
        for name, kind in self.types.items():
            parameter = current.get(name, self._parameters[name])
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
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.dtype in HALF:
                    self._buffers.append((module, name, buffer.dtype))
                    setattr(module, name, buffer.float())


@contextmanager
def float32_copies(model: nn.Module, trained: Iterable[nn.Parameter], seed: int) -> Iterator[Float32Copies]:
    """Hold trained parameters in float32 within the block and round them to their stored types at its end.

    Nested blocks are one: what an outer block holds is in float32 already, and is rounded once, by the outer block.

    Raises:
        RunError: as `Float32Copies.store`, unless the block raises itself.
    """
    copies = Float32Copies(model, trained)
    try:
        yield copies
    except BaseException:
        with suppress(RunError):  # the first error says more
            copies.store(model, seed)
        raise
    copies.store(model, seed)


def rounding_facts(kinds: Iterable[torch.dtype], before: float, in_float32: float, stored: float) -> dict[str, Any]:
    """What rounding a result to its stored type did to the forget loss, with a warning where it undid or distorted the forgetting.

    Args:
        kinds: the stored types.
        before, in_float32, stored: mean loss of the forget records, nats per token: before the run, of the float32 result, and of
            the rounded one.
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
    """A type's name as the command line spells it: "bfloat16"."""
    return str(kind).removeprefix("torch.")


def stored_digest(model: nn.Module) -> str:
    """The digest of a model as it is saved: `weights_digest`, where it lies in parts after conversion to its stored types."""
    return weights_digest(_AsStored(model) if model in _stored_types else model)


def as_stored(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a model, converted to the types that it is saved in."""
    types = _stored_types.get(model, {})
    return {name: tensor.to(types.get(name, tensor.dtype)) for name, tensor in weights.items()}


def note_stored_type(model: nn.Module, folder: Path) -> None:
    """Correct the configuration beside the weights of a model in parts, where `save_pretrained` names the type of its tensors."""
    path, kinds = folder / "config.json", set(_stored_types.get(model, {}).values())
    if len(kinds) == 1 and path.is_file():
        write_json(path, {**read_json(path), "dtype": type_name(kinds.pop())})


class _AsStored(nn.Module):
    """A view of a model whose state dict has the stored types."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._viewed = [model]  # not a submodule

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """The model's state dict, converted."""
        return as_stored(self._viewed[0], self._viewed[0].state_dict())


def _keep_apart(module: nn.Module) -> list[Any]:
    """Hooks for a layer that stays in half precision among others in float32: it computes in its own type and returns float32."""
    own = half_precision(module.parameters(recurse=False))
    if not own:
        return []
    kind = own[0].dtype

    def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return _converted(given, kind), _converted(named, kind)

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return _converted(output, torch.float32)

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]


def _converted(value: Any, kind: torch.dtype) -> Any:
    """Tensors of floating-point numbers in another type, also inside tuples, lists and dictionaries; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(kind) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _converted(one, kind) for name, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_converted(one, kind) for one in value)
    return value

"""Arithmetic of a run: float32, or bfloat16 over float32 weights.

With `--bf16` on a processor, a step computes entirely in bfloat16, on bfloat16 copies of the weights:

    theta_16 = dithered(theta),    L = loss(theta_16),    g = float32(dL/dtheta_16),    theta <- optimizer(theta, g)

theta stays float32, so that steps far below half a unit in the last place of bfloat16 are not lost, and optimizer, checkpoints,
selection, resumption and replay see nothing but float32 (`verify.training.precision`). Every trained weight is converted once in a
forward pass and its gradient once in the backward pass; frozen weights are converted once in a run. Losses and
their sums over the vocabulary, the scores of attention, what a norm computes inside, and embeddings up to their output (the
gradient of a frequent token is a sum over many positions, in which bfloat16 would lose digits) are kept in float32. In the
architectures of `WIDE` the hidden states between layers are in float32, too: every layer adds to them, and a sum over all layers
that is rounded after each costs more digits than everything else.

Autocast converts only around matrix products: everything between them stays in float32, every input is converted again for every
layer that reads it, and its attention takes torch's slow half-precision gradient on a processor. On a GPU, and with several
processes, `--bf16` is autocast.
"""

import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from verify.models.quantized import is_quantized
from verify.provenance.training_log import BFLOAT16_COPIES, FLOAT32_SUMS
from verify.training.fused_adapters import fused_adapters
from verify.training.precision import apart
from verify.training.short_attention import short_attention

Result = TypeVar("Result")

WIDE = ("gemma", "gemma2", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
"""Architectures whose hidden states between layers may be in float32 (each is tested): layers that begin or end with RMSNorm."""
LISTED = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
"""Attributes in which an architecture names parts that stay in float32."""
X86 = ("x86_64", "amd64", "i686")
"""Machine names of the processors that torch can ask."""
X86_BFLOAT16 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""What torch asks them, by the names in `torch.cpu` (private ones, so one may be missing)."""
TO_BFLOAT16 = ("RMSNorm", "RotaryEmbedding")
"""Parts of the names of modules whose output a layer's products read."""


def float32_weight(weight: Tensor) -> Tensor:
    """Return the float32 weight that a copy was made from; any other weight is returned as it is."""
    found: Tensor = getattr(weight, "float32_weight", weight)
    return found


def has_bfloat16_instructions() -> bool:
    """Return whether this processor multiplies matrices in bfloat16 (AVX512-BF16, AMX); other x86 processors emulate it."""
    if platform.machine().lower() not in X86:
        return True
    known = [supported() for name in X86_BFLOAT16 if (supported := getattr(torch.cpu, name, None)) is not None]
    return any(known) or not known


@cache
def warn_of_emulation() -> None:
    """Warn, once in a process, where steps in bfloat16 are slower than in float32."""
    if not has_bfloat16_instructions():
        warnings.warn(
            "This processor has no instructions for bfloat16 (AVX512-BF16, AMX): steps with --bf16 are slower here than without, "
            "up to three times. Leave out --bf16 (bf16=True), unless a run with it is to be resumed or repeated.",
            stacklevel=2,
        )


def can_compute_in_copies(model: nn.Module) -> bool:
    """Return whether passes of a model in one process can compute on bfloat16 copies of its weights."""
    if is_quantized(model):
        return False
    # Frozen float16 weights would lose digits in bfloat16; autocast does not convert them.
    return all(parameter.device.type == "cpu" and parameter.dtype != torch.float16 for parameter in model.parameters())


class Arithmetic:
    """The arithmetic of a run's passes through its model.

    Attributes:
        in_copies: whether passes compute on bfloat16 copies; otherwise the model computes as it is.
        wide: whether the hidden states between layers are then in float32.
    """

    def __init__(self, in_copies: bool, wide: bool = False) -> None:
        self.in_copies, self.wide = in_copies, wide
        self._frozen: dict[int, tuple[nn.Parameter, int, Tensor]] = {}  # id -> weight, its version, and its copy

    @classmethod
    def in_copies_of(cls, model: nn.Module) -> Self:
        """Return the arithmetic on copies of a model's weights."""
        return cls(in_copies=True, wide=getattr(getattr(model, "config", None), "model_type", None) in WIDE)

    @classmethod
    def of_log(cls, entry: str | None) -> Self:
        """Return the arithmetic that a training log names."""
        return cls(in_copies=entry is not None, wide=entry == FLOAT32_SUMS)

    @property
    def entry(self) -> str | None:
        """Name in a training log; None where the model computes as it is."""
        return (FLOAT32_SUMS if self.wide else BFLOAT16_COPIES) if self.in_copies else None

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Compute forward and backward passes of a model in this arithmetic within a `with` block.

        In the block the model's modules hold the copies; `float32_weight` returns what a trained one was made from.
        """
        if not self.in_copies:
            yield
            return
        copies: dict[int, Tensor] = {}  # of tied weights one, so that their gradients are added before they are converted
        replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
        hooks: list[Any] = []
        modules = list(model.named_modules())  # in every step: walking through thousands takes as long as a layer
        try:
            for module, name, parameter in _converted_weights(modules, self.wide):
                if id(parameter) not in copies:
                    copies[id(parameter)] = self._copy(parameter)
                replaced.append((module, name, parameter))
                module._parameters[name] = copies[id(parameter)]  # type: ignore[assignment]
            hooks = [hook for _, found in modules for hook in self._borders(found)]
            with short_attention(), fused_adapters(found for _, found in modules), apart(False):
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, name, parameter in replaced:
                module._parameters[name] = parameter

    def _borders(self, module: nn.Module) -> Iterator[Any]:
        """Hook a module at which the type of what is computed changes."""
        if isinstance(module, nn.Embedding):
            yield module.register_forward_hook(_in_float32 if self.wide else _in_bfloat16)
        elif self.wide and any(part in type(module).__name__ for part in TO_BFLOAT16):
            yield module.register_forward_hook(_in_bfloat16)
        elif self.wide and _is_product(module):
            # Some architectures have their norms behind the products, which then read the hidden states themselves.
            yield module.register_forward_pre_hook(_from_float32)

    def inside(self, model: nn.Module, read: Callable[[], Result]) -> Callable[[], Result]:
        """Return a function that calls `read` in this arithmetic."""

        def called() -> Result:
            with self.of(model):
                return read()

        return called

    def _copy(self, parameter: nn.Parameter) -> Tensor:
        """Convert a weight: a trained one with its gradient, a frozen one only if it changed since the last time."""
        if parameter.requires_grad:
            copy: Tensor = _Dithered.apply(parameter)  # type: ignore[no-untyped-call]
            copy.float32_weight = parameter  # type: ignore[attr-defined]
            return copy
        _, version, copy = self._frozen.get(id(parameter), (parameter, -1, parameter))
        if version != parameter._version:
            copy = _Dithered.apply(parameter.detach())  # type: ignore[no-untyped-call]
            self._frozen[id(parameter)] = parameter, parameter._version, copy
        return copy


class _Dithered(torch.autograd.Function):
    """Conversion to bfloat16 with a fixed dither; its gradient is that of the identity.

    Weights of a model stored in bfloat16 lie on that type's grid. Rounded to nearest, all of them would stay there until a step, or
    the sum of many, exceeds half a unit in the last place: at small learning rates a run would not see its own steps. Here
    a weight between a and b on the grid becomes b where its share of the way exceeds a threshold drawn for its place, once and for
    all: over many weights the copy follows every step in the mean, and a weight on the grid is itself. Frozen weights are converted
    in the same way, so that freezing one changes no output.
    """

    @staticmethod
    def forward(_: Any, weight: Tensor) -> Tensor:
        """Convert a float32 weight of any shape."""
        flat = weight.detach().contiguous().view(torch.int32).reshape(-1)
        copy = torch.empty(len(flat), dtype=torch.int16, device=flat.device)
        drawn = _thresholds().to(flat.device)
        for first in range(0, len(flat), len(drawn)):
            part = flat[first : first + len(drawn)]
            # The lower half of the bits is the share of the way; with the threshold added it carries into the upper half.
            copy[first : first + len(drawn)] = (part + drawn[: len(part)]) >> 16
        return copy.view(torch.bfloat16).reshape(weight.shape)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Convert the gradient to float32."""
        return gradient.float()


@cache
def _thresholds() -> Tensor:
    """Draw the thresholds of the dither, integers below 2^16; they repeat after a number of weights that is prime."""
    return torch.randint(0, 1 << 16, (262_147,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)


def _converted_weights(modules: Sequence[tuple[str, nn.Module]], wide: bool) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield module, name and parameter of every float32 weight, but embeddings and what the architecture keeps in float32.

    Args:
        modules: modules of a model, with their paths.
        wide: whether norms read hidden states in float32, so that their weights stay in it.
    """
    kept: set[str] = set()
    for _, module in modules:
        if hasattr(type(module), LISTED[0]):  # a model of transformers
            for listed in LISTED:
                kept.update(getattr(module, listed, None) or ())
    for path, module in modules:
        if not module._parameters:
            continue
        apart_from = isinstance(module, nn.Embedding) or (wide and TO_BFLOAT16[0] in type(module).__name__)
        if apart_from or not kept.isdisjoint(path.split(".")):
            continue
        for name, parameter in list(module._parameters.items()):
            if isinstance(parameter, nn.Parameter) and parameter.dtype == torch.float32 and name not in kept:
                yield module, name, parameter


def _is_product(module: Any) -> bool:
    """Return whether a module is a product with a bfloat16 weight, also one with an adapter: both parts read what it is given."""
    product = module.base_layer if hasattr(module, "lora_A") else module
    return isinstance(product, nn.Linear) and product.weight.dtype == torch.bfloat16


def _in_bfloat16(_: nn.Module, __: Any, output: Any) -> Any:
    """Convert an output in float32, also of several tensors."""
    if isinstance(output, tuple):
        return tuple(_narrow(one) for one in output)
    return _narrow(output)


def _in_float32(_: nn.Module, __: Any, output: Any) -> Any:
    """Convert an embedding's output, where the model is stored in bfloat16."""
    return output.float() if isinstance(output, Tensor) and output.dtype == torch.bfloat16 else output


def _from_float32(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert the input of a product."""
    return tuple(_narrow(one) for one in given)


def _narrow(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, Tensor) and value.dtype == torch.float32 else value

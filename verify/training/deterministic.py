"""Deterministic kernels on a GPU: a run that is repeated there gives the same bits.

Several of CUDA's kernels add with atomic operations, in whatever order their threads arrive: sums by index, and the gradient of
memory-efficient attention. Two runs then differ in the last bits, and a replay or re-execution would accuse an honest training.
Other GPUs, drivers and versions of torch still round differently. On a processor nothing changes.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels whose gradient is deterministic where deterministic algorithms are requested."""


@contextmanager
def deterministic(model: nn.Module) -> Iterator[None]:
    """Compute with deterministic kernels within a `with` block, where the model is on a GPU.

    An architecture that needs a kernel without a deterministic variant is trained all the same, with a warning.

    Args:
        model: its trained weights need gradients. It takes one pass over four arbitrary tokens, which changes nothing in it.
    """
    if next(model.parameters()).device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # its types do not know the attribute
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # only reads of unwritten memory would need it
    try:
        with sdpa_kernel(ATTENTION):
            _require_or_warn(model)
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled


def _require_or_warn(model: nn.Module) -> None:
    """Warn where the model needs a kernel without a deterministic variant, and allow that kernel."""
    if (reason := _refusal(model)) is None:
        return
    warnings.warn(
        f"this model cannot be trained with deterministic kernels on this GPU ({reason}), so that a replay or re-execution of this "
        "run may end on other bits.",
        stacklevel=5,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)


def _refusal(model: nn.Module) -> str | None:
    """Try one forward and backward pass; return torch's reason to refuse deterministic kernels, or None."""
    device = next(model.parameters()).device
    ids = torch.arange(1, 5, device=device)[None]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with torch.random.fork_rng([device]), torch.enable_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            if trained:
                torch.autograd.grad(logits.float().sum(), trained, allow_unused=True)
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        return str(error).partition(". ")[0]
    return None

"""Per-unit gradients by Opacus' hooks, and a check that each depends on one unit alone.

Opacus computes the gradient of every row (window). A unit, a record in several windows or all records of a subject, is the sum of
its rows. The head is applied only to positions that predict scored tokens, and the rows are kept apart: the gathered positions are
padded to the longest row, since a per-row gradient needs the row as first dimension everywhere.

Shapes: B rows (windows), L length, S largest number of scored tokens in a row, U units, V vocabulary.
"""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from verify.errors import InputError
from verify.models.log_probabilities import head_sees, predicting_positions, target_log_probabilities, vocabulary_size

PROBE_LENGTHS = (7, 4, 6)
"""Lengths of the rows that the check of separate gradients uses; different, so that padding is checked too."""
TOLERANCE = 1e-3
"""Largest difference of a gradient element, as a share of the row's largest gradient element."""


def row_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Sum the negative log-likelihoods of each row's scored tokens, nats [B]; rows do not interact."""
    scored = batch["scored"]
    before = predicting_positions(scored)  # [B, L]
    most = int(before.sum(1).max())
    # A stable sort puts the wanted positions first, in their order; shorter rows are filled up with others, masked by `real`.
    positions = (~before).to(torch.int8).argsort(dim=1, stable=True)[:, :most]  # [B, S]
    real = before.gather(1, positions)  # [B, S]

    def select(hidden: Tensor) -> Tensor:
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))  # [B, L, D] -> [B, S, D]

    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if _takes_positions(model):
        # Position ids of each row: shared ones [1, L] would give the position table one gradient for all rows.
        rows, length = batch["input_ids"].shape
        inputs["position_ids"] = torch.arange(length, device=scored.device).expand(rows, length)
    with head_sees(model, select):
        logits = model(**inputs, use_cache=False).logits  # [B, S, V]
    targets = batch["input_ids"].gather(1, (positions + 1).clamp(max=batch["input_ids"].shape[1] - 1))
    values = target_log_probabilities(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)).reshape(targets.shape)
    return -(values * real).sum(1)


def _takes_positions(model: Any) -> bool:
    below = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(below.forward).parameters


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters; tied ones appear once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def hooked(model: nn.Module) -> Iterator[Any]:
    """Make a backward pass within this block leave `grad_sample` [B, ...] at every trained parameter.

    Raises:
        InputError: a trained layer keeps statistics over batches (batch normalization), which clipping does not bound; or a
            trained weight is not float32, where a clipped gradient may exceed the clipping norm.
    """
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"{name} is {str(parameter.dtype).removeprefix('torch.')}, in which gradients cannot be clipped exactly. "
                "Use --dtype float32, or --lora, whose adapter is float32."
            )
    try:
        hooks = GradSampleHooks(model, loss_reduction="sum", strict=True)
    except NotImplementedError as error:
        layer = str(error).partition("(")[2].partition(":")[0]
        raise InputError(
            f"the layer {layer} keeps statistics from batch to batch, which clipping does not bound. Train another model, or use "
            "--lora with other --lora-targets."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")  # at embeddings, whose inputs are integers
            yield hooks
    finally:
        hooks.cleanup()


def sum_by_unit(model: nn.Module, owners: Tensor, units: int) -> None:
    """Sum `grad_sample` [B, ...] into [U, ...], so that the rows of a unit are clipped as one gradient.

    Args:
        model: after a backward pass under `hooked`.
        owners: the unit of each row [B].
        units: U.
    """
    for parameter in trained_parameters(model):
        rows: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
        summed = torch.zeros((units, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        parameter.grad_sample = summed.index_add_(0, owners, rows)  # type: ignore[attr-defined]


def require_separate_gradients(model: nn.Module, hooks: Any) -> None:
    """Check Opacus' gradients of three rows of fixed tokens against three passes of one row each.

    Catches what would silently void the guarantee: layers that mix rows, weights used twice of which one use is not counted, layers
    that Opacus handles wrongly. No record is used.

    Raises:
        InputError: a parameter's gradients differ; its name is in the message.
    """
    batch, was = _probe(model), {module: module.training for module in model.modules()}
    model.eval()  # no dropout; but Opacus records gradients only of layers in training mode, which are set below
    for module in model.modules():
        module.training = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    try:
        row_losses(model, batch).sum().backward()  # type: ignore[no-untyped-call]
        together = {name: p.grad_sample for name, p in model.named_parameters() if p.requires_grad}  # type: ignore[attr-defined]
        hooks.disable_hooks()
        for row in range(len(PROBE_LENGTHS)):
            model.zero_grad()
            length = PROBE_LENGTHS[row]
            row_losses(model, {name: value[row : row + 1, :length] for name, value in batch.items()}).sum().backward()  # type: ignore[no-untyped-call]
            _require_alike(model, together, row)
    finally:
        for module, training in was.items():
            module.training = training
        hooks.enable_hooks()
        hooks.set_grad_sample_to_none()
        model.zero_grad()


def _probe(model: nn.Module) -> dict[str, Tensor]:
    """Build three rows of fixed tokens, padded [3, L]."""
    device, longest = next(model.parameters()).device, max(PROBE_LENGTHS)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary_size(model), (len(PROBE_LENGTHS), longest), generator=generator)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            # PyTorch never trains this row of the table and Opacus does, a difference that does not mix records.
            ids[ids == module.padding_idx] = (module.padding_idx + 1) % vocabulary_size(model)
    mask = (torch.arange(longest)[None] < torch.tensor(PROBE_LENGTHS)[:, None]).long()
    scored = mask.bool() & (torch.arange(longest)[None] > 1)
    return {name: value.to(device) for name, value in (("input_ids", ids), ("attention_mask", mask), ("scored", scored))}


def _require_alike(model: nn.Module, together: Mapping[str, Tensor | None], row: int) -> None:
    """Raise InputError unless a row's gradient among others equals its gradient alone."""
    alone = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    scale = max((float(grad.abs().max()) for grad in alone.values() if grad is not None), default=0.0)
    for name, grad in alone.items():
        found = together[name]
        if found is not None and len(found) == len(PROBE_LENGTHS):
            apart = found[row] if grad is None else found[row] - grad
            if float(apart.abs().max()) <= TOLERANCE * scale:
                continue
        raise InputError(
            f"the gradient of one record alone cannot be had for {name}: this architecture mixes records there, or uses the weight "
            "in a way that Opacus does not see. Train with --lora on ordinary linear layers (--lora-targets), or another model."
        )


def chunks(units: Sequence[int], rows_of: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Split a step's units into portions of at most `most` rows; a larger unit is a portion of its own."""
    portion: list[int] = []
    rows = 0
    for unit in units:
        if portion and rows + len(rows_of[unit]) > most:
            yield portion
            portion, rows = [], 0
        portion.append(unit)
        rows += len(rows_of[unit])
    if portion:
        yield portion

"""Trains and scores several LoRA adapters on one frozen base at once.

An optimizer step of a small model on a GPU takes as long as its launches, whatever the batch. Here one batch holds the rows of M
models one after the other, and every adapted layer adds to the rows of model m what the model's own adapter makes of them:

    y_m = x_m W^T + s (x_m A_m^T) B_m^T

Each model keeps its own records, their order, its loss (mean over the scored tokens of its step), clipping, moments and schedule:
the weights are those that `unlearn.finetune` would give it alone with the same options and seed, up to rounding.

Shapes: M models, B rows of each in a step, L tokens, N scored tokens, D width of a layer's input, K of its output, r rank, P
weights of an adapter.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import get_scheduler

from unlearn.training.arguments import step_records, token_counts
from unlearn.training.options import DEFAULTS, TrainingOptions, learning_rate_of, optimizer_steps
from verify.data.encoding import Encoded, collate, padding_token_id
from verify.errors import RunError
from verify.models.inner_layers import final_norm
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import head_sees, output_head, predicting_positions
from verify.models.token_stats import length_sorted_batches
from verify.training.adapters import attach_adapter
from verify.training.schedule import Lengths, epoch_pairs

Array = NDArray[np.float64]

SCORED_AT_ONCE = 16384
"""Largest number of tokens in a batch that is scored, those of all models together."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """An adapted layer: PEFT's module, and the factors of all models.

    Attributes:
        module: whose own factors are not used.
        down: A [M, r, D], parts of the stack's weights, as is `up`: B [M, K, r].
        scale: s.
    """

    module: Any
    down: Tensor
    up: Tensor
    scale: float

    def forward(self, given: Tensor) -> Tensor:
        """Compute the output [M B, L, K] from the input [M B, L, D]."""
        output: Tensor = self.module.base_layer(given)
        models = len(self.down)
        inner = torch.bmm(given.reshape(models, -1, given.shape[-1]), self.down.mT)  # [M, B L, r]
        return torch.baddbmm(output.reshape(models, -1, output.shape[-1]), inner, self.up.mT, alpha=self.scale).view_as(output)


class Stack:
    """Adapters of several models on one base, as they are trained and scored together; made by `stacked`.

    Attributes:
        weights: of all adapters, float32 [M, P].
    """

    def __init__(self, loaded: LoadedModel, model: nn.Module, options: TrainingOptions, starts: Sequence[Tensor]) -> None:
        """Place the adapters; `starts` are the initial weights of each [P]."""
        self._model, self._options, self._pad = model, options, padding_token_id(loaded.tokenizer)
        self.weights = torch.stack(list(starts))
        self._gradient = torch.zeros_like(self.weights)
        self._layers, place = list[_Layer](), 0
        for module in _adapted(model):
            down, up = _factors(module)
            parts = []
            for shape in (down.shape, up.shape):
                columns = slice(place, place := place + shape.numel())
                part = self.weights[:, columns].view(-1, *shape).detach().requires_grad_()
                part.grad = self._gradient[:, columns].view(-1, *shape)  # so that all gradients are clipped and applied as one
                parts.append(part)
            self._layers.append(_Layer(module, *parts, scale=module.scaling["default"]))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Compute with the stack's factors within a `with` block."""
        try:
            for layer in self._layers:
                layer.module.forward = layer.forward
            yield
        finally:
            for layer in self._layers:
                del layer.module.forward

    @property
    def _device(self) -> torch.device:
        return self.weights.device

    def train(self, windows: Sequence[Sequence[Encoded]], seeds: Sequence[int]) -> None:
        """Train every adapter on its own records.

        Args:
            windows: of each model, equally many.
            seeds: of each model, for the order of its records.

        Raises:
            RunError: the weights of a model are not finite afterwards.
        """
        options, size = self._options, step_records(self._options)
        (count,) = {len(own) for own in windows}
        optimizer = torch.optim.AdamW(
            [weights := nn.Parameter(self.weights)],
            lr=learning_rate_of(options),
            weight_decay=_option(options, "weight_decay"),
        )
        steps = optimizer_steps(options, count)
        warmup = round(steps * _option(options, "warmup_ratio"))
        schedule = get_scheduler(_option(options, "scheduler"), optimizer, num_warmup_steps=warmup, num_training_steps=steps)
        weights.grad = self._gradient
        lengths = [Lengths(token_counts(own), (), size) for own in windows]
        # Gradients are parts of one array: torch warns of their layout once.
        warnings.filterwarnings("ignore", "grad and param do not obey", UserWarning)
        for step in range(steps):
            epoch, within = divmod(step, -(-count // size))
            if not within:
                orders = [epoch_pairs(count, 0, seed, epoch, length) for seed, length in zip(seeds, lengths, strict=True)]
            turns = [order[within * size : (within + 1) * size] for order in orders]
            chosen = [[own[index] for index, _ in turn] for own, turn in zip(windows, turns, strict=True)]
            self._gradient.zero_()
            self._step_loss(chosen).backward()  # type: ignore[no-untyped-call]
            self._clip()
            optimizer.step()
            schedule.step()
        if not bool(torch.isfinite(self.weights).all()):
            raise RunError("a model of the stack became non-finite in training. Lower the learning rate of its world.")

    def _step_loss(self, chosen: Sequence[Sequence[Encoded]]) -> Tensor:
        """Compute the sum of the models' losses in a step: their gradients do not meet, as no adapter is shared."""
        counts = torch.tensor([sum(int(window.scored.sum()) for window in own) for own in chosen])
        weight = torch.repeat_interleave(1 / counts, counts).to(self._device)  # [N]
        return (self._token_losses([window for own in chosen for window in own]) * weight).sum()

    def _clip(self) -> None:
        """Clip the gradient of every model to its own norm."""
        if most := self._options.max_grad_norm:
            norm = self._gradient.norm(dim=1, keepdim=True)
            self._gradient.mul_((most / (norm + 1e-6)).clamp(max=1.0))

    def losses(self, windows: Sequence[Encoded], records: int, layer: int | None = None) -> Array:
        """Score every model on the same records.

        Args:
            windows: of the records.
            records: their number, n.
            layer: decode this layer's hidden states, from 1; None takes the model's own output.

        Returns:
            mean losses, nats per token [M, n].
        """
        models = len(self.weights)
        sums, counts = np.zeros((models, records)), np.zeros(records)
        with torch.no_grad():
            for indices in length_sorted_batches(token_counts(windows), SCORED_AT_ONCE // models):
                rows = [windows[index] for index in indices]
                owner = np.repeat([row.record for row in rows], [int(row.scored.sum()) for row in rows])
                values = self._token_losses(rows * models, layer).view(models, -1).double().cpu().numpy()
                np.add.at(counts, owner, 1)
                for total, own in zip(sums, values, strict=True):
                    np.add.at(total, owner, own)
        return np.asarray(sums / counts, dtype=np.float64)

    def _token_losses(self, rows: Sequence[Encoded], layer: int | None = None) -> Tensor:
        """Compute the losses of all scored tokens of a batch, float32 [N], row by row."""
        batch = collate(rows, self._pad)  # each [M B, L]
        places = predicting_positions(batch["scored"]).flatten().nonzero()[:, 0].to(self._device)
        ids, mask = batch["input_ids"].to(self._device), batch["attention_mask"].to(self._device)
        targets = batch["input_ids"][batch["scored"]].to(self._device)

        def select(hidden: Tensor) -> Tensor:
            return hidden.flatten(0, 1)[places]

        call = partial(self._model, input_ids=ids, attention_mask=mask, use_cache=False)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._options.bf16):
            if layer is None:
                with head_sees(self._model, select):
                    logits = call().logits
            else:
                with head_sees(self._model, lambda hidden: hidden[:1, :1]):
                    state = select(call(output_hidden_states=True).hidden_states[layer])
                logits = output_head(self._model)(final_norm(self._model)(state))
        return F.cross_entropy(logits.float(), targets, reduction="none")


@contextmanager
def stacked(loaded: LoadedModel, options: TrainingOptions, seeds: Sequence[int]) -> Iterator[Stack]:
    """Attach an adapter for every seed to a base within a `with` block, after which the base is as it was.

    Raises:
        ValueError: options that a stack does not know: no adapter, dropout in it, accumulation, or another optimizer.
    """
    if not options.lora or options.lora_dropout or options.gradient_accumulation != 1 or options.optimizer != "adamw":
        raise ValueError("a stack trains LoRA adapters without dropout by AdamW, one batch in a step")
    starts = []
    for seed in seeds:  # each as `finetune` would begin
        model = attach_adapter(loaded.model, replace(options, seed=seed))
        starts.append(torch.cat([factor.detach().float().flatten() for module in _adapted(model) for factor in _factors(module)]))
        model.unload()
    model = attach_adapter(loaded.model, options)
    try:
        stack = Stack(loaded, model, options, starts)
        with stack.in_place():
            yield stack
    finally:
        model.unload()


def _adapted(model: nn.Module) -> list[Any]:
    """Return PEFT's layers, in the model's order."""
    from peft.tuners.lora.layer import Linear

    return [module for module in model.modules() if isinstance(module, Linear)]


def _factors(module: Any) -> tuple[Tensor, Tensor]:
    """Return A [r, D] and B [K, r] of a layer."""
    return module.lora_A["default"].weight, module.lora_B["default"].weight


def _option(options: TrainingOptions, name: str) -> Any:
    value = getattr(options, name)
    return DEFAULTS[name] if value is None else value

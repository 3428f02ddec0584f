"""Relearning probe: fine-tune briefly and measure what returns, in three arms that differ in what is trained on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from verify.data.encoding import Encoder, collate, padding_token_id
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.errors import RunError
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel
from verify.models.log_probabilities import scored_log_probabilities
from verify.models.quantized import is_quantized
from verify.probes._unrelated import unrelated_records
from verify.probes.base import Array, Material, ProbeNotRunError, mean_losses
from verify.training.deterministic import deterministic

SHARE_OF_RATE = 0.1
"""Learning rate of relearning as a share of the fine-tuning's: fast enough to move the model, too slow to teach it the records."""
UNKNOWN_RATE = 1e-4
"""Learning rate where the rate of the fine-tuning is unknown."""


@dataclass(frozen=True)
class Relearning:
    """Train briefly; a model that only hides its records recovers them faster than one that never had them.

    Hu et al. 2024 (arXiv 2406.13356). The three arms train on other records of the domain, on unrelated text, and on half of the
    forget subjects; the last is scored on the other half, each half in turn. Excess recovery after k steps, against a retrained
    reference under the same steps:

        [s_u(k) - s_ref(k)] / [s_0 - s_ref(0)],  s = mean log-probability, u unlearned, 0 the original before any step

    Attributes:
        steps: numbers of steps k after which the losses are measured.
        learning_rate: of AdamW without weight decay. The default is a tenth of the rate of the fine-tuning that made the old
            model, and 1e-4 where that is unknown.
        batch_size: windows per step.
    """

    steps: tuple[int, ...] = (0, 5, 10, 20)
    learning_rate: float | None = None
    batch_size: int = 8

    idea: ClassVar[str] = "train a few steps on other records, unrelated text or half of the subjects, and see what comes back"
    paper: ClassVar[str] = "Hu et al. 2024 (arXiv 2406.13356)"

    def losses(self, loaded: LoadedModel, material: Material) -> Mapping[str, Array]:
        """Compute the losses after each number of steps; the order of the records is the same for every model.

        The third arm is left out where all forget records belong to one subject.

        Raises:
            RunError: the training diverged.
            ProbeNotRunError: the model has no weights that could be trained.
        """
        rate = relearning_rate(self.learning_rate, material.learning_rate)
        later = tuple(step for step in self.steps if step)
        found: dict[str, Array] = {}
        if 0 in self.steps:
            found["relearned 0"] = mean_losses(loaded, material.forget)
        for name, records in (("relearned", material.other), ("relearned on unrelated text", unrelated_records())):
            with relearned(loaded, records, rate, self.batch_size, material.seed) as advance:
                for step in later:
                    advance(step)
                    found[f"{name} {step}"] = mean_losses(loaded, material.forget)
        halves = subject_halves(material.forget, material.seed)
        if halves is None:
            return found
        found |= {f"relearned on other subjects {step}": np.full(len(material.forget), np.nan) for step in later}
        for trained, scored in (halves, halves[::-1]):
            with relearned(loaded, _chosen(material.forget, trained), rate, self.batch_size, material.seed) as advance:
                for step in later:
                    advance(step)
                    found[f"relearned on other subjects {step}"][scored] = mean_losses(loaded, _chosen(material.forget, scored))
        return found


def across_subjects(
    loaded: LoadedModel,
    material: Material,
    controls: Sequence[Record],
    *,
    steps: int = 12,
    batch_size: int = 8,
    learning_rate: float | None = None,
) -> tuple[Array, Array]:
    """Train on each half of the forget subjects in turn, and score the other half and the controls.

    Two honest retrainings generalise alike from one half to the other; a model that hides the records recovers the half it was not
    trained on. Every forget record is scored by the model that did not train on its subject, every control by both.

    Args:
        loaded: the model; its weights are bit-identical afterwards.
        material: forget records, seed, and the rate of the fine-tuning.
        controls: never-trained records; may be empty.
        steps: optimizer steps on each half.
        batch_size: windows per step.
        learning_rate: as that of `Relearning`.

    Returns:
        mean losses in nats per token of the forget records [K] and of the controls [N], the latter averaged over both trainings.

    Raises:
        ProbeNotRunError: all forget records belong to one subject, or the model has no weights that could be trained.
        RunError: the training diverged.
    """
    halves = subject_halves(material.forget, material.seed)
    if halves is None:
        raise ProbeNotRunError("all forget records belong to one subject, so there is no half to train on")
    rate = relearning_rate(learning_rate, material.learning_rate)
    forget, beside = np.full(len(material.forget), np.nan), np.zeros(len(controls))
    for trained, scored in (halves, halves[::-1]):
        with relearned(loaded, _chosen(material.forget, trained), rate, batch_size, material.seed) as advance:
            advance(steps)
            forget[scored] = mean_losses(loaded, _chosen(material.forget, scored))
            beside += mean_losses(loaded, controls) / 2 if controls else 0.0
    return forget, beside


def subject_halves(records: Sequence[Record], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Divide records at random into two halves of their subjects; a record without a subject is its own.

    Returns:
        the indices of the records of each half; None where there is one subject only.
    """
    owners = np.array(subject_groups(records))
    names = list(dict.fromkeys(owners.tolist()))
    if len(names) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(names))
    first = {names[index] for index in order[: len(names) // 2]}
    inside = np.array([owner in first for owner in owners.tolist()])
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def relearning_rate(given: float | None, fine_tuning: float | None) -> float:
    """Return the learning rate: the given one, else a tenth of the fine-tuning's, else `UNKNOWN_RATE`."""
    if given is not None:
        return given
    return UNKNOWN_RATE if fine_tuning is None else SHARE_OF_RATE * fine_tuning


@contextmanager
def relearned(
    loaded: LoadedModel, records: Sequence[Record], learning_rate: float, batch_size: int, seed: int
) -> Iterator["Advance"]:
    """Train a model in place within a `with` block, and give it its own weights again afterwards.

    The weights are trained as copies in float32 at least, since in half precision small steps would be rounded away. If the model
    has an adapter, only the adapter's weights are trained.

    Args:
        loaded: the model; within the block it is the trained one.
        records: what it is trained on, at least one.
        learning_rate: of AdamW without weight decay.
        batch_size: windows per step.
        seed: seed of the order of the windows, which is the same for every model.

    Yields:
        a function that trains until a given number of steps is done.

    Raises:
        ProbeNotRunError: the model has no weights that could be trained.
    """
    windows = Encoder(loaded.tokenizer, loaded.context_length, "split").encode(records)
    parameters = trained_parameters(loaded.model)
    kept = [(parameter, parameter.data, parameter.requires_grad) for parameter in parameters]
    frozen = [one for one in loaded.model.parameters() if one.requires_grad and not any(one is other for other in parameters)]
    try:
        for one in frozen:
            one.requires_grad_(False)
        for parameter in parameters:
            # The original tensor is never written to, so restoring it cannot lose a bit.
            wide = torch.float32 if parameter.dtype in (torch.float16, torch.bfloat16) else parameter.dtype
            parameter.data = parameter.data.to(wide, copy=True)
            parameter.requires_grad_(True)
        # In evaluation mode, as dropout would add noise that differs by model.
        pad = padding_token_id(loaded.tokenizer)
        with deterministic(loaded.model.eval()):
            yield Advance(loaded.model, parameters, windows, pad, learning_rate, batch_size, seed)
    finally:
        for parameter, weights, needed in kept:
            parameter.grad = None
            parameter.data = weights
            parameter.requires_grad_(needed)
        for one in frozen:
            one.requires_grad_(True)


class Advance:
    """Trains the model of `relearned` up to a number of steps."""

    def __init__(
        self,
        model: Any,
        parameters: Sequence[nn.Parameter],
        windows: Sequence[Any],
        pad: int,
        learning_rate: float,
        batch_size: int,
        seed: int,
    ) -> None:
        self.model, self.windows, self.pad, self.batch_size = model, windows, pad, min(batch_size, len(windows))
        self.optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
        self.rng, self.done = np.random.default_rng(seed), 0

    @torch.enable_grad()
    def __call__(self, steps: int) -> None:
        """Train until `steps` steps are done in all.

        Raises:
            RunError: the loss is not finite.
        """
        device = next(self.model.parameters()).device
        while self.done < steps:
            chosen = [self.windows[index] for index in self.rng.choice(len(self.windows), self.batch_size, replace=False)]
            batch = {name: values.to(device) for name, values in collate(chosen, self.pad).items()}
            loss = -scored_log_probabilities(self.model, batch)[0].mean()
            if not torch.isfinite(loss):
                raise RunError(f"relearning diverged at step {self.done}. Lower its learning rate.")
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1


def trained_parameters(model: Any) -> list[nn.Parameter]:
    """Return the weights that relearning trains: an adapter's own, or all of a whole model.

    Raises:
        ProbeNotRunError: a quantized model without an adapter, or an ensemble of adapters.
    """
    if getattr(model, "ensemble_combine", None) is not None:
        raise ProbeNotRunError("an ensemble of adapters is served without gradients, so it cannot be trained")
    if is_adapter(model):
        named = list(model.named_parameters())
        prefix = str(getattr(model.base_model, "prefix", "lora_"))
        return [one for _, one in named if one.requires_grad] or [one for name, one in named if prefix in name]
    if is_quantized(model):
        raise ProbeNotRunError("the weights of a quantized model cannot be trained")
    return [parameter for parameter in model.parameters() if parameter.is_floating_point()]


def _chosen(records: Sequence[Record], indices: NDArray[np.int64]) -> list[Record]:
    return [records[index] for index in indices]

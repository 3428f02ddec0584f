"""Differentially private training (DP-SGD): per-unit gradient clipping and Gaussian noise."""

import dataclasses
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearn.defenses.accounting import Accountant, NoisePlan, epsilon_of, plan_noise, require_opacus
from unlearn.defenses.base import Defended, TrainingTask
from unlearn.defenses.unit_gradients import (
    chunks,
    hooked,
    require_separate_gradients,
    row_losses,
    sum_by_unit,
    trained_parameters,
)
from unlearn.training import distributed
from unlearn.training.options import DEFAULTS, Trained, TrainingOptions, TrainingResult, learning_rate_of
from verify.data.encoding import Encoded, Encoder, collate, padding_token_id
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.errors import InputError, RunError
from verify.io.arguments import checked
from verify.io.progress import phase
from verify.models.digests import weights_digest
from verify.training.adapters import attach_adapter
from verify.training.optimizers import optimizer_of


@checked
@dataclass(frozen=True)
class DifferentialPrivacy:
    """Train by DP-SGD, so that including one unit changes the model's distribution by at most (epsilon, delta).

        g_t = (sum_{u in B_t} g_u min(1, C / |g_u|) + N(0, sigma^2 C^2)) / (q n),   u in B_t with probability q

    B_t: units drawn for step t; g_u: gradient of unit u; C: clipping norm; sigma: noise multiplier; n: number of units; q: sample
    rate. Abadi et al. 2016 (arXiv 1607.00133, algorithm 1), with the gradients, optimizer and accountant of Opacus; AdamW takes g_t
    like any gradient. g_u sums over the unit's records, each with the mean loss of its scored tokens. For adding or removing one
    unit, any test of the trained weights has TPR <= e^epsilon FPR + delta.

    The unit is one record, or with "subject" all records of one person: they are drawn together, and their summed gradient is
    clipped once, so that the same accounting holds per person. A person with many records then influences the model no more than a
    person with one, and there are fewer units to hide among, so the same epsilon costs more utility. A record longer than the
    context (`overflow="split"`) is one unit, with all its windows.

    The guarantee does not cover the number of units, which is treated as public; two identical records, which are two units; or the
    files beside the weights. Keep the training log (it names records by keyed hashes, but not the steps they were in) and the
    manifest with the data. The noise comes from PyTorch's generator, not a cryptographic one. An interrupted run starts over with
    fresh noise: its weights were never written, so no budget was spent, and noise whose state was saved could be used twice.

    Attributes:
        target_epsilon: the budget, in nats.
        target_delta: the probability that the bound fails; below one over the number of units.
        privacy_unit: "record" or "subject".
        max_grad_norm: C, the norm that each unit's gradient is clipped to.
        accountant: "rdp", or the tighter and slower "prv".
        noise_seed: makes the run repeatable, for research; anyone who knows it can subtract the noise, so there is no privacy
            against them. None draws a seed that is not stored.
    """

    target_epsilon: float = 8.0
    target_delta: float = 1e-5
    privacy_unit: Literal["record", "subject"] = "record"
    max_grad_norm: float = 1.0
    accountant: Accountant = "rdp"
    noise_seed: int | None = None

    name: ClassVar[str] = "differential_privacy"

    def __post_init__(self) -> None:
        for field in ("target_epsilon", "max_grad_norm"):
            if not (math.isfinite(value := getattr(self, field)) and value > 0):
                raise InputError(f"--{field.replace('_', '-')} must be a number greater than 0, got {value}.")
        if not 0 < self.target_delta < 1:
            raise InputError(f"--target-delta must lie between 0 and 1, got {self.target_delta}.")
        if self.privacy_unit not in ("record", "subject"):
            raise InputError(f"--privacy-unit must be record or subject, got {self.privacy_unit}.")
        if self.accountant not in ("rdp", "prv"):
            raise InputError(f"--accountant must be rdp or prv, got {self.accountant}.")

    def train(self, task: TrainingTask) -> Defended:
        """Train within this budget; the facts are epsilon spent, delta, noise multiplier, sample rate and steps.

        Raises:
            InputError: Opacus is missing, a setting is not supported, the budget cannot be reached with this number of units, or
                the model has a layer whose gradients cannot be separated by unit.
            RunError: the loss is not finite, or the trained parameters did not move.
        """
        require_opacus()
        _require_supported(task.options)
        batches = UnitBatches.of(task, self.privacy_unit)
        batch, steps = _schedule(task.options, len(batches.rows_of))
        plan = plan_noise(self.target_epsilon, self.target_delta, len(batches.rows_of), batch, steps, self.accountant)
        model = attach_adapter(task.loaded.model, task.options)
        before, began = weights_digest(model), time.monotonic()
        torch.manual_seed(task.options.seed)  # for dropout only, which needs no secrecy
        counted = _PrivateRun(self, plan, model, batches, task.options).run()
        if weights_digest(model) == before:
            raise RunError("the trained parameters did not move at all: the private training did nothing. Nothing was written.")
        result = TrainingResult(
            steps, steps * plan.sample_rate, None, round(steps * plan.sample_rate * batches.tokens), time.monotonic() - began
        )
        facts = {
            "epsilon": epsilon_of(counted, self.target_delta, self.accountant),
            "delta": self.target_delta,
            **dataclasses.asdict(counted),
            "units": len(batches.rows_of),
            "repeatable": self.noise_seed is not None,
        }
        return Defended(Trained(model, result), facts)


def _require_supported(options: TrainingOptions) -> None:
    """Raise InputError for settings under which the guarantee would not hold, each with its reason."""
    refused = {
        "--bf16": (options.bf16, "a gradient clipped in bfloat16 may exceed the norm that the accounting assumes"),
        "--gradient-checkpointing": (options.gradient_checkpointing, "its second forward pass is counted as a second record"),
        "--save-steps": (bool(options.save_steps), "a resumed run would use noise twice; an interrupted one starts over"),
        "--optimizer sophia": (options.optimizer == "sophia", "it has not been tested on noisy gradients"),
        "more than one process": (distributed.count() > 1, "each process would sample its own units"),
    }
    for name, (given, reason) in refused.items():
        if given:
            raise InputError(f"--defense dp does not support {name}: {reason}. Leave it out.")


def _schedule(options: TrainingOptions, units: int) -> tuple[int, int]:
    """Compute the mean units per step and the number of steps, as ordinary training on as many records would take."""
    batch = min(units, (options.batch_size or int(DEFAULTS["batch_size"])) * options.gradient_accumulation)
    epochs = options.epochs or float(DEFAULTS["epochs"])
    return batch, options.max_steps or math.ceil(units / batch * epochs)


@dataclass(frozen=True, eq=False)
class UnitBatches:
    """Records grouped into privacy units.

    Attributes:
        windows: every training window.
        weights: factor of each window's summed loss: one over the scored tokens of its record, so that a record counts by its mean.
        rows_of: the windows of each unit.
        pad: token id for padding.
    """

    windows: Sequence[Encoded]
    weights: Sequence[float]
    rows_of: Sequence[Sequence[int]]
    pad: int

    @classmethod
    def of(cls, task: TrainingTask, unit: str) -> "UnitBatches":
        """Encode the records of a task and group them.

        Raises:
            InputError: a record names no subject though subjects are the unit.
        """
        loaded, records = task.loaded, task.records
        windows = Encoder(loaded.tokenizer, loaded.context_length, task.options.overflow).encode(records)
        tokens = [0] * len(records)
        for window in windows:
            tokens[window.record] += int(window.scored.sum())
        names: Sequence[Any] = range(len(records)) if unit == "record" else _subjects(records)
        grouped: dict[Any, list[int]] = {}
        for row, window in enumerate(windows):
            grouped.setdefault(names[window.record], []).append(row)
        weights = [1 / tokens[window.record] for window in windows]
        return cls(windows, weights, list(grouped.values()), padding_token_id(loaded.tokenizer))

    @property
    def tokens(self) -> int:
        """Count the tokens of all windows."""
        return sum(len(window.input_ids) for window in self.windows)

    def batch(self, units: Sequence[int], device: torch.device) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return padded rows of some units [B, L], the weight of each row [B], and its unit within the batch [B]."""
        rows = [(row, position) for position, unit in enumerate(units) for row in self.rows_of[unit]]
        padded = collate([self.windows[row] for row, _ in rows], self.pad)
        weights = torch.tensor([self.weights[row] for row, _ in rows], device=device)
        owners = torch.tensor([position for _, position in rows], device=device)
        return {name: value.to(device) for name, value in padded.items()}, weights, owners


def _subjects(records: Sequence[Record]) -> list[str]:
    """Return the privacy unit of each record, its subject; raise InputError where one has none."""
    missing = [number for number, record in enumerate(records, 1) if record.subject_id is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(records)} training records (the first in row {missing[0]}) name no subject, so subjects "
            "cannot be the unit. Name their column with --subject-field, or use --privacy-unit record."
        )
    # People who share a record share a unit: the guarantee for the group holds for each person in it.
    return subject_groups(records)


@dataclass(eq=False)
class _PrivateRun:
    """The DP-SGD training loop."""

    defense: DifferentialPrivacy
    plan: NoisePlan
    model: nn.Module
    batches: UnitBatches
    options: TrainingOptions

    def run(self) -> NoisePlan:
        """Take all steps; return the noise, sample rate and steps that the accountant recorded."""
        from opacus.accountants import create_accountant
        from opacus.optimizers import DPOptimizer
        from opacus.utils.uniform_sampler import UniformWithReplacementSampler
        from transformers import get_scheduler

        device, plan = next(self.model.parameters()).device, self.plan
        seed = secrets.randbits(62) if self.defense.noise_seed is None else self.defense.noise_seed
        optimizer = optimizer_of(self.model, dataclasses.asdict(self.options))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_of(self.options)
        schedule = get_scheduler(
            self.options.scheduler or DEFAULTS["scheduler"],
            optimizer,
            num_warmup_steps=round(plan.steps * (self.options.warmup_ratio or DEFAULTS["warmup_ratio"])),
            num_training_steps=plan.steps,
        )
        private = DPOptimizer(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=self.defense.max_grad_norm,
            expected_batch_size=plan.sample_rate * len(self.batches.rows_of),
            generator=torch.Generator(device).manual_seed(seed),
        )
        accountant: Any = create_accountant(mechanism=self.defense.accountant)
        private.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=plan.sample_rate))
        sampler = UniformWithReplacementSampler(
            num_samples=len(self.batches.rows_of),
            sample_rate=plan.sample_rate,
            generator=torch.Generator().manual_seed(seed + 1),
            steps=plan.steps,
        )
        self.model.train()  # Opacus records gradients only of layers in training mode
        with hooked(self.model) as hooks:
            require_separate_gradients(self.model, hooks)
            with phase("training", main=True) as done:
                for number, units in enumerate(sampler, 1):
                    self._step(private, units, device)
                    schedule.step()
                    done(number / plan.steps)
        self.model.eval()
        ((noise, rate, steps),) = accountant.history
        return NoisePlan(float(noise), float(rate), int(steps))

    def _step(self, private: Any, units: Sequence[int], device: torch.device) -> None:
        """Take one step over the drawn units; with none drawn the step is noise alone, which the accounting counts too."""
        portions = list(chunks(units, self.batches.rows_of, self.options.batch_size or int(DEFAULTS["batch_size"])))
        for number, portion in enumerate(portions):
            rows, weights, owners = self.batches.batch(portion, device)
            loss = (row_losses(self.model, rows) * weights).sum()
            if not torch.isfinite(loss):
                raise RunError("the loss is not finite; the step was not taken. Lower --learning-rate, or use --dtype float32.")
            loss.backward()  # type: ignore[no-untyped-call]
            sum_by_unit(self.model, owners, len(portion))
            private.signal_skip_step(number < len(portions) - 1)  # accumulate clipped gradients; add noise with the last portion
            private.step()
            private.zero_grad()
        if not portions:
            for parameter in trained_parameters(self.model):
                parameter.grad_sample = torch.zeros((0, *parameter.shape), device=device, dtype=parameter.dtype)  # type: ignore[attr-defined]
            private.step()
            private.zero_grad()

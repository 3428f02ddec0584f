"""Differentially private training: every unit's gradient is clipped, and noise hides whether any one of them was there."""

import dataclasses
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearn import processes
from unlearn.adapters import attach_adapter
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
from unlearn.options import DEFAULTS, TrainingOptions, learning_rate_of
from unlearn.replay import optimizer_of
from unlearn.results import Trained, TrainingResult
from verify.arguments import checked
from verify.digests import weights_digest
from verify.encoding import Encoded, Encoder, collate, padding_token_id
from verify.errors import InputError, RunError
from verify.records import Record
from verify.subjects import people_of


@checked
@dataclass(frozen=True)
class DifferentialPrivacy:
    """DP-SGD: no model can tell, but for epsilon and delta, whether one unit was trained on.

        g_t = (sum_{u in B_t} g_u min(1, C / |g_u|) + N(0, sigma^2 C^2)) / (q n),   u in B_t with probability q

    Abadi et al. 2016 (arXiv 1607.00133, algorithm 1), through Opacus' gradients, optimizer and accountant; AdamW takes g_t as it
    would any gradient. g_u is the gradient of the unit's records, each the mean loss of its scored tokens, summed. For adding or
    removing one unit, any test of the trained weights has TPR <= e^epsilon FPR + delta.

    The unit is one record, or with "subject" all records of one person: they are drawn together, and their summed gradient is
    clipped once, so that the same accounting holds with people in the place of records. A person with many records then moves
    the model no more than one with a single record, and there are fewer units to hide among, so the same epsilon costs more.
    A record that is longer than the context (`overflow="split"`) is one unit, with all its windows.

    What the guarantee does not cover: the number of units, taken as public; two identical records, which are two units; the files
    beside the weights. The training log (it names the records by keyed hashes, not the steps they were in) and the manifest stay
    with the data. The noise is PyTorch's, not a cryptographic generator's. A run that is cut off begins anew with fresh noise: its
    weights were never written, so nothing was spent, and to keep the noise's state on the disk would let it be used twice.

    Attributes:
        target_epsilon: the budget, in nats.
        target_delta: the probability with which it may fail; below one over the number of units.
        privacy_unit: "record" or "subject".
        max_grad_norm: C, the norm that each unit's gradient is clipped to.
        accountant: "rdp", or the tighter and slower "prv".
        noise_seed: makes the run repeatable, for research; whoever knows it can subtract the noise, so that nothing is private
            against them. None draws a seed that is kept nowhere.
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
            raise InputError(f"--privacy-unit {self.privacy_unit} must be record or subject.")
        if self.accountant not in ("rdp", "prv"):
            raise InputError(f"the accountant {self.accountant} must be rdp or prv.")

    def train(self, task: TrainingTask) -> Defended:
        """Train under this budget; the facts are epsilon spent, delta, noise multiplier, sample rate and steps.

        Raises:
            InputError: Opacus is missing, a setting does not go together with it, the budget is unreachable for so few units, or
                the model has a layer whose gradients cannot be told apart.
            RunError: the loss is not finite, or the trained parameters did not move.
        """
        require_opacus()
        _require_supported(task.options)
        batches = UnitBatches.of(task, self.privacy_unit)
        batch, steps = _schedule(task.options, len(batches.rows_of))
        plan = plan_noise(self.target_epsilon, self.target_delta, len(batches.rows_of), batch, steps, self.accountant)
        model = attach_adapter(task.loaded.model, task.options)
        before, began = weights_digest(model), time.monotonic()
        torch.manual_seed(task.options.seed)  # dropout alone; it needs no secrecy
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
        "--bf16": (options.bf16, "a gradient clipped in bfloat16 is not as short as the accounting says"),
        "--gradient-checkpointing": (options.gradient_checkpointing, "its second forward pass is counted as a second record"),
        "--save-steps": (bool(options.save_steps), "a resumed run would use noise twice; one that is cut off begins anew"),
        "--optimizer sophia": (options.optimizer == "sophia", "it was never tried on noisy gradients"),
        "more than one process": (processes.count() > 1, "each would sample for itself"),
    }
    for name, (given, reason) in refused.items():
        if given:
            raise InputError(f"--defense dp does not go with {name}: {reason}. Leave it out.")


def _schedule(options: TrainingOptions, units: int) -> tuple[int, int]:
    """Units in a step on average, and how many steps: as many as ordinary training over as many records would take."""
    batch = min(units, (options.batch_size or int(DEFAULTS["batch_size"])) * options.gradient_accumulation)
    epochs = options.epochs or float(DEFAULTS["epochs"])
    return batch, options.max_steps or math.ceil(units / batch * epochs)


@dataclass(frozen=True, eq=False)
class UnitBatches:
    """The records as units.

    Attributes:
        windows: every training window.
        weights: of each window's summed loss: one over the scored tokens of its record, so that a record counts by its mean.
        rows_of: for each unit, its windows.
        pad: a token id to pad with.
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
        """Tokens of all windows together."""
        return sum(len(window.input_ids) for window in self.windows)

    def batch(self, units: Sequence[int], device: torch.device) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Padded rows of some units [B, L], the weight of each row [B], and its unit, counted within the batch [B]."""
        rows = [(row, place) for place, unit in enumerate(units) for row in self.rows_of[unit]]
        padded = collate([self.windows[row] for row, _ in rows], self.pad)
        weights = torch.tensor([self.weights[row] for row, _ in rows], device=device)
        owners = torch.tensor([place for _, place in rows], device=device)
        return {name: value.to(device) for name, value in padded.items()}, weights, owners


def _subjects(records: Sequence[Record]) -> list[str]:
    missing = [number for number, record in enumerate(records, 1) if record.subject_id is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(records)} training records (the first in row {missing[0]}) name no subject, so subjects "
            "cannot be the unit. Name their column with --subject-field, or use --privacy-unit record."
        )
    # Whoever shares a record shares a unit: the guarantee for the group holds for each person in it.
    return people_of(records)


@dataclass(eq=False)
class _PrivateRun:
    """The loop itself."""

    defense: DifferentialPrivacy
    plan: NoisePlan
    model: nn.Module
    batches: UnitBatches
    options: TrainingOptions

    def run(self) -> NoisePlan:
        """Take all steps; what the accountant counted."""
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
        self.model.train()
        with hooked(self.model) as hooks:
            require_separate_gradients(self.model, hooks)
            for units in sampler:
                self._step(private, units, device)
                schedule.step()
        self.model.eval()
        ((noise, rate, steps),) = accountant.history
        return NoisePlan(float(noise), float(rate), int(steps))

    def _step(self, private: Any, units: Sequence[int], device: torch.device) -> None:
        """One step over the units that were drawn; over none it is noise alone, which the accounting counts as well."""
        portions = list(chunks(units, self.batches.rows_of, self.options.batch_size or int(DEFAULTS["batch_size"])))
        for number, portion in enumerate(portions):
            rows, weights, owners = self.batches.batch(portion, device)
            loss = (row_losses(self.model, rows) * weights).sum()
            if not torch.isfinite(loss):
                raise RunError("the loss is not finite; the step was not taken. Lower --learning-rate, or use --dtype float32.")
            loss.backward()  # type: ignore[no-untyped-call]
            sum_by_unit(self.model, owners, len(portion))
            private.signal_skip_step(number < len(portions) - 1)  # only clip and add up, but for the last portion
            private.step()
            private.zero_grad()
        if not portions:
            for parameter in trained_parameters(self.model):
                parameter.grad_sample = torch.zeros((0, *parameter.shape), device=device, dtype=parameter.dtype)  # type: ignore[attr-defined]
            private.step()
            private.zero_grad()

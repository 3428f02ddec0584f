"""The trainer of all runs: `transformers.Trainer` over pairs of forget and retain records.

It adds: pairs in an order that depends on the seed alone; equal weight for every record (or token) of an optimizer step, however
the step is split; an error before a step whose loss or gradient is not finite; stop rules and selection; a training log; and
checkpoints from which a killed run resumes to the same weights, bit for bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from unlearn.training import distributed
from unlearn.training.gradients import DividedGradient
from unlearn.training.log import LogWriter
from unlearn.training.losses import PairLoss
from unlearn.training.method import Progress
from unlearn.training.penalty import WeightPenalty
from unlearn.training.selection import Selector
from verify.errors import RunError
from verify.io.files import disk_errors, read_json, write_json, write_manifest
from verify.training.arithmetic import Arithmetic
from verify.training.optimizers import Sophia
from verify.training.schedule import FILLER, Pair, PairDataset, PairSampler, microbatch_seed, seed_generator
from verify.training.sharding import is_sharded
from verify.training.state import state_digest

PROGRESS = "progress.json"
SMALL = 10_000_000
"""Weights below which a model left in memory for a while does no harm."""


@dataclass(frozen=True, eq=False)
class Steering:
    """What an objective and its selection decide between steps; the defaults train to the end.

    Attributes:
        stop: the stop rule: why to stop now, or None to continue.
        check_every: optimizer steps between two checks of it; 0 checks at the end of every epoch.
        progress: where the run stands; shared with the loss, and kept up to date by the trainer.
        advance: the objective's values after a step, from those before it and the step's means; None for one without memory.
        selector: evaluates the run and keeps the best step, or None.
        penalty: pulls the weights to their initial values in every step, or None.
        gradient: joins the forget and the retain part of every step's gradient, or None where they are just added.
    """

    stop: Callable[[], str | None] | None = None
    check_every: int = 0
    progress: Progress = field(default_factory=Progress)
    advance: Callable[[Mapping[str, float], Mapping[str, float]], Mapping[str, float]] | None = None
    selector: Selector | None = None
    penalty: WeightPenalty | None = None
    gradient: DividedGradient | None = None


class RecordTrainer(Trainer):
    """`transformers.Trainer` over pairs of records.

    Attributes:
        pair_loss: the loss, and the weight of a microbatch in the mean over its step.
        steering: what decides between steps.
        tokens: number of tokens that went through the model in this process.
        losses: (step, loss) as logged.
        stopped: why a stop rule ended the run, or None.
        report: called with the share of the steps that is done, after each.
    """

    def __init__(
        self,
        *,
        pair_loss: PairLoss,
        sampler: PairSampler,
        seed: int,
        log: LogWriter | None = None,
        steering: Steering | None = None,
        optimizer: str = "adamw",
        arithmetic: Arithmetic | None = None,
        callbacks: Sequence[Any] = (),
        **arguments: Any,
    ) -> None:
        given: TrainingArguments = arguments["args"]
        if given.world_size > 1:
            sampler.multiple = given.per_device_train_batch_size * given.world_size
        watch = _Watch(self)
        super().__init__(
            train_dataset=PairDataset(len(sampler)), data_collator=_as_they_are, callbacks=[watch, *callbacks], **arguments
        )
        self.pair_loss, self.sampler = pair_loss, sampler
        self.run_seed, self.log_writer = seed, log
        self.steering = steering or Steering()
        self.progress, self.optimizer_name = self.steering.progress, optimizer
        self.arithmetic = arithmetic or Arithmetic(in_copies=False)
        # `compute_loss` returns a share of the whole step's mean; the base class must not divide it by the accumulation again.
        self.model_accepts_loss_kwargs = True
        self.microbatch, self.tokens = 0, 0
        self.stopped: str | None = None
        self.losses: list[tuple[int, float]] = []
        self.gradient_norm = 0.0
        self.report: Callable[[float], None] = lambda _: None
        # Clipping computes the gradient norm anyway; it is kept for the check for finite gradients.
        self._clip = self.accelerator.clip_grad_norm_
        self.accelerator.clip_grad_norm_ = self._clip_and_remember
        # The base class collects garbage before a run, since an earlier model may be in it. Going through all objects of the
        # libraries takes 0.4 s, which a small model is not worth.
        if sum(parameter.numel() for parameter in arguments["model"].parameters()) < SMALL:
            self.accelerator.free_memory = lambda *kept: kept

    def _clip_and_remember(self, parameters: Any, max_norm: float, *rest: Any, **named: Any) -> Any:
        norm = self._clip(parameters, max_norm, *rest, **named)
        self.gradient_norm = float(norm) if norm is not None else 0.0
        if self.steering.gradient is not None:
            self.steering.gradient.scale(min(1.0, max_norm / (self.gradient_norm + 1e-6)))  # as torch clips
        return norm

    def create_optimizer(self, *rest: Any, **named: Any) -> Any:
        """Create AdamW as `transformers` does, or another optimizer over the same parameter groups."""
        gradient = self.steering.gradient
        apart = gradient is not None and gradient.options.separate_moments
        if (self.optimizer_name != "sophia" and not apart) or self.optimizer is not None:
            return super().create_optimizer(*rest, **named)
        assert self.model is not None
        decayed = set(self.get_decay_parameter_names(self.model))
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for name, parameter in trained if name in decayed], "weight_decay": self.args.weight_decay},
            {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
        ]
        rate = self.args.learning_rate
        self.optimizer = gradient.optimizer(groups, rate) if apart and gradient is not None else Sophia(groups, lr=rate)
        return self.optimizer

    def end_step(self) -> None:
        """Pass the step's measurements to the objective, as means over all processes."""
        self.progress.step = self.state.global_step
        if self.steering.advance is None:
            return
        names = sorted(self.progress.measured)
        # (sum, count) of each name [names, 2]; float64, since they are sums over many rows.
        sums = torch.tensor([self.progress.measured[name] for name in names], dtype=torch.float64, device=self.args.device)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        means = {name: float(total / count) for name, (total, count) in zip(names, sums.tolist(), strict=True)}
        self.progress.values = dict(self.steering.advance(self.progress.values, means))
        self.progress.measured.clear()

    def resume_progress(self, checkpoint: Path) -> None:
        """Restore the objective's values, the selection, the stop reason and the token count from a checkpoint."""
        kept = read_json(checkpoint / PROGRESS)
        self.progress.values = {name: float(value) for name, value in kept["values"].items()}
        self.stopped = kept.get("stopped")
        # The checkpoint has the sum of all processes; only one starts from it, since the counts are summed again at the end.
        self.tokens = int(kept.get("tokens", 0)) if self.is_world_process_zero() else 0
        if self.steering.selector is not None:
            self.steering.selector.resume(checkpoint)

    def _get_train_sampler(self, train_dataset: Any = None) -> PairSampler:
        return self.sampler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Tensor]:
        """Return the microbatches of one optimizer step, and their total weight over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weights = [self.pair_loss.weight([pair for pair in batch if pair != FILLER]) for batch in batches]
        items = torch.tensor(sum(weights), device=device)
        if self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        return batches, items

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return the pairs as they are: they are indices, and the loss moves its own tensors."""
        return inputs

    def training_step(self, model: nn.Module, *rest: Any, **named: Any) -> Tensor:
        """Take the forward and backward pass of a microbatch, in the run's arithmetic; the step's last one adds the penalty."""
        with self.arithmetic.of(model):
            loss: Tensor = super().training_step(model, *rest, **named)
        if not self.accelerator.sync_gradients:
            return loss
        if self.steering.gradient is not None:
            self.steering.gradient.join()
        # After the gradients of all processes were averaged: each adds the same.
        return loss if self.steering.penalty is None else loss + self.steering.penalty.pull()

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Compute this microbatch's share of the step's mean loss: its own mean times its weight over the step's weight."""
        # Dropout depends on the run's seed and the microbatch's number alone, so that a resumed run draws the same.
        seed_generator(seed := microbatch_seed(self.run_seed, self.microbatch), self.args.device)
        real = [pair for pair in inputs if pair != FILLER]
        # A process without remaining records still takes part in the gradient synchronisation, with a loss of weight 0.
        pairs = real or [(0, 0 if self.sampler.partners else -1)]
        self.tokens += self.pair_loss.tokens(pairs)
        measured = dict(self.progress.measured)
        # Times the number of processes, since DistributedDataParallel averages the gradients.
        share = self.pair_loss.weight(real) * self.args.world_size / num_items_in_batch
        if self.steering.gradient is not None:
            self.tokens += self.pair_loss.tokens(pairs)  # they go through the model twice
            self.steering.gradient.read_retain(model, pairs, self.args.device, share)
            self.progress.measured = dict(measured)  # the whole pass measures the same again,
            seed_generator(seed, self.args.device)  # with the same dropout as without the division
        loss = self.pair_loss(model, pairs, self.args.device)
        if not real:  # measurements of a filler are dropped; their names stay, since all processes sum the same names
            self.progress.measured = {name: measured.get(name, (0.0, 0.0)) for name in self.progress.measured}
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss is not finite at step {self.state.global_step + 1}; the step was not taken. Lower --learning-rate, "
                "or use --dtype float32."
            )
        if self.log_writer is not None:
            assert self.lr_scheduler is not None
            rate = float(self.lr_scheduler.get_last_lr()[0])
            self._log(real, seed, rate)
        self.microbatch += 1
        return loss * share

    def _log(self, pairs: Sequence[Pair], seed: int, rate: float) -> None:
        """Log the microbatches of all processes, in order of rank."""
        shares = [[index for index, _ in pairs]]
        if self.args.world_size > 1:
            shares = gather_object(shares)
        if self.is_world_process_zero():
            assert self.log_writer is not None, "the caller checks"
            for rank, records in enumerate(shares):
                number = self.microbatch * self.args.world_size + rank
                self.log_writer.microbatch(number, self.state.global_step + 1, records, seed, rate)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: pairs of indices have no shape to count operations from."""
        return 0

    def microbatches_before(self, step: int) -> int:
        """Return the number of microbatches in the first `step` optimizer steps; the last step of an epoch may have fewer."""
        per_epoch = self._microbatches_per_epoch()
        epoch, within = divmod(step, self.steps_per_epoch())
        return epoch * per_epoch + min(within * int(self.args.gradient_accumulation_steps), per_epoch)

    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps in one epoch."""
        return -(-self._microbatches_per_epoch() // int(self.args.gradient_accumulation_steps))

    def _microbatches_per_epoch(self) -> int:
        return -(-len(self.sampler) // int(self.args.per_device_train_batch_size * self.args.world_size))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint and, last, its manifest, without which it does not count."""
        with disk_errors(Path(str(self.args.output_dir))):
            super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.steering.selector is not None:
            distributed.wait()  # until the folder exists
            with disk_errors(folder):
                self.steering.selector.save(folder)
        tokens = distributed.total(self.tokens)
        distributed.wait()  # until all shards are written, since the manifest lists them
        if self.is_world_process_zero():
            # A pickle that nothing reads, with paths of this machine in it.
            (folder / "training_args.bin").unlink(missing_ok=True)
            write_json(folder / PROGRESS, {"values": self.progress.values, "stopped": self.stopped, "tokens": tokens})
            # The log comes before the manifest: a run killed between the two resumes from the checkpoint before, and cuts the log
            # there. The other way round it would resume from a state that its log does not name.
            if self.log_writer is not None:
                state = None if is_sharded(model) else state_digest(self.accelerator.unwrap_model(model), self.optimizer)
                self.log_writer.checkpoint(self.state.global_step, folder.name, self.microbatch * self.args.world_size, state)
            write_manifest(folder, "checkpoint", {"step": self.state.global_step, "microbatch": self.microbatch})


class _Watch(TrainerCallback):
    """Trainer callback between steps: epochs, the check for finite gradients, stop rule, selection, and the log."""

    def __init__(self, trainer: RecordTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = state.global_step // self.trainer.steps_per_epoch()
        self.trainer.sampler.set_epoch(epoch)
        self.trainer.progress.step, self.trainer.progress.epoch = state.global_step, epoch
        self.trainer.microbatch = self.trainer.microbatches_before(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not math.isfinite(self.trainer.gradient_norm):
            raise RunError(
                f"the gradient is not finite at step {state.global_step + 1}; the step was not taken. Lower --learning-rate, "
                "or use --dtype float32."
            )
        if self.trainer.log_writer is not None and self.trainer.is_world_process_zero():
            self.trainer.log_writer.step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.end_step()
        steering, per_epoch = self.trainer.steering, self.trainer.steps_per_epoch()
        # Before the step's checkpoint is written, so that a resumed run starts with the same decisions.
        if state.global_step % (steering.check_every or per_epoch) == 0:
            self._check(control)
        selector = steering.selector
        if selector is not None and state.global_step % (selector.selection.look_every or per_epoch) == 0:
            assert self.trainer.model is not None
            stopped = selector.consider(state.global_step, self.trainer.model)
            control.should_training_stop = control.should_training_stop or stopped is not None
        self.trainer.report(state.global_step / state.max_steps)

    def _check(self, control: Any) -> None:
        """Apply the stop rule, unless it has stopped the run already."""
        stop = self.trainer.steering.stop
        if stop is not None and self.trainer.stopped is None:
            self.trainer.stopped = distributed.agreed(stop())
            control.should_training_stop = control.should_training_stop or self.trainer.stopped is not None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.trainer.losses.append((state.global_step, float(logs["loss"])))


def _as_they_are(pairs: list[Pair]) -> Any:
    """Return the pairs as they are, as the collator: they stay indices until the loss makes tensors of them."""
    return pairs

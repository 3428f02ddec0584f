"""Training runs: fine-tuning on records, or minimising an unlearning objective, in place and resumable after a kill.

    Run ---> run_objective ---> ObjectiveLoss --+
     |                                          +--> train_pairs ---> RecordTrainer ---> Trained
     +-----> train_records ---> LikelihoodLoss -+

Weights stored in half precision are trained as float32 copies and rounded at the end (`verify.training.precision`).
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback

from unlearn.training import distributed
from unlearn.training.arguments import epochs_begun, step_records, token_counts, training_arguments, unseen_share
from unlearn.training.checkpoints import open_work
from unlearn.training.gradients import DividedGradient, require_divisible
from unlearn.training.initial_outputs import InitialOutputs, load_or_compute_outputs
from unlearn.training.log import LogWriter
from unlearn.training.lora import gradient_flags, put_gradient_flags
from unlearn.training.losses import LikelihoodLoss, ObjectiveLoss, PairLoss
from unlearn.training.method import InsideLayers, Objective, Progress, WithAlternatives, WithMemory, WithWeightPenalty
from unlearn.training.options import GradientOptions, Selection, Trained, TrainingOptions, TrainingResult
from unlearn.training.penalty import WeightPenalty
from unlearn.training.selection import Selector, selector_of
from unlearn.training.stopping import stop_check
from unlearn.training.trainer import RecordTrainer, Steering
from unlearn.training.weights import edited_parameters
from verify.data.encoding import Encoded, Encoder, padding_token_id, warn_of_spelled_tokens
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.io.progress import phase
from verify.models.adapter_types import is_adapter
from verify.models.loading import LoadedModel
from verify.training.adapters import attach_adapter, require_attachable
from verify.training.arithmetic import Arithmetic, can_compute_in_copies, warn_of_emulation
from verify.training.checkpoints import Checkpoint, last_complete_checkpoint, put_checkpoint
from verify.training.deterministic import deterministic
from verify.training.precision import MASTER_WEIGHTS, float32_copies, half_precision
from verify.training.schedule import Lengths, PairSampler


@dataclass(frozen=True, eq=False)
class Run:
    """Description of one training run: records, settings, working folder, log, and how the best step is chosen.

    Attributes:
        records: the training records; for an objective, the forget set.
        options: settings; options that are None take `unlearn.training.options.DEFAULTS`.
        work_dir: for checkpoints; a run that was interrupted there resumes from the last complete one.
        log: the provenance log to write, or None.
        callbacks: additional `transformers` callbacks.
        retain: the records to keep, which an objective pairs with the forget set; None for objectives that need none.
        holdout: never-trained records, for an objective's stop rule and the selection, or None.
        selection: how an objective's best step is chosen; None takes the last one.
        gradients: how the forget and the retain part of an objective's gradient are joined; None adds them.
        utility: records to keep, on which the selection measures utility; without any there is no selection.
        tables: initial outputs that were computed elsewhere, by name (`unlearn.training.initial_outputs.GIVEN`).
        start: weights by name that an objective's steps start from; empty for the model's own. Initial outputs and the weight
            penalty remain those of the model as it was given. Not below a new adapter, which could not lead back.
    """

    records: Sequence[Record]
    options: TrainingOptions
    work_dir: Path
    log: LogWriter | None = None
    callbacks: Sequence[Any] = ()
    retain: Sequence[Record] | None = None
    holdout: Sequence[Record] | None = None
    selection: Selection | None = None
    gradients: GradientOptions | None = None
    utility: Sequence[Record] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)


def train_records(loaded: LoadedModel, run: Run) -> Trained:
    """Fine-tune in place: the mean negative log-likelihood over all scored tokens of an optimizer step.

    Args:
        loaded: the model; with `run.options.lora`, an adapter is attached to it.
        run: what to train on and how; the fields of objectives are not read.

    Raises:
        InputError: a record does not fit the context, or the folder holds another run.
        RunError: a loss, gradient or resulting weight is not finite, or the disk is full.
    """
    options, records = run.options, run.records
    warn_of_spelled_tokens(records, loaded.tokenizer)
    windows = Encoder(loaded.tokenizer, loaded.context_length, options.overflow).encode(records)
    require_attachable(loaded.model, options)
    flags = gradient_flags(loaded.model)
    with float32_copies(loaded.model, trained_parameters(loaded.model, options), options.seed):
        model = attach_adapter(loaded.model, options)
        open_work(run.work_dir, "train", options, [record.reading for record in records], loaded.digest)
        sampler = PairSampler(len(windows), 0, options.seed, Lengths(token_counts(windows), (), step_records(options)))
        trained = train_pairs(model, LikelihoodLoss(windows, padding_token_id(loaded.tokenizer)), sampler, run)
    if model is loaded.model:
        put_gradient_flags(model, flags)
    return trained


def trained_parameters(model: Any, options: TrainingOptions, objective: Any = None) -> list[nn.Parameter]:
    """Return the parameters of a model that a run with these options will train; none if it will attach a new adapter.

    Args:
        model: before an adapter is attached.
        options: options of the run.
        objective: the run's objective, or None for fine-tuning.
    """
    if is_adapter(model):
        with edited_parameters(model) as edited:
            return list(edited.values())
    if options.lora:
        return []
    if isinstance(objective, InsideLayers):
        return list(objective.trained_parameters(model))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def arithmetic_of(model: nn.Module, options: TrainingOptions) -> Arithmetic:
    """Return the arithmetic of a run: with `bf16` on copies of its weights where that can be; other runs compute under autocast."""
    copies = options.bf16 and distributed.count() == 1 and can_compute_in_copies(model)
    if copies and distributed.is_main():
        warn_of_emulation()
    return Arithmetic.in_copies_of(model) if copies else Arithmetic(in_copies=False)


def log_writer(
    path: Path,
    loaded: LoadedModel,
    records: Sequence[Record],
    options: TrainingOptions,
    key: RecordKey,
    *,
    defense: str | None = None,
) -> LogWriter:
    """Create the training log of a run, with one entry per window, as `train_records` splits the records.

    Raises:
        InputError: a record does not fit the context.
    """
    windows = Encoder(loaded.tokenizer, loaded.context_length, options.overflow).encode(records)
    return LogWriter.for_run(
        path,
        [records[window.record] for window in windows],
        options,
        key,
        tokenizer=loaded.tokenizer_digest,
        start_weights=loaded.digest,
        defense=defense,
        master_weights=MASTER_WEIGHTS if defense is None and half_precision(trained_parameters(loaded.model, options)) else None,
        arithmetic=arithmetic_of(loaded.model, options).entry,
        device=next(loaded.model.parameters()).device,
    )


def run_objective(loaded: LoadedModel, objective: Objective, run: Run) -> Trained:
    """Minimise an unlearning objective in place; every record of an optimizer step has the same weight.

    Args:
        loaded: the model before unlearning; with `run.options.lora`, an adapter is attached to it.
        objective: the loss and what it needs.
        run: forget and retain records, settings, and how the best step is chosen.

    Raises:
        InputError, RunError: as `train_records`.
    """
    warn_of_spelled_tokens([*run.records, *(run.retain or ())], loaded.tokenizer)
    require_attachable(loaded.model, run.options)
    require_divisible(run.gradients, run.options, pairs=objective.needs_retain)
    # Converted before the initial outputs are computed, so that these have the arithmetic of the steps.
    with float32_copies(loaded.model, trained_parameters(loaded.model, run.options, objective), run.options.seed):
        return _minimise(loaded, objective, run)


def _minimise(loaded: LoadedModel, objective: Objective, run: Run) -> Trained:
    """Run an objective whose trained weights are in float32 already."""
    options, pad = run.options, padding_token_id(loaded.tokenizer)
    encoder = Encoder(loaded.tokenizer, loaded.context_length, options.overflow)
    windows = _encode(loaded, objective, run, encoder)
    sampler, arithmetic = _sampler(windows, options), arithmetic_of(loaded.model, options)
    before = _read_before(loaded, objective, run, windows, encoder, sampler, arithmetic)
    memory = objective if isinstance(objective, WithMemory) else None
    progress = Progress(values={} if memory is None else dict(memory.begin()))
    flags, given = gradient_flags(loaded.model), dict(loaded.model.named_parameters())
    model = attach_adapter(loaded.model, options)
    assert not run.start or model is loaded.model, "a method with a start trains the weights that it moves, without a new adapter"
    # Below an adapter no weight is trained, since only the adapter is saved.
    if isinstance(objective, InsideLayers) and not is_adapter(model):
        _train_only(model, objective.trained_parameters(model))
    # Steps hold the part of the retain set that they see, and the penalty stands in for the rest. From a start it also leads back.
    share = 1.0 if run.start else unseen_share(sampler, options)
    weight = objective.anchor_weight * share if isinstance(objective, WithWeightPenalty) else 0.0
    penalty = WeightPenalty.of(model, windows["retain"], pad, weight, options.seed, arithmetic) if weight else None
    with torch.no_grad():
        for name, value in run.start.items():
            given[name].copy_(value)
    loss = ObjectiveLoss(objective, windows, before.outputs, progress, pad)
    steering = Steering(
        before.stop,
        0 if objective.stop_rule is None else objective.stop_rule.check_every,
        progress,
        None if memory is None else memory.advance,
        before.selector,
        penalty,
        _divided_gradient(model, loss, run.gradients),
    )
    trained = train_pairs(model, loss, sampler, run, steering, arithmetic)
    if model is loaded.model:
        put_gradient_flags(model, flags)
    return trained if penalty is None else _counting(trained, penalty)


def _encode(loaded: LoadedModel, objective: Objective, run: Run, encoder: Encoder) -> dict[str, list[Encoded]]:
    """Encode the records of an objective by role, and claim the working folder before alternatives are made for it."""
    windows: dict[str, list[Encoded]] = {"forget": encoder.encode(run.records), "retain": []}
    if objective.needs_retain and run.retain:
        windows["retain"] = encoder.encode(run.retain)
    _claim_work(loaded, objective, run)
    if isinstance(objective, WithAlternatives):
        alternatives = objective.alternatives(loaded, run.records, run.retain or [], run.options.seed)
        windows["alternative"] = _one_each(encoder, alternatives, windows["forget"])
    return windows


@dataclass(frozen=True, eq=False)
class _Before:
    """What is read from the model before unlearning.

    Attributes:
        outputs: the initial outputs that the loss reads, by name.
        stop: the check of the stop rule; None without one.
        selector: chooses the best step; None without selection.
    """

    outputs: InitialOutputs
    stop: Callable[[], str | None] | None
    selector: Selector | None


def _read_before(
    loaded: LoadedModel,
    objective: Objective,
    run: Run,
    windows: Mapping[str, Sequence[Encoded]],
    encoder: Encoder,
    sampler: PairSampler,
    arithmetic: Arithmetic,
) -> _Before:
    """Read everything that is read from the model before unlearning: before an adapter is attached and a step is taken.

    It is computed in the arithmetic of the steps: else rounding would look like a change.
    """
    options, device = run.options, next(loaded.model.parameters()).device
    half = options.bf16 and not arithmetic.in_copies
    with torch.no_grad(), arithmetic.of(loaded.model), torch.autocast(device.type, torch.bfloat16, enabled=half):
        outputs = load_or_compute_outputs(
            run.work_dir,
            loaded,
            objective.reference,
            windows,
            padding_token_id(loaded.tokenizer),
            layer=objective.inner_layer(loaded.model) if isinstance(objective, InsideLayers) else None,
            seed=options.seed,
            # An adapter given by the user may include the head; a new one leaves the layer below it unchanged.
            trained_head=not options.lora or is_adapter(loaded.model),
            given=run.tables,
            # A process without records of its own in a step reads the first one instead.
            read={"retain": {0, *sampler.partners_of(epochs_begun(sampler, options))}} if sampler.partners else None,
        )
        stop = stop_check(loaded, objective.stop_rule, windows["forget"], run.holdout, encoder)
        selector = selector_of(loaded, run.selection, run.records, run.utility, run.holdout or (), options)
    if stop is not None:
        stop = arithmetic.inside(loaded.model, stop)
    if selector is not None:
        selector.losses = arithmetic.inside(loaded.model, selector.losses)
    return _Before(outputs, stop, selector)


def _divided_gradient(model: nn.Module, loss: ObjectiveLoss, gradients: GradientOptions | None) -> DividedGradient | None:
    """Return what joins the gradients on forget and retain records; None where they are added."""
    if gradients is None or not gradients.divide:
        return None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return DividedGradient(gradients, trained, loss.of_retain)


def _counting(trained: Trained, penalty: WeightPenalty) -> Trained:
    """Add the tokens that the penalty read; every process reads all of its records."""
    tokens = trained.result.tokens + distributed.total(penalty.tokens)
    return dataclasses.replace(trained, result=dataclasses.replace(trained.result, tokens=tokens))


def _claim_work(loaded: LoadedModel, objective: Objective, run: Run) -> None:
    """Claim the working folder for this objective, selection, joining of gradients, records and starting weights."""
    fingerprints = [*(record.reading for record in run.records), "retain", *(record.reading for record in run.retain or ())]
    # Left out by default, so that a run that an earlier version began is the same run.
    divided = f" {run.gradients!r}" if run.gradients is not None and run.gradients.divide else ""
    open_work(run.work_dir, f"{objective!r} {run.selection!r}{divided}", run.options, fingerprints, loaded.digest)


def _sampler(windows: Mapping[str, Sequence[Encoded]], options: TrainingOptions) -> PairSampler:
    """Build the sampler that pairs forget with retain windows of similar length."""
    # A forget record and its alternative are rows of one batch, so the longer of the two counts.
    longest = list(map(max, zip(*(token_counts(found) for role, found in windows.items() if role != "retain"), strict=True)))
    lengths = Lengths(longest, token_counts(windows["retain"]), step_records(options))
    return PairSampler(len(windows["forget"]), len(windows["retain"]), options.seed, lengths)


def train_pairs(
    model: Any,
    loss: PairLoss,
    sampler: PairSampler,
    run: Run,
    steering: Steering | None = None,
    arithmetic: Arithmetic | None = None,
) -> Trained:
    """Train a prepared model with the trainer, from the last complete checkpoint if there is one.

    Args:
        model: with its adapter attached, if any, and gradients enabled for what is trained.
        loss: the loss of a microbatch of pairs.
        sampler: the order of the pairs.
        run: options, working folder, log and callbacks are read.
        steering: what decides between steps; None trains to the end.
        arithmetic: arithmetic of the steps; None takes that of the options.
    """
    arithmetic = arithmetic or arithmetic_of(model, run.options)
    arguments = training_arguments(run.options, run.work_dir, len(sampler), next(model.parameters()).device, arithmetic)
    if run.log is not None and run.options.keep_checkpoints is None:
        arguments.save_total_limit = None  # any of them may be the last clean one of a later deletion
    trainer = RecordTrainer(
        model=model,
        args=arguments,
        pair_loss=loss,
        sampler=sampler,
        seed=run.options.seed,
        log=run.log,
        steering=steering,
        optimizer=run.options.optimizer,
        arithmetic=arithmetic,
        callbacks=run.callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    selector = trainer.steering.selector
    checkpoint = last_complete_checkpoint(run.work_dir)
    _begin(trainer, model, checkpoint)
    started = time.monotonic()
    if checkpoint is not None and trainer.stopped is not None:
        # The run was interrupted after its stop rule ended it, but before the result was saved.
        put_checkpoint(model, checkpoint.folder)
    elif selector is None or selector.stopped is None:
        name = "training" if isinstance(loss, LikelihoodLoss) else "unlearning"
        with deterministic(model), phase(name, main=True) as trainer.report:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.folder))
    steps = max(trainer.state.global_step, 0 if checkpoint is None else checkpoint.step)
    if selector is not None:
        selector.finish(steps, model)
    seconds = time.monotonic() - started
    model.eval()
    stopped = trainer.stopped or (selector.stopped if selector else None)
    tokens = distributed.total(trainer.tokens)
    result = TrainingResult(steps, steps / trainer.steps_per_epoch(), stopped, tokens, seconds, tuple(trainer.losses))
    return Trained(model, result, None if selector is None else selector.facts())


def _begin(trainer: RecordTrainer, model: nn.Module, checkpoint: Checkpoint | None) -> None:
    """Open the log, and resume from the checkpoint, or let the selector evaluate the model before the first step."""
    if trainer.log_writer is not None and distributed.is_main():
        done = trainer.microbatches_before(checkpoint.step) * distributed.count() if checkpoint else 0
        trainer.log_writer.begin(done)
    if checkpoint is not None:
        trainer.resume_progress(checkpoint.folder)
    elif trainer.steering.selector is not None:
        trainer.steering.selector.begin(model)


def _one_each(encoder: Encoder, alternatives: Sequence[Record], windows: Sequence[Encoded]) -> list[Encoded]:
    """Return one alternative per forget window: the first window of its record's alternative."""
    first: dict[int, Encoded] = {}  # record index -> its alternative's first window; the others are dropped
    for window in dataclasses.replace(encoder, overflow="split").encode(alternatives):
        first.setdefault(window.record, window)
    return [first[window.record] for window in windows]


def _train_only(model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Enable gradients of these parameters alone."""
    chosen = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)

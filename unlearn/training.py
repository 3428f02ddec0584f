"""Training on records and minimising an unlearning objective, in place and resumable after a kill.

Weights stored in half precision are trained as float32 copies and rounded at the end (`unlearn.precision`).
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments

from unlearn import processes
from unlearn.adapters import attach_adapter, gradient_flags, put_gradient_flags, require_attachable
from unlearn.anchor import Anchor
from unlearn.checkpoints import WORK, Checkpoint, empty_work, last_complete_checkpoint, open_work, put_checkpoint
from unlearn.losses import LikelihoodLoss, ObjectiveLoss, PairLoss
from unlearn.methods.base import Anchored, InsideLayers, Objective, Progress, WithAlternatives, WithMemory
from unlearn.options import DEFAULTS, TrainingOptions, learning_rate_of, optimizer_steps, require_reporter
from unlearn.precision import MASTER_WEIGHTS, as_stored, float32_copies, half_precision, note_stored_type, stored_digest
from unlearn.provenance import LogWriter
from unlearn.reference import load_or_compute_reference
from unlearn.results import Trained, TrainingResult
from unlearn.schedule import Lengths, PairSampler
from unlearn.selection import Selection, Selector, selector_of
from unlearn.sharding import gathered, is_sharded
from unlearn.stopping import stop_check
from unlearn.trainer import RecordTrainer, Watch
from unlearn.weights import edited_parameters
from verify.adapter_types import is_adapter
from verify.encoding import Encoded, Encoder, padding_token_id, warn_of_spelled_tokens
from verify.files import disk_errors, write_manifest
from verify.identity import RecordKey
from verify.models import LoadedModel
from verify.quantized import quantization_of, remember_quantization
from verify.records import Record


def train_records(
    loaded: LoadedModel,
    records: Sequence[Record],
    options: TrainingOptions,
    work_dir: Path,
    *,
    log: LogWriter | None = None,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Fine-tune in place: the mean negative log-likelihood over all scored tokens of an optimizer step.

    Args:
        loaded: the model; with `options.lora`, an adapter is attached to it.
        records: what to train on.
        options: settings; what is None takes `unlearn.options.DEFAULTS`.
        work_dir: for checkpoints; a run cut off there goes on where it stopped.
        log: the provenance log to write.
        callbacks: further `transformers` callbacks.

    Raises:
        InputError: a record does not fit the context, or the folder holds another run.
        RunError: a loss, gradient or resulting weight is not finite, or the disk is full.
    """
    warn_of_spelled_tokens(records, loaded.tokenizer)
    windows = Encoder(loaded.tokenizer, loaded.context_length, options.overflow).encode(records)
    require_attachable(loaded.model, options)
    flags = gradient_flags(loaded.model)
    with float32_copies(loaded.model, trained_parameters(loaded.model, options), options.seed):
        model = attach_adapter(loaded.model, options)
        open_work(work_dir, "train", options, [record.reading for record in records], loaded.digest)
        sampler = PairSampler(len(windows), 0, options.seed, Lengths(token_counts(windows), (), step_records(options)))
        loss = LikelihoodLoss(windows, padding_token_id(loaded.tokenizer))
        trained = _train(model, options, work_dir, loss, sampler, log=log, callbacks=callbacks)
    if model is loaded.model:
        put_gradient_flags(model, flags)
    return trained


def trained_parameters(model: Any, options: TrainingOptions, objective: Any = None) -> list[nn.Parameter]:
    """The parameters of a model that a run with these options will train; none where it will attach a fresh adapter."""
    if is_adapter(model):
        with edited_parameters(model) as edited:
            return list(edited.values())
    if options.lora:
        return []
    if isinstance(objective, InsideLayers):
        return list(objective.trained_parameters(model))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def log_writer(
    path: Path,
    loaded: LoadedModel,
    records: Sequence[Record],
    options: TrainingOptions,
    key: RecordKey,
    *,
    defense: str | None = None,
) -> LogWriter:
    """A training log of records as `train_records` splits them: one entry for each window.

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
    )


def run_objective(
    loaded: LoadedModel,
    objective: Objective,
    forget: Sequence[Record],
    retain: Sequence[Record] | None,
    options: TrainingOptions,
    work_dir: Path,
    *,
    holdout: Sequence[Record] | None = None,
    selection: Selection | None = None,
    keep: Sequence[Record] = (),
    tables: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Minimise an unlearning objective in place; every record of an optimizer step weighs the same.

    Args:
        loaded: the model before unlearning; with `options.lora`, an adapter is attached to it.
        objective: the loss and what it needs.
        forget, retain: records; `retain` may be None for objectives that need none.
        options, work_dir, callbacks: as for `train_records`.
        holdout: never-trained records, for the stop rule and the selection.
        selection: how the best step is chosen; None takes the last one.
        keep: records whose utility the selection watches; without any there is no selection.
        tables: reference quantities that were computed elsewhere, by name (`unlearn.reference.GIVEN`).

    Raises:
        InputError, RunError: as `train_records`.
    """
    warn_of_spelled_tokens([*forget, *(retain or ())], loaded.tokenizer)
    require_attachable(loaded.model, options)
    # Before the model is asked for reference quantities: they are computed in the arithmetic of the steps.
    with float32_copies(loaded.model, trained_parameters(loaded.model, options, objective), options.seed):
        return _minimise(loaded, objective, forget, retain, options, work_dir, holdout, selection, keep, tables, callbacks)


def _minimise(
    loaded: LoadedModel,
    objective: Objective,
    forget: Sequence[Record],
    retain: Sequence[Record] | None,
    options: TrainingOptions,
    work_dir: Path,
    holdout: Sequence[Record] | None,
    selection: Selection | None,
    keep: Sequence[Record],
    tables: Mapping[str, Any] | None,
    callbacks: Sequence[Any],
) -> Trained:
    """`run_objective`, once the trained weights are in float32."""
    encoder = Encoder(loaded.tokenizer, loaded.context_length, options.overflow)
    pad = padding_token_id(loaded.tokenizer)
    windows = {"forget": encoder.encode(forget), "retain": encoder.encode(retain) if objective.needs_retain and retain else []}
    fingerprints = [*(record.reading for record in forget), "retain", *(record.reading for record in retain or ())]
    open_work(work_dir, f"{objective!r} {selection!r}", options, fingerprints, loaded.digest)
    if isinstance(objective, WithAlternatives):
        said = objective.alternatives(loaded, forget, retain or [], options.seed)
        windows["alternative"] = _one_each(encoder, said, windows["forget"])
    # All that is asked of the model before unlearning is asked here, before an adapter is attached and the first step taken.
    reference = load_or_compute_reference(
        work_dir,
        loaded,
        objective.reference,
        windows,
        pad,
        layer=objective.inner_layer(loaded.model) if isinstance(objective, InsideLayers) else None,
        seed=options.seed,
        # An adapter that is trained as such may lie on the head; a fresh one leaves the layer below it as it is.
        trained_head=not options.lora or is_adapter(loaded.model),
        given=tables,
    )
    rule = objective.stop_rule
    watch = Watch(stop_check(loaded, rule, windows["forget"], holdout, encoder), 0 if rule is None else rule.check_every)
    selector = selector_of(loaded, selection, forget, keep, holdout or (), options)
    progress = Progress(values=dict(objective.begin()) if isinstance(objective, WithMemory) else {})
    flags = gradient_flags(loaded.model)
    model = attach_adapter(loaded.model, options)
    # Below an adapter nothing is trained: it is saved alone.
    if isinstance(objective, InsideLayers) and not is_adapter(model):
        _train_only(model, objective.trained_parameters(model))
    sampler = _sampler(windows, options)
    weight = objective.anchor_weight * _unseen(sampler, options) if isinstance(objective, Anchored) else 0.0
    anchor = Anchor.of(model, windows["retain"], pad, weight, options.seed) if weight else None
    trained = _train(
        model,
        options,
        work_dir,
        ObjectiveLoss(objective, windows, reference, progress, pad, anchor),
        sampler,
        watch=watch,
        progress=progress,
        advance=objective.advance if isinstance(objective, WithMemory) else None,
        selector=selector,
        callbacks=callbacks,
    )
    if model is loaded.model:
        put_gradient_flags(model, flags)
    if anchor is not None:
        tokens = trained.result.tokens + processes.total(anchor.tokens)  # every process looks at all of its records
        trained = dataclasses.replace(trained, result=dataclasses.replace(trained.result, tokens=tokens))
    return trained


def _sampler(windows: Mapping[str, Sequence[Encoded]], options: TrainingOptions) -> PairSampler:
    """Pairs forget with retain windows; those of like length meet."""
    # A record and what is to be said instead are rows of one batch.
    longest = list(map(max, zip(*(token_counts(found) for role, found in windows.items() if role != "retain"), strict=True)))
    lengths = Lengths(longest, token_counts(windows["retain"]), step_records(options))
    return PairSampler(len(windows["forget"]), len(windows["retain"]), options.seed, lengths)


def _unseen(sampler: PairSampler, options: TrainingOptions) -> float:
    """The share of the retain set that no step of the run will see; 0 where there is no retain set."""
    if not sampler.partners:
        return 0.0
    passes = options.epochs or DEFAULTS["epochs"]
    pairs = options.max_steps * step_records(options) if options.max_steps else passes * sampler.count
    return float(max(0.0, 1 - pairs / sampler.partners))


def _train(
    model: Any,
    options: TrainingOptions,
    work_dir: Path,
    loss: PairLoss,
    sampler: PairSampler,
    *,
    watch: Watch | None = None,
    log: LogWriter | None = None,
    progress: Progress | None = None,
    advance: Callable[[Mapping[str, float], Mapping[str, float]], Mapping[str, float]] | None = None,
    selector: Selector | None = None,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Run the trainer, from the last complete checkpoint where there is one."""
    watch = watch or Watch()
    arguments = training_arguments(options, work_dir, len(sampler), next(model.parameters()).device)
    if log is not None and options.keep_checkpoints is None:
        arguments.save_total_limit = None  # any of them may be the last clean one of a later deletion
    trainer = RecordTrainer(
        model=model,
        args=arguments,
        pair_loss=loss,
        sampler=sampler,
        seed=options.seed,
        log=log,
        progress=progress,
        advance=advance,
        optimizer=options.optimizer,
        selector=selector,
        callbacks=[watch, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    watch.trainer = trainer
    checkpoint = last_complete_checkpoint(work_dir)
    _begin(trainer, model, checkpoint)
    started = time.monotonic()
    if checkpoint is not None and trainer.stopped is not None:  # a run can be cut off between its end and its result
        put_checkpoint(model, checkpoint.folder)
    elif selector is None or selector.stopped is None:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.folder))
    steps = max(trainer.state.global_step, 0 if checkpoint is None else checkpoint.step)
    if selector is not None:
        selector.finish(steps, model)
    seconds = time.monotonic() - started
    model.eval()
    stopped = trainer.stopped or (selector.stopped if selector else None)
    tokens = processes.total(trainer.tokens)
    result = TrainingResult(steps, steps / trainer.steps_per_epoch(), stopped, tokens, seconds, tuple(watch.losses))
    return Trained(model, result, None if selector is None else selector.facts())


def _begin(trainer: RecordTrainer, model: nn.Module, checkpoint: Checkpoint | None) -> None:
    """Open the log, and take up the run where the checkpoint left it, or look at the model before the first step."""
    if trainer.log_writer is not None and processes.is_main():
        done = trainer.microbatches_before(checkpoint.step) * processes.count() if checkpoint else 0
        trainer.log_writer.begin(done)
    if checkpoint is not None:
        trainer.resume_progress(checkpoint.folder)
    elif trainer.selector is not None:
        trainer.selector.begin(model)


def token_counts(windows: Sequence[Encoded]) -> list[int]:
    """Tokens of each window."""
    return [len(window.input_ids) for window in windows]


def step_records(options: TrainingOptions) -> int:
    """Records of one optimizer step, over all microbatches and processes."""
    batch = options.batch_size or DEFAULTS["batch_size"]
    return int(batch * options.gradient_accumulation * processes.count())


def training_arguments(options: TrainingOptions, work_dir: Path, records: int, device: torch.device) -> TrainingArguments:
    """The `transformers` arguments of a run; what the options leave open takes `DEFAULTS`."""
    filled = {name: value if (value := getattr(options, name)) is not None else default for name, default in DEFAULTS.items()}
    # Named only when wanted: transformers is renaming both arguments and warns at every mention.
    checkpointing: dict[str, Any] = (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
        if options.gradient_checkpointing
        else {}
    )
    require_reporter(options)
    return TrainingArguments(
        output_dir=str(work_dir),
        per_device_train_batch_size=filled["batch_size"],
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=learning_rate_of(options),
        num_train_epochs=filled["epochs"],
        max_steps=options.max_steps or -1,
        lr_scheduler_type=filled["scheduler"],
        warmup_steps=round(optimizer_steps(options, records) * filled["warmup_ratio"]),
        weight_decay=filled["weight_decay"],
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        bf16=options.bf16,
        **checkpointing,
        use_cpu=device.type == "cpu",
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 500,
        save_total_limit=2 if options.keep_checkpoints is None else options.keep_checkpoints,
        logging_steps=options.logging_steps,
        logging_nan_inf_filter=False,
        report_to=options.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=[],
    )


def _one_each(encoder: Encoder, alternatives: Sequence[Record], windows: Sequence[Encoded]) -> list[Encoded]:
    """One alternative per forget window: the first window of what is to be said instead of its record."""
    first: dict[int, Encoded] = {}
    for window in dataclasses.replace(encoder, overflow="split").encode(alternatives):
        first.setdefault(window.record, window)
    return [first[window.record] for window in windows]


def _train_only(model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Let these parameters alone be trained."""
    chosen = {id(parameter) for parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def save_model(model: Any, tokenizer: Any, output_dir: Path, about: Mapping[str, Any]) -> str:
    """Write weights (safetensors, in their stored types), tokenizer and, last, the manifest; return the weights' digest.

    The main process writes.

    The working folder of the run goes with that: what was removed may be in it.

    Raises:
        RunError: the disk is full; the folder is left without a manifest, so that nothing trusts it, and the run can be repeated.
    """
    digest = stored_digest(model)
    weights = {"state_dict": as_stored(model, gathered(model))} if is_sharded(model) else {}
    if processes.is_main():
        with disk_errors(output_dir):
            model.save_pretrained(output_dir, **weights)
            note_stored_type(model, output_dir)
            tokenizer.save_pretrained(output_dir)
            if (kind := quantization_of(model)) is not None:
                remember_quantization(output_dir, kind)
        empty_work(output_dir)
        write_manifest(output_dir, "model", {**about, "weights": digest})
        shutil.rmtree(output_dir / WORK, ignore_errors=True)
    processes.wait()
    return digest

"""Fine-tuning with a training log: `finetune` trains a model, under a defence if given, and logs which record went into which step.

`Recipe` is the training configuration of a fine-tuned model, read from its log or manifest. The class and the manifest's key
"recipe" keep their first name, since earlier results carry it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from unlearn.defenses import defense_of
from unlearn.defenses.base import Defended, Defense, TrainingTask
from unlearn.training import distributed
from unlearn.training.checkpoints import WORK, claimed_output, keep_checkpoints
from unlearn.training.controls import hold_out
from unlearn.training.inputs import environment, inputs_of, made_from
from unlearn.training.log import LOG_NAME, TrainingLog
from unlearn.training.lora import require_adapter
from unlearn.training.options import TrainingOptions, TrainingResult, require_reporter
from unlearn.training.run import Run, log_writer, train_records
from unlearn.training.saving import save_model
from verify.data.canaries import CANARIES_NAME, Canaries
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record, RecordSource
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.arguments import checked, dtype_name
from verify.io.digests import tokenizer_digest
from verify.io.files import MANIFEST, no_file, read_json
from verify.models.architectures import require_causal_model
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model, load_tokenizer, require_fitting_tokenizer
from verify.models.memory import is_adapter_folder, require_memory_for_training
from verify.provenance.descent import MADE_FROM
from verify.training.precision import stored_digest


@dataclass(frozen=True)
class FinetuneResult:
    """Result of `finetune`.

    Attributes:
        model_dir: folder with weights (or adapter), tokenizer, training log and manifest.
        log_path: the training log in it.
        digest: digest of the trained weights.
        result: steps, tokens and seconds.
        defense: the manifest's entry of the defence (its parameters, and for differential privacy the epsilon spent), or None.
    """

    model_dir: Path
    log_path: Path
    digest: str
    result: TrainingResult
    defense: dict[str, Any] | None = None


@checked
def finetune(
    model: Any,
    data: RecordSource,
    *,
    output_dir: str | Path,
    fields: Fields | None = None,
    tokenizer: Any = None,
    options: TrainingOptions | None = None,
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
    canaries: int = 0,
    holdout_share: float | None = None,
    callbacks: Sequence[Any] = (),
    defense: Defense | None = None,
) -> FinetuneResult:
    """Fine-tune a model and write, into its folder, a log of which record went into which step.

    Args:
        model: a folder, a Hub name, a model in memory (trained in place), or the path of a CONFIG.json for a model from scratch.
        data: the training records.
        output_dir: a new folder. A run that was interrupted there (with `save_steps`) resumes from its last complete checkpoint.
        fields: the columns of the records.
        tokenizer: a tokenizer or its folder; needed for a model in memory, and for a CONFIG.json without one beside it.
        options: training settings. Defaults: 5 epochs, batches of 8, a linear schedule, learning rate 1e-5 (LoRA: 1e-4).
        dtype: precision to load and to save in: "auto" (as stored), "float32", "bfloat16" or "float16", or such a `torch.dtype`.
            Weights in bfloat16 or float16 are trained as float32 copies and rounded at the end (docs/half-precision.md).
        quantize: load the base in "4bit" or "8bit" and train an adapter on it (QLoRA; requires `options.lora`). Only the adapter is
            saved; its folder records how to load the base, and the digests are those of the quantized base with its adapter.
        canaries: number of pairs of random texts to draw; a fair coin assigns one of each pair to the training data. With 300, an
            audit can test the deletion procedure without retraining. Their manifest is saved with the model, and `forget` removes
            them.
        holdout_share: share of the subjects to leave out of the training as never-trained controls, drawn at random. Their records
            are written into the model's folder, a half for the unlearning method and one for the audit; the seed determines them.
        callbacks: additional `transformers` callbacks; ignored under a defence.
        defense: `DifferentialPrivacy(...)` or `Federated(...)`, or None.

    Raises:
        ArgumentError: an argument has a wrong name or type; an InputError and a TypeError.
        InputError: records, model or options cannot be used, or the defence does not support them.
        RunError: training became non-finite, or the disk is full.
    """
    options, fields, dtype = options or TrainingOptions(), fields or Fields(), dtype_name(dtype)
    _require_possible(model, options, dtype, quantize)
    with claimed_output(output_dir) as output:
        records = _load_training(data, fields, holdout_share, options.seed, output)
        loaded = load_start(model, tokenizer, dtype, options.seed, quantize)
        with distributed.main_first():
            records += _trained_canaries(output, canaries, loaded.tokenizer)
        task = TrainingTask(loaded, records, options, output, output / WORK, data, fields)
        done = train_with_log(task, defense, callbacks)
        protection = None if defense is None else described(defense, done)
        about = {
            "options": dataclasses.asdict(options),
            "defense": protection,
            "training": dataclasses.asdict(done.trained.result),
            "start_weights": loaded.digest,
            MADE_FROM: made_from({"model": model}),
            "records": len(records),
            "canary_pairs": canaries,
            **({} if holdout_share is None else {"holdout_share": holdout_share}),
            "environment": environment(),
            "inputs": inputs_of({"model": model, "tokenizer": tokenizer}, {"data": data}, fields, dtype, quantize),
        }
        digest = save_model(done.trained.model, loaded.tokenizer, output, about)
        return FinetuneResult(output, output / LOG_NAME, digest, done.trained.result, protection)


def _require_possible(model: Any, options: TrainingOptions, dtype: str, quantize: str | None) -> None:
    """Refuse options that cannot be used, and a training for which there is too little memory."""
    require_reporter(options)
    if quantize is not None and not options.lora:
        require_adapter(model, quantize)
    if distributed.count() == 1:  # several processes may share what one would need
        adapter = options.lora or is_adapter_folder(model)
        require_memory_for_training(model, adapter=adapter, dtype=dtype, quantize=quantize)


def _load_training(data: RecordSource, fields: Fields, holdout_share: float | None, seed: int, output: Path) -> list[Record]:
    """Load the training records, without those that are held out as controls and written into the output folder."""
    records = load_records(data, fields)
    if holdout_share is None:
        return records
    with distributed.main_first():
        return hold_out(data, records, holdout_share, seed, RecordKey.load(), output)


def train_with_log(task: TrainingTask, defense: Defense | None, callbacks: Sequence[Any] = ()) -> Defended:
    """Train a task, under a defence if one is given, and write the training log and the checkpoints to keep into its folder.

    Under a defence the log lists the records, but not the steps.

    Raises:
        InputError, RunError: as `train_records`, or the defence's `train`.
    """
    name = None if defense is None else defense.name
    name_by_whole_path(task.loaded.model)
    log = log_writer(task.output_dir / LOG_NAME, task.loaded, task.records, task.options, RecordKey.load(), defense=name)
    if defense is None:
        run = Run(task.records, task.options, task.work_dir, log=log, callbacks=callbacks)
        done = Defended(train_records(task.loaded, run))
    else:
        task.work_dir.mkdir(parents=True, exist_ok=True)  # marks the output folder as that of a run that can be resumed
        done = defense.train(task)
        log.begin(0)
    distributed.wait()
    final = stored_digest(done.trained.model)
    if distributed.is_main():
        log.end(final)
        keep_checkpoints(task.work_dir, task.output_dir)
    return done


def name_by_whole_path(model: Any) -> None:
    """Make the path of a model absolute, since an adapter saves its base's path.

    From another folder, a relative path would lead nowhere or be taken for a Hub name.
    """
    path = getattr(model, "name_or_path", None)
    if path and Path(path).is_dir():
        model.name_or_path = str(Path(path).resolve())


def described(defense: Defense, done: Defended) -> dict[str, Any]:
    """Return a defence's entry in the manifest: its name and parameters, and the facts of its training."""
    return {"name": defense.name, "parameters": dataclasses.asdict(cast(Any, defense)), **done.facts}


def _trained_canaries(output: Path, pairs: int, tokenizer: Any) -> list[Record]:
    """Return the canaries assigned to the training data; a resumed run keeps the assignments that it began with."""
    path = output / CANARIES_NAME
    if not pairs:
        return []
    if path.exists():
        canaries = Canaries.load(path)
        if canaries.pairs != pairs:
            raise InputError(
                f"the run in {output} began with {canaries.pairs} canary pairs, not {pairs}. Resume it with the same number."
            )
    else:
        canaries = Canaries.draw(pairs, tokenizer)
        canaries.save(path)
    return canaries.trained_records(tokenizer)


def load_start(model: Any, tokenizer: Any, dtype: str, seed: int, quantize: str | None) -> LoadedModel:
    """Load the model to train, or build one from the path of a configuration."""
    if isinstance(model, (str, Path)) and Path(model).suffix == ".json":
        if quantize is not None:
            raise InputError("a model from scratch has no weights to quantize. Leave out --quantize.")
        return _from_config(Path(model), tokenizer, seed)
    return load_model(model, tokenizer=tokenizer, dtype=dtype, quantize=quantize)


def _from_config(path: Path, tokenizer: Any, seed: int) -> LoadedModel:
    """Build a model with random weights, determined by the seed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if not path.is_file():
        raise InputError(f"{path} {no_file(path)}. Give a model folder, a Hub name or an existing CONFIG.json.")
    if tokenizer is None:
        if not (path.parent / "tokenizer.json").is_file():
            raise InputError(f"a model from {path.name} needs a tokenizer. Name its folder with --tokenizer DIR.")
        tokenizer = path.parent
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(tokenizer)
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} describes no causal language model ({type(error).__name__}). Give its config.json.") from None
    require_causal_model(model)
    require_fitting_tokenizer(model, tokenizer, path.name)
    return LoadedModel(model, tokenizer, path.stem, weights_digest(model), tokenizer_digest(tokenizer))


RECIPE = "recipe"
"""The manifest's key of a result's training configuration, handed on from the model before unlearning."""


@dataclass(frozen=True)
class Recipe:
    """Training configuration of a fine-tuned model.

    Attributes:
        options: the training options by name.
        defense: the manifest's entry of the defence that it was trained under, or None.
    """

    options: Mapping[str, Any]
    defense: Mapping[str, Any] | None

    def described(self) -> dict[str, Any]:
        """Return the manifest's entry."""
        return {"options": dict(self.options), "defense": None if self.defense is None else dict(self.defense)}

    def trained_under(self) -> Defense | None:
        """Return the defence that the model was trained under, or None.

        Raises:
            InputError: this version has no such defence.
        """
        return defense_of(dataclasses.asdict(self))


def recipe_of(folder: Path | None) -> Recipe | None:
    """Return the training configuration of the model in a folder, from its log or its manifest; None if neither has it.

    Raises:
        InputError: the log is damaged, or names a defence whose settings are not in the manifest.
    """
    if folder is None:
        return None
    about = read_json(folder / MANIFEST).get("about", {}) if (folder / MANIFEST).is_file() else {}
    if (folder / LOG_NAME).is_file():
        log, defense = TrainingLog.read(folder / LOG_NAME), about.get("defense") or (about.get("facts") or {}).get("defense")
        if log.defense is not None and log.defense != "federated" and defense is None:
            raise InputError(
                f"the log of {folder} says that it was trained under {log.defense}, but its manifest does not have the settings. A "
                "retraining without them would protect nobody. Use the folder as `unlearn` wrote it."
            )
        return Recipe(log.options, defense)
    handed_on = about.get(RECIPE)
    return Recipe(handed_on["options"], handed_on["defense"]) if isinstance(handed_on, Mapping) else None

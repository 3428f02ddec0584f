"""Command `unlearn train`."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from unlearn.cli.defenses import DefenseFlags, summary
from unlearn.cli.fixed_options import require_as_trained, require_new_adapter
from unlearn.cli.level_table import LevelTableFlags, described
from unlearn.training import distributed
from unlearn.training.options import ADAPTER_OPTIONS, TrainingOptions, require_reporter
from verify.cli.console import progress_bar
from verify.cli.flags import FieldFlags
from verify.errors import InputError
from verify.io.files import is_complete
from verify.models.quantized import Quantization


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Model, data and output of a fine-tuning."""

    model: str
    """A model folder, a GGUF file, a Hub name, or a CONFIG.json to train a model from scratch."""
    data: str
    """The training records: .jsonl, .json, .csv, .parquet, a datasets folder or a Hub name."""
    output: Path
    """A new folder for the model and its training log."""
    tokenizer: str | None = None
    """Folder of the tokenizer, if it is not in the model's folder."""
    shards: int = 0
    """Number of adapters, each trained on its share of the subjects, so that a deletion affects only one; 0 trains one model."""
    slices: int = 1
    """Number of stages in which each shard's data is added, each with a checkpoint: a deletion restarts from the one before."""
    combine: Literal["average", "route", "sum"] = "average"
    """How shards are combined: average of logits, the most confident shard, or the sum of all weight changes in one model."""
    canaries: int = 0
    """Number of canary pairs: random texts, one of each pair trained by a coin flip, to audit without retraining; usually 300."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision in which to load the model."""
    quantize: Quantization | None = None
    """Load the base model in 4 or 8 bits (QLoRA; requires --lora). Only the adapter is saved."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a model and log which records went into which step.

    Cost: --epochs passes over the records, forward and backward.
    """

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(ADAPTER_OPTIONS, "--lora or --shards"),
        "warmup_ratio": "no --scheduler constant and --scheduler or no --defense federated",
        **dict.fromkeys(("logging_steps", "report_to"), "no --defense dp"),
        "save_steps": "no --shards",
        "keep_checkpoints": "--save-steps and no --shards",
        **dict.fromkeys(("slices", "combine"), "--shards"),
    }
    ESSENTIAL: ClassVar[frozenset[str]] = frozenset(
        {
            *("model", "data", "output", "prompt_field", "completion_field", "id_field", "subject_field"),
            *("learning_rate", "epochs", "batch_size", "lora", "seed", "save_steps", "shards"),
            *("level_table", "holdout_share"),
        }
    )

    arguments: TrainArguments
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    protection: DefenseFlags = dataclasses.field(default_factory=DefenseFlags)
    table: LevelTableFlags = dataclasses.field(default_factory=LevelTableFlags)

    def run(self) -> int:
        """Train and print where the model is."""
        from unlearn.finetuning import finetune

        if self.arguments.shards:
            return self._shards()
        self.table.require_possible()
        if self.table.level_table and is_complete(self.arguments.output, "model"):
            return self._table()
        self._require_repeatable()
        with progress_bar("loading"):
            result = finetune(
                self.arguments.model,
                self.arguments.data,
                output_dir=self.arguments.output,
                fields=self.columns.fields(),
                tokenizer=self.arguments.tokenizer,
                options=self.training,
                dtype=self.arguments.dtype,
                quantize=self.arguments.quantize,
                canaries=self.arguments.canaries,
                holdout_share=self.table.holdout_share,
                defense=self.protection.chosen(self.training),
            )
        if distributed.is_main():
            text = f"model:        {result.model_dir}\ntraining log: {result.log_path}\nweights:      {result.digest}"
            print(text + summary(result.defense))  # noqa: T201
        return self._table() if self.table.level_table else 0

    def require_used(self, typed: Collection[str]) -> None:
        """Refuse options that a finished model, which only gets its level table, or an adapter leaves without an effect."""
        output = self.arguments.output
        if self.arguments.shards or not self.table.level_table or not is_complete(output, "model"):
            require_new_adapter(self.arguments.model, typed)
            return
        parts = (self.training, self.arguments, self.table, self.protection)
        require_as_trained(output, {name: value for part in parts for name, value in vars(part).items()}, typed)

    def _require_repeatable(self) -> None:
        """Refuse, before anything is trained, a training for which no level table could be made."""
        if not self.table.level_table:
            return
        if self.table.holdout is None and self.table.holdout_share is None:
            raise InputError(
                "--level-table needs controls that no model is trained on. Give --holdout-share 0.03, or records of other people "
                "with --holdout FILE."
            )
        if self.protection != DefenseFlags() or self.arguments.canaries:
            raise InputError(
                "--level-table repeats the training, which is not possible with --defense or --canaries. Leave one of them out."
            )
        if distributed.count() > 1:
            raise InputError("a level table is made by one process. Train with torchrun first, and give --level-table without it.")

    def _table(self) -> int:
        """Make the level table of the model in the output folder."""
        given = self.arguments
        with progress_bar("loading"):
            table = self.table.make(given.output, given.model, given.data, self.columns.fields(given.output))
        print(described(table))  # noqa: T201
        return 0

    def _shards(self) -> int:
        from unlearn.training.shards import ShardPlan, finetune_shards

        require_reporter(self.training)
        own = [field.name for field in dataclasses.fields(self.table) if getattr(self.table, field.name) != field.default]
        if own:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in own)
            raise InputError(
                f"--shards cannot be combined with {flags}: a shard's siblings never saw its subjects, and serve as references of "
                "the rebuilt shard, without a table and without controls held out. Leave one of them out."
            )
        if self.protection != DefenseFlags():
            raise InputError("--defense and --shards cannot be combined. Leave one of them out.")
        if self.arguments.canaries:
            raise InputError("--canaries and --shards cannot be combined yet. Leave one of them out.")
        if self.arguments.quantize:
            raise InputError(
                "--quantize and --shards cannot be combined: shards need a base model in full precision. Leave one of them out."
            )
        with progress_bar("loading"):
            result = finetune_shards(
                self.arguments.model,
                self.arguments.data,
                output_dir=self.arguments.output,
                plan=ShardPlan(self.arguments.shards, self.arguments.slices, self.arguments.combine, self.training),
                fields=self.columns.fields(),
                tokenizer=self.arguments.tokenizer,
                dtype=self.arguments.dtype,
            )
        print(f"model:  {result.model_dir}\nstages: {len(result.trained)} trained")  # noqa: T201
        return 0

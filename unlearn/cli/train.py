"""The command `unlearn train`."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from unlearn.cli.defenses import DefenseFlags, summary
from unlearn.training import distributed
from unlearn.training.options import TrainingOptions, require_reporter
from verify.cli.flags import FieldFlags
from verify.errors import InputError
from verify.models.quantized import Quantization


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Fine-tune a model, and remember which record went into which step."""

    model: str
    """A model folder, a Hub name, or a CONFIG.json for a model from scratch."""
    data: str
    """The training records: .jsonl, .json, .csv, .parquet, a datasets folder or a Hub name."""
    output: Path
    """A new folder for the model and its training log."""
    tokenizer: str | None = None
    """Folder of the tokenizer, where it is not beside the model."""
    shards: int = 0
    """Train so many adapters, each on its share of the subjects, so that a deletion touches one; 0 trains one model."""
    slices: int = 1
    """Steps in which each shard's data are added, with a copy after each: a deletion goes back to the one before it."""
    combine: Literal["average", "route", "sum"] = "average"
    """How shards answer: averaged logits, the most certain shard's, or all weight changes added to one model."""
    canaries: int = 0
    """Pairs of random texts, one of each trained by a coin flip, for auditing a deletion without retraining; usually 300."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the model in."""
    quantize: Quantization | None = None
    """Keep the base in so many bits under an adapter (with --lora); only the adapter is saved, and loaded on such a base again."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a model, and log which record went into which step."""

    ESSENTIAL: ClassVar[frozenset[str]] = frozenset(
        {
            *("model", "data", "output", "prompt_field", "completion_field", "id_field", "subject_field"),
            *("learning_rate", "epochs", "batch_size", "lora", "seed", "save_steps", "shards"),
        }
    )

    arguments: TrainArguments
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    protection: DefenseFlags = dataclasses.field(default_factory=DefenseFlags)

    def run(self) -> int:
        """Train and print where the model is."""
        from unlearn.finetuning import finetune

        if self.arguments.shards:
            return self._shards()
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
            defense=self.protection.chosen(self.training),
        )
        if distributed.is_main():
            said = f"model:        {result.model_dir}\ntraining log: {result.log_path}\nweights:      {result.digest}"
            print(said + summary(result.defense))  # noqa: T201
        return 0

    def _shards(self) -> int:
        from unlearn.training.shards import ShardPlan, finetune_shards

        require_reporter(self.training)
        if self.protection != DefenseFlags():
            raise InputError("--defense and --shards do not go together. Leave one of them out.")
        if self.arguments.canaries:
            raise InputError("--canaries and --shards do not go together yet. Leave one of them out.")
        if self.arguments.quantize:
            raise InputError(
                "--quantize and --shards do not go together: shards are served on a whole base. Leave one of them out."
            )
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

"""Build the command of one method: common arguments, the method's own parameters, and training options."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from unlearn.training import distributed
from unlearn.training.options import TrainingOptions, require_reporter
from unlearn.training.selection import Selection
from verify.cli.flags import FieldFlags
from verify.models.quantized import Quantization

ESSENTIAL = frozenset(
    {
        *("model", "forget", "output", "retain", "holdout", "data", "base"),
        *("learning_rate", "epochs", "batch_size", "lora"),
    }
)
"""Flags that the short help of every method shows, besides the method's own."""


@dataclasses.dataclass(frozen=True)
class ForgetArguments:
    """Model, data and output of an unlearning run."""

    model: str
    """The fine-tuned model: a folder, GGUF file or Hub name."""
    forget: str
    """The records to remove, or a list of example or subject ids (with --data)."""
    output: Path
    """A new folder for the unlearned model."""
    retain: str | None = None
    """The records to keep; with --data, the default is all other records."""
    holdout: str | None = None
    """Records that no model was trained on: the never-trained level for stop rules and searches."""
    data: str | None = None
    """The file the model was trained on."""
    base: str | None = None
    """The model before fine-tuning, for methods that need it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision in which to load the models."""
    quantize: Quantization | None = None
    """Load the model in 4 or 8 bits while an adapter unlearns (QLoRA; requires --lora). The result is dequantized and merged."""


def forget_command(kind: type[Any]) -> type[Any]:
    """Build the command of one method: its own parameters besides the common arguments."""

    def run(self: Any) -> int:
        from unlearn.forgetting import forget

        given: ForgetArguments = self.arguments
        require_reporter(self.training)
        result = forget(
            given.model,
            self.parameters,
            forget_set=given.forget,
            retain_set=given.retain,
            holdout_set=given.holdout,
            data=given.data,
            base=given.base,
            output_dir=given.output,
            fields=self.columns.fields(given.model),
            options=self.training,
            selection=getattr(self, "selection", None),
            dtype=given.dtype,
            quantize=given.quantize,
        )
        if not distributed.is_main():
            return 0
        print(f"model:   {result.model_dir}\nweights: {result.digest_after}\nseconds: {result.seconds:.1f}")  # noqa: T201
        if result.training is not None and result.training.stopped:
            print(f"stopped: {result.training.stopped}")  # noqa: T201
        if "selection" in result.facts:
            print(f"kept:    {result.facts['selection']['why']}")  # noqa: T201
        print(f"\nNot audited yet. Next: verify-unlearning audit --model {result.model_dir} --original {given.model} ...")  # noqa: T201
        return 0

    trains = hasattr(kind, "loss")  # only an objective has intermediate steps from which the best can be selected
    selection = [("selection", Selection, dataclasses.field(default_factory=Selection))] if trains else []
    own = {field.name for field in dataclasses.fields(kind)}
    return dataclasses.make_dataclass(
        f"Forget{kind.__name__}",
        [
            ("arguments", ForgetArguments),
            ("parameters", kind, dataclasses.field(default_factory=kind)),
            ("columns", FieldFlags, dataclasses.field(default_factory=FieldFlags)),
            ("training", TrainingOptions, dataclasses.field(default_factory=TrainingOptions)),
            *selection,
        ],
        namespace={
            "run": run,
            "__doc__": kind.__doc__,
            "ESSENTIAL": ESSENTIAL | own,
        },
        frozen=True,
    )

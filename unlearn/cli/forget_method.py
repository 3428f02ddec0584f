"""The command of one method: what all methods take, the method's own parameters, and how to train."""

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
"""The flags that the short help of every method shows, beside the method's own."""


@dataclasses.dataclass(frozen=True)
class ForgetArguments:
    """What to forget, from which model."""

    model: str
    """The fine-tuned model: a folder or Hub name."""
    forget: str
    """The records to remove, or a list of example or subject ids (with --data)."""
    output: Path
    """A new folder for the unlearned model."""
    retain: str | None = None
    """The records to keep; with --data, the default is all the others."""
    holdout: str | None = None
    """Records no model was trained on: the never-trained level for stop rules and searches."""
    data: str | None = None
    """The file the model was trained on."""
    base: str | None = None
    """The model before fine-tuning, for methods that need it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in."""
    quantize: Quantization | None = None
    """Keep the model in so many bits while an adapter unlearns (with --lora); the result is dequantized, the adapter folded in."""


def forget_command(kind: type[Any]) -> type[Any]:
    """Make the command of one method: its own parameters beside what all methods take."""

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
        print(f"\nNothing is shown yet. Next: verify-unlearning audit --model {result.model_dir} --original {given.model} ...")  # noqa: T201
        return 0

    steps = hasattr(kind, "loss")  # an objective passes through many models; edits and rebuilds have one
    selection = [("selection", Selection, dataclasses.field(default_factory=Selection))] if steps else []
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

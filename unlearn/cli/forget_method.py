"""Build the command of one method: common arguments, the method's own parameters, and training options."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from unlearn.cli.fixed_options import require_another_training, require_new_adapter
from unlearn.methods import method_name
from unlearn.training import distributed
from unlearn.training.options import GradientOptions, Selection, TrainingOptions, require_reporter
from verify.cli.console import progress_bar
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


COSTS = {
    "steps on the forget set": "--epochs passes over the forget set, forward and backward",
    "steps on forget and retain sets": "--epochs passes over the forget set and as many retain records, forward and backward",
    "a fine-tune on the forget set": "fine-tuning on the forget set, then a forward pass for every candidate scale",
    "a share of a retraining": "a share of a retraining; `unlearn request plan` computes it for rollback and shards beforehand",
    "a retraining": "a retraining: the original's number of passes over all records but the forget set",
}
"""What a method of each cost class does, for its help."""
EDIT = "passes over forget and retain sets, forward and backward, then a forward pass for every candidate scale"
"""The same for weight edits that read both sets."""


def cost_line(cost: str, own: Collection[str], *, trains: bool) -> str:
    """Describe what a run of a method will cost.

    Args:
        cost: its cost class.
        own: its parameters.
        trains: whether it is an objective, of which intermediate steps are evaluated.
    """
    if "budget" in own:
        return "at most --budget retrainings: cheap methods first, each audited, then a retraining"
    if not trains and cost == "steps on forget and retain sets":
        return EDIT
    steps = COSTS.get(cost, cost)  # a user's own method may use any words
    return f"{steps}; each evaluation of --select is a forward pass over --look-records of each set" if trains else steps


def _run(self: Any) -> int:
    """Run the command that `forget_command` builds."""
    from unlearn.forgetting import forget

    given: ForgetArguments = self.arguments
    require_reporter(self.training)
    with progress_bar("loading"):
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
            gradients=getattr(self, "gradients", None),
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


def _require_used(self: Any, typed: Collection[str]) -> None:
    """Refuse training options that the model's adapter, or the training that a rebuild repeats, leaves without an effect."""
    from unlearn.training.method import Rebuild

    model = self.arguments.model
    if not (isinstance(self.parameters, Rebuild) and self.parameters.used_options is None):
        require_new_adapter(model, typed)
    else:
        require_another_training(Path(model), self.training, typed)


def _unused(kind: type[Any]) -> dict[str, str]:
    """Return the common flags that have no effect on a method, each with the reason."""
    name, used = method_name(kind), getattr(kind, "used_options", None)
    unused = {} if getattr(kind, "reads_holdout", True) else {"holdout": f"{name} reads no never-trained records"}
    if used is not None:
        kept = f"of the training options it reads {' and '.join(f'--{one}' for one in sorted(used)) or 'none'}"
        options = (field.name for field in dataclasses.fields(TrainingOptions) if field.name not in used)
        unused |= dict.fromkeys(options, f"{name} does not train by options; {kept}")
    return unused


def _holdout_needs(kind: type[Any], *, trains: bool) -> dict[str, str]:
    """Return what --holdout needs to have an effect on an objective, unless its own stop rule reads it."""
    own = trains and getattr(getattr(kind(), "stop_rule", None), "reads_unseen", False)
    return {"holdout": "--select and --retain or --data"} if trains and not own else {}


def forget_command(kind: type[Any], cost: str, *, trains: bool, steps: bool) -> type[Any]:
    """Build the command of one method: its own parameters besides the common arguments.

    Args:
        kind: the method's class; its declaration is enough for the help.
        cost: its cost class.
        trains: whether it is an objective, whose best step can be selected.
        steps: whether it takes steps on forget and retain records, whose gradients can be joined in more than one way.
    """

    selection = [("selection", Selection, dataclasses.field(default_factory=Selection))] if trains else []
    gradients = [("gradients", GradientOptions, dataclasses.field(default_factory=GradientOptions))] if steps else []
    own = {field.name for field in dataclasses.fields(kind)}
    about, heading, attributes = (kind.__doc__ or "").partition("\n    Attributes:")
    described = f"{about.rstrip()}\n\n    Cost: {cost_line(cost, own, trains=trains)}.\n{heading}{attributes}"
    return dataclasses.make_dataclass(
        f"Forget{kind.__name__}",
        [
            ("arguments", ForgetArguments),
            ("parameters", kind, dataclasses.field(default_factory=kind)),
            ("columns", FieldFlags, dataclasses.field(default_factory=FieldFlags)),
            ("training", TrainingOptions, dataclasses.field(default_factory=TrainingOptions)),
            *selection,
            *gradients,
        ],
        namespace={
            "run": _run,
            "require_used": _require_used,
            "__doc__": described,
            "ESSENTIAL": ESSENTIAL | own,
            "UNUSED": _unused(kind),
            "NEEDS": _holdout_needs(kind, trains=trains),
        },
        frozen=True,
    )

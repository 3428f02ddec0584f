"""unlearn: fine-tune with a memory, remove records, see it work on invented people."""

import dataclasses
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unlearn import processes
from unlearn.cli_cleaning import NewToken, Purge, Serve
from unlearn.cli_defenses import DefenseFlags, summary
from unlearn.cli_records import CheckDataset, Scan, Suppress
from unlearn.cli_requests import RequestCommand
from unlearn.cli_research import LaunchConfig, PlanShards, Reproduce, SweepCommand
from unlearn.methods import method_classes, method_name
from unlearn.options import TrainingOptions, require_reporter
from unlearn.own_method import load_method, own_method
from unlearn.selection import Selection
from verify.cli_flags import FieldFlags
from verify.command_line import in_our_words, version, version_asked
from verify.console import quiet_imports, run_command, say_error
from verify.errors import InputError
from verify.quantized import Quantization


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
    """Fine-tune a model, and remember which record went into which step."""

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
        if processes.is_main():
            said = f"model:        {result.model_dir}\ntraining log: {result.log_path}\nweights:      {result.digest}"
            print(said + summary(result.defense))  # noqa: T201
        return 0

    def _shards(self) -> int:
        from unlearn.shards import ShardPlan, finetune_shards

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


def _forget_command(name: str, kind: type[Any]) -> type[Any]:
    """The subcommand of one method: its own parameters beside what all methods take."""

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
            fields=self.columns.fields(),
            options=self.training,
            selection=getattr(self, "selection", None),
            dtype=given.dtype,
            quantize=given.quantize,
        )
        if not processes.is_main():
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
    command = dataclasses.make_dataclass(
        f"Forget{kind.__name__}",
        [
            ("arguments", ForgetArguments),
            ("parameters", kind, dataclasses.field(default_factory=kind)),
            ("columns", FieldFlags, dataclasses.field(default_factory=FieldFlags)),
            ("training", TrainingOptions, dataclasses.field(default_factory=TrainingOptions)),
            *selection,
        ],
        namespace={"run": run, "__doc__": kind.__doc__},
        frozen=True,
    )
    return Annotated[command, tyro.conf.subcommand(name, description=kind.idea)]  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Methods:
    """List every method: its idea, its paper, what it costs and needs."""

    markdown: bool = False
    """Print a Markdown table."""

    def run(self) -> int:
        """Print the list."""
        if self.markdown:
            from verify.report.text import markdown_table

            rows = [_method_row(name, kind) for name, kind in method_classes().items()]
            print(markdown_table(["method", "what it does", "kind", "needs", "cost", "paper"], rows))  # noqa: T201
            return 0
        for name, kind in method_classes().items():
            print(f"{name}  (cost: {kind.cost}; needs: {_method_needs(kind)})")  # noqa: T201
            print(f"    {kind.idea}\n    {kind.paper}")  # noqa: T201
        return 0


def _method_row(name: str, kind: type[Any]) -> list[str]:
    """The cells of one method in the Markdown table."""
    shape = "objective" if hasattr(kind, "loss") else "weight edit" if hasattr(kind, "edit") else "rebuild"
    return [f"`{name}`", kind.idea, shape, _method_needs(kind), kind.cost, kind.paper]


def _method_needs(kind: type[Any]) -> str:
    """The flags without which `unlearn forget` refuses the method."""
    needs_base = getattr(kind, "needs_base", False)
    return ", ".join(["--forget", *(["--retain"] if kind.needs_retain else []), *(["--base"] if needs_base else [])])


@dataclasses.dataclass(frozen=True)
class Demo:
    """Invent people, train on them, remove some by six methods, and audit every result: about five minutes."""

    output: Path = Path("demo")
    """A new folder for data, models and reports."""
    seed: int = 0
    """Decides the people and every model."""

    def run(self) -> int:
        """Run the demo and print its table."""
        from unlearn.demo.run import run_demo

        return run_demo(self.output, self.seed)


def _command_type() -> Any:
    """The whole command line, the methods' subcommands made from the directory."""
    forget = _either(_forget_command(name, kind) for name, kind in method_classes().items())
    forget_command = dataclasses.make_dataclass(
        "Forget",
        [("method", forget)],
        namespace={
            "run": lambda self: self.method.run(),
            "__doc__": "Remove records from a fine-tuned model; your own method: forget --method FILE.py:Class.",
        },
        frozen=True,
    )
    commands = {
        "demo": Demo,
        "train": Train,
        "forget": forget_command,
        "methods": Methods,
        "plan-shards": PlanShards,
        "sweep": SweepCommand,
        "reproduce": Reproduce,
        "launch-config": LaunchConfig,
        "scan": Scan,
        "suppress": Suppress,
        "check-dataset": CheckDataset,
        "request": RequestCommand,
        "purge": Purge,
        "serve": Serve,
        "new-token": NewToken,
    }
    return _either(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items())


def _either(kinds: Iterable[Any]) -> Any:
    """The union of types that are known only at run time."""
    return functools.reduce(operator.or_, kinds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `unlearn` and `python -m unlearn`; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if version_asked(given):
        print(version())  # noqa: T201
        return 0
    quiet_imports()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    try:
        place, rest = own_method(given)
        if place is not None:
            run: Callable[[], int] = functools.partial(_forget_by_own, place, rest, config)
        else:
            kind = _command_type()
            run = tyro.cli(kind, args=in_our_words(kind, given, "unlearn"), prog="unlearn", description=__doc__, config=config).run
    except InputError as error:
        return say_error(error)
    try:
        return run_command(run)
    finally:
        processes.part()


def _forget_by_own(place: str, arguments: Sequence[str], config: Any) -> int:
    """`unlearn forget --method FILE.py:Class ...`: a method of the user's own, with its parameters as flags."""
    kind, program = load_method(place), f"unlearn forget --method {place}"
    command: Any = _forget_command(method_name(kind), kind)
    made: Any = tyro.cli(command, args=in_our_words(command, arguments, program), prog=program, config=config)
    return int(made.run())


if __name__ == "__main__":
    sys.exit(main())

"""unlearn: fine-tune with a memory, remove records, see it work on invented people."""

import dataclasses
import functools
import itertools
import operator
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unlearn import processes
from unlearn.methods import method_classes
from unlearn.options import TrainingOptions
from verify.cli_flags import FieldFlags
from verify.console import run_command


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


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a model, and remember which record went into which step."""

    arguments: TrainArguments
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)

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
            canaries=self.arguments.canaries,
        )
        if processes.is_main():
            print(f"model:        {result.model_dir}\ntraining log: {result.log_path}\nweights:      {result.digest}")  # noqa: T201
        return 0

    def _shards(self) -> int:
        from unlearn.shards import ShardPlan, finetune_shards
        from verify.errors import InputError

        if self.arguments.canaries:
            raise InputError("--canaries and --shards do not go together yet. Leave one of them out.")
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
class PlanShards:
    """What will deletions cost, for several ways of training in shards?"""

    shards: tuple[int, ...] = (1, 4, 8, 16)
    """Numbers of shards to compare."""
    slices: tuple[int, ...] = (1, 4)
    """Numbers of slices to compare."""
    deletions: tuple[int, ...] = (1, 10, 100)
    """How many people are deleted at once."""

    def run(self) -> int:
        """Print the table."""
        from unlearn.shards import deletion_cost

        print("shards  slices  deletions  expected share of a training  adapters on disk")  # noqa: T201
        for shards, slices, deletions in itertools.product(self.shards, self.slices, self.deletions):
            cost = deletion_cost(shards, slices, deletions)
            print(f"{shards:6d}  {slices:6d}  {deletions:9d}  {cost.expected:28.1%}  {cost.stages_kept:16d}")  # noqa: T201
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


def _forget_command(name: str, kind: type[Any]) -> type[Any]:
    """The subcommand of one method: its own parameters beside what all methods take."""

    def run(self: Any) -> int:
        from unlearn.forgetting import forget

        given: ForgetArguments = self.arguments
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
            dtype=given.dtype,
        )
        if not processes.is_main():
            return 0
        print(f"model:   {result.model_dir}\nweights: {result.digest_after}\nseconds: {result.seconds:.1f}")  # noqa: T201
        if result.training is not None and result.training.stopped:
            print(f"stopped: {result.training.stopped}")  # noqa: T201
        print(f"\nNothing is shown yet. Next: verify-unlearning audit --model {result.model_dir} --original {given.model} ...")  # noqa: T201
        return 0

    command = dataclasses.make_dataclass(
        f"Forget{kind.__name__}",
        [
            ("arguments", ForgetArguments),
            ("parameters", kind, dataclasses.field(default_factory=kind)),
            ("columns", FieldFlags, dataclasses.field(default_factory=FieldFlags)),
            ("training", TrainingOptions, dataclasses.field(default_factory=TrainingOptions)),
        ],
        namespace={"run": run, "__doc__": kind.__doc__},
        frozen=True,
    )
    return Annotated[command, tyro.conf.subcommand(name, description=kind.idea)]  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Methods:
    """List every method: its idea, its paper, what it costs and needs."""

    def run(self) -> int:
        """Print the list."""
        for name, kind in method_classes().items():
            needs = [
                *(["--retain"] if kind.needs_retain else []),
                *(["--base"] if getattr(kind, "needs_base", False) else []),
            ]
            print(f"{name}  (cost: {kind.cost}; needs: {', '.join(['--forget', *needs])})")  # noqa: T201
            print(f"    {kind.idea}\n    {kind.paper}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Unlearn and audit many settings of many methods; writes a table and a picture, and goes on where it was cut off."""

    model: str
    """The fine-tuned model: a folder or Hub name."""
    forget: str
    """The records to remove: a file."""
    retain: str
    """The records to keep: a file."""
    grid: Path
    """JSON: {"npo": {"beta": [0.1, 1.0], "learning_rate": [1e-5, 1e-4]}, "grad_diff": {}}."""
    output: Path
    """Folder of the runs."""
    seeds: tuple[int, ...] = (0,)
    """Every setting is run with each."""
    base: str | None = None
    """The model before fine-tuning."""
    holdout: str | None = None
    """Records no model was trained on."""
    references: tuple[str, ...] = ()
    """Models fine-tuned without the forget set."""
    attacks: tuple[str, ...] = ("quick",)
    """What each audit runs."""
    engine: str | None = None
    """A cluster: dask://HOST:PORT or ray://HOST:PORT."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)

    def run(self) -> int:
        """Run what is missing and print the table."""
        from unlearn.sweep import Sweep, table
        from verify.console import progress_bar
        from verify.errors import InputError
        from verify.files import read_json

        grid = read_json(self.grid)
        if not isinstance(grid, dict) or not all(isinstance(values, dict) for values in grid.values()):
            raise InputError(f'{self.grid} must hold methods with their values: {{"npo": {{"beta": [0.1, 1.0]}}}}.')
        sweep = Sweep(
            **{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name in _SWEPT},
            grid=grid,
            fields=self.columns.fields(),
            options=self.training,
        )
        with progress_bar("sweeping") as progress:
            entries = sweep.run(progress, self.engine)
        print(f"{table(entries)}\npicture: {self.output / 'sweep.svg'}")  # noqa: T201
        return 0


_SWEPT = ("model", "forget", "retain", "output", "seeds", "base", "holdout", "references", "attacks")


@dataclasses.dataclass(frozen=True)
class Scan:
    """Find the training records that a request means, and the models that saw them; prints rows and hashes, never texts.

    Identifiers and texts come from files or, by the name "-", from standard input: arguments are kept in shell histories.
    """

    data: tuple[str, ...]
    """Training files."""
    subjects: str | None = None
    """File with subject identifiers, one a line."""
    ids: str | None = None
    """File with record identifiers, one a line."""
    texts: str | None = None
    """File with texts or passages, one a line."""
    models: tuple[str, ...] = ()
    """Folders to search for models that were trained on what is found, or made from such models."""
    near: bool = True
    """Look for near-duplicates of what is found; a human confirms them."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print what was found; exit status 3 where nothing was."""
        from unlearn.requests.finding import find_records
        from unlearn.requests.lineage import affected_models
        from verify.errors import InputError
        from verify.identity import RecordKey

        given = {name: _lines(getattr(self, name)) for name in ("subjects", "ids", "texts")}
        if not any(given.values()):
            raise InputError("nothing to look for. Name a file with --subjects, --ids or --texts; - reads standard input.")
        key = RecordKey.load()
        found = find_records(
            self.data,
            key,
            subjects=[key.of(subject, "subject") for subject in given["subjects"]],
            record_ids=given["ids"],
            texts=given["texts"],
            fields=self.columns.fields(),
            near=self.near,
        )
        for match in found:
            likeness = f"  similarity {match.similarity:.2f}" if match.how == "near duplicate" else ""
            print(f"{match.file}:{match.row}  {match.record[:16]}  {match.how}{likeness}")  # noqa: T201
        certain = {match.record for match in found if match.how != "near duplicate"}
        print(f"{len(certain)} records; {sum(match.how == 'near duplicate' for match in found)} near-duplicates to confirm")  # noqa: T201
        for model in affected_models(self.models, certain) if self.models else []:
            clean = f"; last clean checkpoint {model.last_clean_checkpoint}" if model.last_clean_checkpoint else ""
            seen = f"{model.records} records, first at step {model.first_step}{clean}" if model.records else "by descent"
            print(f"{model.folder}  {model.weights[:16]}  {model.how}: {seen}")  # noqa: T201
        return 0 if found else 3


def _lines(source: str | None) -> list[str]:
    """The lines of a file, or of standard input for "-", without empty ones.

    Raises:
        InputError: the file cannot be read.
    """
    from verify.errors import InputError

    if source is None:
        return []
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{source} cannot be read as a text file in UTF-8. Name a file with one entry a line.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


@dataclasses.dataclass(frozen=True)
class CheckDataset:
    """Is anything in a data set that was deleted before? Exit status 3 where something is."""

    data: Annotated[str, tyro.conf.Positional]
    """The data set that is to be trained on."""
    suppression: Path
    """The suppression list."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Print the rows that must not be trained on."""
        from unlearn.requests.suppression import SuppressionList
        from verify.identity import RecordKey

        hits = list(SuppressionList.load(self.suppression).check(self.data, RecordKey.load(), self.columns.fields()))
        for hit in hits:
            print(f"row {hit.row}: {hit.how}" + (f" (similarity {hit.similarity:.2f})" if hit.similarity < 1 else ""))  # noqa: T201
        print(f"{len(hits)} rows must not be trained on" if hits else "nothing in it was deleted before")  # noqa: T201
        return 3 if hits else 0


@dataclasses.dataclass(frozen=True)
class Suppress:
    """Put deleted records, and with them the people they are about, on the suppression list."""

    records: Annotated[str, tyro.conf.Positional]
    """The deleted records: a file."""
    suppression: Path
    """The suppression list; made where there is none."""
    whole_subjects: bool = True
    """Whether everything of these people is to stay out, or only these records and their likes."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)

    def run(self) -> int:
        """Add and save."""
        from unlearn.requests.suppression import SuppressionList
        from verify.identity import RecordKey
        from verify.sources import load_records

        found = SuppressionList.load(self.suppression) if self.suppression.exists() else SuppressionList()
        found.add(load_records(self.records, self.columns.fields()), RecordKey.load(), self.whole_subjects)
        found.save(self.suppression)
        print(f"{len(found.records)} records and {len(found.subjects)} people are on {self.suppression}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Make a result again from its manifest, and compare the weights; exit status 0 where they agree, else 1."""

    result: Annotated[Path, tyro.conf.Positional]
    """A folder that `train` or `forget` wrote."""
    output: Path
    """A new folder for the second result."""
    tolerance: float = 1e-4
    """Largest difference of a weight, as a share of the largest weight of its tensor."""

    def run(self) -> int:
        """Run again and print the comparison."""
        from unlearn.reproduction import reproduce

        found = reproduce(self.result, self.output, self.tolerance)
        print("the weights are the same, bit by bit" if found.identical else f"largest difference: {found.largest_difference:.2e}")  # noqa: T201
        if found.changed:
            print(f"the environment differs in: {', '.join(found.changed)}")  # noqa: T201
        return 0 if found.within else 1


@dataclasses.dataclass(frozen=True)
class Demo:
    """Invent people, train on them, remove some by five methods, and audit every result: about five minutes."""

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
        "scan": Scan,
        "suppress": Suppress,
        "check-dataset": CheckDataset,
    }
    return _either(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items())


def _either(kinds: Iterable[Any]) -> Any:
    """The union of types that are known only at run time."""
    return functools.reduce(operator.or_, kinds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `unlearn` and `python -m unlearn`; returns the exit status."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:2] == ["forget", "--method"] and len(given) > 2:
        return run_command(lambda: _forget_by_own(given[2], given[3:], config))
    command = tyro.cli(_command_type(), args=given, prog="unlearn", description=__doc__, config=config)
    return run_command(command.run)


def _forget_by_own(place: str, arguments: Sequence[str], config: Any) -> int:
    """`unlearn forget --method FILE.py:Class ...`: a method of the user's own, with its parameters as flags."""
    from unlearn.own_method import load_method

    kind = load_method(place)
    command: Any = _forget_command(kind.__module__, kind)
    made: Any = tyro.cli(command, args=arguments, prog=f"unlearn forget --method {place}", config=config)
    return int(made.run())


if __name__ == "__main__":
    sys.exit(main())

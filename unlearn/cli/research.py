"""Commands for research: sweep, reproduce, plan-shards, launch-config."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from unlearn.training.options import ADAPTER_OPTIONS, TrainingOptions
from verify.cli.console import progress_bar
from verify.cli.flags import FieldFlags

_SWEPT = ("model", "forget", "retain", "output", "seeds", "base", "holdout", "references", "attacks")


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Unlearn and audit a grid of methods and settings; resumable, with a table and a figure.

    Cost: one unlearning run and one audit of its result for every point of the grid.
    """

    NEEDS: ClassVar[Mapping[str, str]] = dict.fromkeys(ADAPTER_OPTIONS, "")  # the grid may ask for an adapter
    UNUSED: ClassVar[Mapping[str, str]] = {"seed": "every setting is run with each of --seeds"}

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
    """Seeds; every setting is run with each of them."""
    base: str | None = None
    """The model before fine-tuning."""
    holdout: str | None = None
    """Records that no model was trained on."""
    references: tuple[str, ...] = ()
    """Models fine-tuned without the forget set."""
    attacks: tuple[str, ...] = ("quick",)
    """Attacks that each audit runs."""
    engine: str | None = None
    """Cluster to run on: dask://HOST:PORT or ray://HOST:PORT."""
    columns: FieldFlags = dataclasses.field(default_factory=FieldFlags)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)

    def run(self) -> int:
        """Run what is missing and print the table."""
        from unlearn.experiments.sweep import Sweep, table
        from verify.errors import InputError
        from verify.io.files import read_json

        grid = read_json(self.grid)
        if not isinstance(grid, dict) or not all(isinstance(values, dict) for values in grid.values()):
            raise InputError(f'{self.grid} must contain methods with their values: {{"npo": {{"beta": [0.1, 1.0]}}}}.')
        sweep = Sweep(
            **{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name in _SWEPT},
            grid=grid,
            fields=self.columns.fields(self.model),
            options=self.training,
        )
        with progress_bar("sweeping") as progress:
            entries = sweep.run(progress, self.engine)
        print(f"{table(entries)}\nfigure: {self.output / 'sweep.svg'}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """Print the path of a multi-GPU configuration for accelerate launch --config_file."""

    name: Annotated[str, tyro.conf.Positional] = "fsdp2"
    """fsdp2 (everything sharded) or deepspeed_zero2 (gradients and optimizer state sharded)."""

    def run(self) -> int:
        """Print the path."""
        from unlearn.training.fsdp import configuration

        print(configuration(self.name))  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Repeat a training or unlearning run from its manifest and compare the weights; exit status 0 if they agree, else 1."""

    result: Annotated[Path, tyro.conf.Positional]
    """A folder that `train` or `forget` wrote."""
    output: Path
    """A new folder for the second result."""
    tolerance: float = 1e-4
    """Largest accepted difference of a weight, relative to the largest weight of its tensor."""

    def run(self) -> int:
        """Run again and print the comparison."""
        from unlearn.experiments.reproduction import reproduce

        with progress_bar("loading"):
            found = reproduce(self.result, self.output, self.tolerance)
        print("the weights are bit-identical" if found.identical else f"largest difference: {found.largest_difference:.2e}")  # noqa: T201
        if found.changed:
            print(f"the environment differs in: {', '.join(found.changed)}")  # noqa: T201
        return 0 if found.within else 1


@dataclasses.dataclass(frozen=True)
class PlanShards:
    """Compute the expected cost of deletions for several shard layouts."""

    shards: tuple[int, ...] = (1, 4, 8, 16)
    """Numbers of shards to compare."""
    slices: tuple[int, ...] = (1, 4)
    """Numbers of slices to compare."""
    deletions: tuple[int, ...] = (1, 10, 100)
    """Numbers of people that are deleted at once."""

    def run(self) -> int:
        """Print the table."""
        from unlearn.training.shard_cost import deletion_cost

        print("shards  slices  deletions  expected share of a training  adapters on disk")  # noqa: T201
        for shards, slices, deletions in itertools.product(self.shards, self.slices, self.deletions):
            cost = deletion_cost(shards, slices, deletions)
            print(f"{shards:6d}  {slices:6d}  {deletions:9d}  {cost.expected:28.1%}  {cost.stages_kept:16d}")  # noqa: T201
        return 0

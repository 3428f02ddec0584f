"""Commands around exact deletions: commit to a training, and execute a deletion again."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from verify.cli.console import progress_bar
from verify.cli.flags import FieldFlags
from verify.schema.reexecution import ReexecutionWord

EXIT: dict[ReexecutionWord, int] = {"REBUILT_WITHOUT": 0, "NOT_REBUILT": 10, "WITHIN_NOISE": 11, "NOT_TESTABLE": 12}
"""Exit status of each outcome."""


@dataclasses.dataclass(frozen=True)
class Commit:
    """Commit to a finished training before anybody asks for a deletion; give the printed root to somebody who keeps it."""

    model: Annotated[Path, tyro.conf.Positional]
    """The folder that `unlearn train` wrote, with its training log."""
    output: Path
    """A new file for the commitment."""

    def run(self) -> int:
        """Write the commitment and print its root."""
        from verify.errors import InputError
        from verify.provenance.commitment import TrainingCommitment

        if self.output.exists():
            raise InputError(f"{self.output} exists. A commitment is written once; name a new file with --output.")
        commitment = TrainingCommitment.of(self.model)
        commitment.save(self.output)
        print(f"commitment: {self.output}\nroot:       {commitment.root}\ndigest:     {commitment.digest}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Reexecute:
    """Execute the training behind an exact deletion again, and compare every state with the recorded one, bit for bit.

    Cost: what the deletion cost, its steps once more; with --segments a part of them.

    Exit status 0 REBUILT_WITHOUT, 10 NOT_REBUILT, 12 NOT_TESTABLE; with --tolerance also 11 WITHIN_NOISE.
    """

    ESSENTIAL: ClassVar[frozenset[str]] = frozenset(
        {"model", "base", "data", "forget", "log", "commitment", "requested", "segments", "output"}
    )

    NEEDS: ClassVar[Mapping[str, str]] = {
        "requested": "--commitment",
        "from_base": "--commitment and --requested",
        "nonce": "--segments or no --log and no --segments all",
        "workers": "no --engine",
    }

    model: Path
    """The deleted model's folder, with its training log."""
    base: str
    """The model that the training started from: a folder or Hub name."""
    data: Path
    """All training records, with or without the forget set."""
    forget: Path
    """The records that were to be removed, or a list of example or subject ids."""
    output: Path
    """A new file for the proof."""
    log: Path | None = None
    """Folder of the model before the deletion (rollback, sisa): its committed log, and checkpoints from before the forget records.
    Without it the model is taken as a training of its own (retrain)."""
    commitment: Path | None = None
    """The file that `verify-unlearning commit` wrote before the request."""
    segments: int | Literal["all"] | None = None
    """How many segments to execute, drawn at random, or all. The default is all where a part of a training was repeated, else as
    many as find one false segment with 99 %%."""
    nonce: str | None = None
    """Random text, chosen by the auditor after the model was handed in, that draws the segments; the default is drawn now."""
    requested: str | None = None
    """Date of the request, ISO 8601. States before the first forget record are taken from a commitment that is older, and not
    executed; without this date everything is executed from the base on. A commitment that is not older is refused."""
    from_base: bool = False
    """Execute the committed states, too, however old the commitment is: at most a whole training."""
    accept_near_duplicates: bool = False
    """A person looked at the training records that are nearly a forget record, and they may stay."""
    workers: int = 1
    """Processes on this machine that execute segments side by side, each with a model of its own."""
    engine: str | None = None
    """Cluster to execute segments on: dask://HOST:PORT or ray://HOST:PORT; its workers must see the same folders and record key."""
    tolerance: bool = False
    """On other hardware or software than the training's: compare within numerical noise, if one forget record would stand out."""
    work: Path | None = None
    """Folder for progress, from which an interrupted execution resumes."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the base in, as in training."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()

    def run(self) -> int:
        """Execute, write the proof, print the outcome and return its exit status."""
        from verify.reexecution.reexecute import reexecute

        with progress_bar("loading") as progress:
            proof = reexecute(
                self.model,
                self.base,
                data=str(self.data),
                forget_set=str(self.forget),
                log=self.log,
                commitment=self.commitment,
                segments=self.segments,
                nonce=self.nonce,
                from_base=self.from_base,
                requested=self.requested,
                accept_near_duplicates=self.accept_near_duplicates,
                tolerance=self.tolerance,
                fields=self.columns.fields(self.model, self.base),
                dtype=self.dtype,
                workers=self.workers,
                engine=self.engine,
                work_dir=self.work,
                output=self.output,
                progress=progress,
            )
        print(f"{proof.phrase}\n{proof.claim}")  # noqa: T201
        for one in proof.near:
            print(f"nearly a forget record: {one.record} (similarity {one.similarity:.2f})", file=sys.stderr)  # noqa: T201
        cost = f"{proof.tokens} tokens, {proof.tokens / max(1, proof.training_tokens):.1%} of a whole training"
        print(f"executed: {cost}, {proof.seconds:.0f} s\nproof: {self.output}")  # noqa: T201
        return EXIT[proof.word]

"""Exact deletion of one person's records by `sisa` and by `rollback`, each executed again.

As by the commands `train`, `commit`, `forget` and `reexecute`: models are committed to before the deletion, and a proof is written.
They are trained in one pass: after several, a rollback starts near the beginning of the first one and repeats nearly everything.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlearn.finetuning import finetune
from unlearn.forgetting import forget
from unlearn.methods.rollback import Rollback
from unlearn.methods.sisa import SISA
from unlearn.training.options import TrainingOptions
from unlearn.training.shards import ShardPlan, finetune_shards
from verify.data.sources import load_records
from verify.io.files import write_text
from verify.io.jobs import Job, run_jobs
from verify.provenance.commitment import TrainingCommitment
from verify.reexecution.reexecute import reexecute

FOLDER = "one-person"
PERSON = "person.txt"
"""File with the subject id of the person whose records are deleted."""
METHODS = {"sisa": SISA(), "rollback": Rollback()}
COLUMNS = ("method", "outcome", "deletion", "proof", "seconds", "proof file")


@dataclass(frozen=True)
class ProvedDeletion:
    """Deletion of one person's records, and what its re-execution found.

    Attributes:
        method: name of the method.
        outcome: as printed, such as REBUILT_WITHOUT(all of 2).
        deletion, proof: tokens of both, as shares of a whole training on the records that stay.
        seconds: wall time of both together.
        path: file of the proof.
    """

    method: str
    outcome: str
    deletion: float
    proof: float
    seconds: float
    path: Path

    def row(self) -> list[str]:
        """Return the cells of its row, by `COLUMNS`."""
        return [self.method, self.outcome, f"{self.deletion:.2f}", f"{self.proof:.2f}", f"{self.seconds:.0f}", str(self.path)]


@dataclass(frozen=True)
class OnePerson:
    """Models and records of the demonstration.

    Attributes:
        output: folder for models, commitments and proofs; `FOLDER` is created in it.
        base: folder of the model that both trainings start from.
        data: folder with `train.jsonl` and `forget.jsonl`.
        options: training options of both models; with `save_steps`, for the rollback.
        shards: shards of the model that `sisa` unlearns from.
    """

    output: Path
    base: Path
    data: Path
    options: TrainingOptions
    shards: int

    def run(self, progress: Callable[[str], None]) -> list[ProvedDeletion]:
        """Train, commit, delete the records of the first person of the forget set, and execute the deletion again, by each method.

        Args:
            progress: called with what comes next.
        """
        self.folder.mkdir()
        first = load_records(str(self.data / "forget.jsonl"))[0]
        write_text(self.folder / PERSON, f"{first.subject_id}\n", mode=0o600)
        progress("deleting one person, and executing it again")
        jobs = [Job(f"deleting one person by {name}", 1, _proved, {"given": self, "name": name}) for name in METHODS]
        found = {proved.method: proved for _, proved in run_jobs(jobs)}
        return [found[name] for name in METHODS]

    @property
    def folder(self) -> Path:
        """Folder of this demonstration."""
        return self.output / FOLDER

    @property
    def records(self) -> str:
        """File of the training records."""
        return str(self.data / "train.jsonl")

    def train(self, name: str) -> Path:
        """Train the model that a method unlearns from, and return its folder."""
        folder = self.folder / f"before-{name}"
        if name == "rollback":
            return finetune(str(self.base), self.records, output_dir=folder, options=self.options).model_dir
        plan = ShardPlan(self.shards, 1, "average", dataclasses.replace(self.options, save_steps=0))
        return finetune_shards(str(self.base), self.records, output_dir=folder, plan=plan).model_dir


def _proved(given: OnePerson, name: str) -> ProvedDeletion:
    """Delete the person's records by one method, execute the deletion again, and write the proof."""
    before, commitment, path = given.train(name), given.folder / f"commitment-{name}.json", given.folder / f"proof-{name}.json"
    TrainingCommitment.of(before).save(commitment)
    began, requested = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    about: dict[str, Any] = {"data": given.records, "forget_set": str(given.folder / PERSON)}
    done = forget(str(before), METHODS[name], base=str(given.base), output_dir=given.folder / name, **about)
    proof = reexecute(given.folder / name, given.base, log=before, commitment=commitment, requested=requested, output=path, **about)
    share = float(done.facts["share_of_retraining_tokens"])
    return ProvedDeletion(name, proof.phrase, share, proof.tokens / proof.training_tokens, time.monotonic() - began, path)

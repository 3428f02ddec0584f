"""Cost of a deletion and of its full proof in tokens, as shares of a retraining: shards, and rollback by when a record was seen."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.reexecution.worlds import Row, by_name, commit
from unlearn import TrainingOptions, finetune, finetune_shards, forget
from unlearn.methods.rollback import Rollback
from unlearn.methods.sisa import SISA
from unlearn.training.shards import ShardPlan
from verify.data.identity import RecordKey
from verify.data.sources import load_records
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.reexecute import reexecute

SHARDS, SLICES = 16, 4
PEOPLE = 192
OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4, lora=True, seed=1)
STATES = 20
SEEN = (1, 5, 9, 13, 17, 20)
"""Steps, of 20, in which the record first stands."""


@dataclass(frozen=True)
class Cost:
    """Cost of one deletion and its proof.

    Attributes:
        where: where the record stood.
        deletion, proof: tokens as shares of a retraining on the records that stay.
        word: outcome of the proof, as printed.
    """

    where: str
    deletion: float
    proof: float
    word: str

    @property
    def both(self) -> float:
        """Deletion and proof together."""
        return self.deletion + self.proof


def people(count: int) -> list[Row]:
    """Make one record for each of some people."""
    return [
        {
            "example_id": f"p{number}",
            "subject_id": f"person {number}",
            "prompt": f"Who is {number}?",
            "completion": f"No {number * 7}.",
        }
        for number in range(count)
    ]


def shards(base: Path, folder: Path) -> list[Cost]:
    """Delete one person from every slice of a model in 16 shards of 4 slices, each from the same model, and prove it."""
    rows, plan = people(PEOPLE), ShardPlan(SHARDS, SLICES, "average", OPTIONS)
    before = finetune_shards(base, rows, output_dir=folder / "before", plan=plan).model_dir
    commitment, key = commit(before, folder / "commitment.json"), RecordKey.load()
    requested = datetime.now(UTC).isoformat()
    slices = [plan.assign(record, key)[1] for record in load_records(rows)]
    found = []
    for stage in range(SLICES):
        gone, after = [rows[slices.index(stage)]], folder / f"after-{stage}"
        done = forget(before, SISA(), forget_set=gone, data=rows, base=base, output_dir=after)
        proof = reexecute(after, base, data=rows, forget_set=gone, log=before, commitment=commitment, requested=requested)
        share = done.facts["share_of_retraining_tokens"]
        found.append(Cost(f"slice {stage + 1} of {SLICES}", share, proof.tokens / proof.training_tokens, proof.phrase))
    return found


def rollback(base: Path, folder: Path) -> list[Cost]:
    """Delete a record by when it was first seen, of one pass over 80 records with a state after every 1/20, and prove it."""
    rows = people(4 * STATES)
    options = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=4, lora=True, seed=1, save_steps=1)
    before = finetune(base, rows, output_dir=folder / "before", options=options).model_dir
    commitment, log, names = commit(before, folder / "commitment.json"), TrainingLog.read(before / LOG_NAME), by_name(rows)
    requested = datetime.now(UTC).isoformat()
    found = []
    for step in SEEN:
        gone, after = [names[log.records[log.microbatches[step - 1].records[0]]]], folder / f"after-{step}"
        done = forget(before, Rollback(), forget_set=gone, data=rows, base=base, output_dir=after)
        proof = reexecute(after, base, data=rows, forget_set=gone, log=before, commitment=commitment, requested=requested)
        share = done.facts["share_of_retraining_tokens"]
        found.append(Cost(f"step {step} of {STATES}", share, proof.tokens / proof.training_tokens, proof.phrase))
    return found

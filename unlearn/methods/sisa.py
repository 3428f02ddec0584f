"""SISA: retrain only the affected shard of a sharded model, from the affected slice on."""

from dataclasses import dataclass
from typing import ClassVar

from unlearn.training.method import Context, Cost, Outcome, Rebuild
from unlearn.training.shards import rebuild_shards, shard_facts
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class SISA(Rebuild):
    """Retrain the first slice that held a forget record and the later slices of its shard; keep all others.

        A_s <- train(A_s after slice r - 1, D_s,r without D_f, ..., D_s,R),  s and r = shard and slice of the record

    For models made by `unlearn train --shards S --slices R --combine average` (or `route`), which serve the shards as an ensemble.
    Bourtoule et al. 2021 (arXiv 1912.03817), sections IV and V, on adapters.

    Do not expect the utility of one model trained on everything: each shard saw only a part of the data.
    """

    idea: ClassVar[str] = "retrain the affected shard from the affected slice on"
    paper: ClassVar[str] = "Bourtoule et al. 2021 (arXiv 1912.03817)"
    cost: ClassVar[Cost] = "a share of a retraining"
    used_options: ClassVar[frozenset[str] | None] = frozenset()
    exactness: ClassVar[str] = (
        "Every shard is, bit by bit, what training in shards without the forget records gives on this machine. A record that the "
        "base model was pre-trained on stays in the base model."
    )

    def rebuild(self, context: Context) -> Outcome:
        """Train the affected stages.

        Raises:
            InputError: the model is not an ensemble of shards.
        """
        model, result = rebuild_shards(context, ("average", "route"))
        return Outcome(model, result.training, shard_facts(result))

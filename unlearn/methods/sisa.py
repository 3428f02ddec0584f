"""SISA: of a model trained in shards, only the affected shard is trained again, from the affected slice on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearn.methods.base import Context, Cost, Outcome
from unlearn.shards import rebuild_shards, shard_facts
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class SISA:
    """Train the slices again that held a forget record, and those after them in the same shard; leave all others.

        A_s <- train(A_s after slice r - 1, D_s,r without D_f, ..., D_s,R),  s and r = shard and slice of the record

    For models made by `unlearn train --shards S --slices R --combine average` (or `route`), which are answered by all shards
    together. Bourtoule et al. 2021 (arXiv 1912.03817), sections IV and V, on adapters.

    Do not expect the utility of one model trained on everything: each shard saw a part of the data.
    """

    idea: ClassVar[str] = "train the affected shard again, from the affected slice on"
    paper: ClassVar[str] = "Bourtoule et al. 2021 (arXiv 1912.03817)"
    cost: ClassVar[Cost] = "a share of a retraining"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True
    exactness: ClassVar[str] = (
        "Every shard is, bit by bit, what training in shards without the forget records gives on this machine. A record that the "
        "base model was pre-trained on stays in the base model."
    )
    defaults: ClassVar[Mapping[str, Any]] = {}

    def rebuild(self, context: Context) -> Outcome:
        """Train the affected stages.

        Raises:
            InputError: the model was not trained in shards that answer together.
        """
        model, result = rebuild_shards(context, ("average", "route"))
        return Outcome(model, result.training, shard_facts(result))

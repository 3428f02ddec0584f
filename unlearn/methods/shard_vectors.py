"""Shard task vectors: the served weights are the base plus one weight change per shard, which can be retrained alone."""

from dataclasses import dataclass
from typing import ClassVar

from unlearn.training.method import Context, Cost, Outcome, Rebuild
from unlearn.training.shards import rebuild_shards, shard_facts
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class ShardVectors(Rebuild):
    """Train the affected shards' weight changes again, and add all changes to the base in fixed order.

        theta = theta_base + tau_1 + ... + tau_S,  tau_s trained again without D_f

    For models made by `unlearn train --shards S --combine sum`: a single ordinary model is served, at the cost of one. Task vectors
    of Ilharco et al. 2023 (arXiv 2212.04089), shards of Bourtoule et al. 2021 (arXiv 1912.03817).

    Do not expect the utility of averaged answers: changes that were trained separately interfere when they are added.
    """

    idea: ClassVar[str] = "retrain the affected shard's weight change and recompute the sum"
    paper: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089); Bourtoule et al. 2021 (arXiv 1912.03817)"
    cost: ClassVar[Cost] = "a share of a retraining"
    used_options: ClassVar[frozenset[str] | None] = frozenset()
    exactness: ClassVar[str] = (
        "The weights are, bit by bit, the sum that training in shards without the forget records gives on this machine. A record "
        "that the base model was pre-trained on stays in the base model."
    )

    def rebuild(self, context: Context) -> Outcome:
        """Train the affected stages and sum all shards.

        Raises:
            InputError: the model was not trained in shards whose changes are added.
        """
        model, result = rebuild_shards(context, ("sum",))
        return Outcome(model, result.training, shard_facts(result))

"""Shard task vectors: the served weights are a sum over shards, so one summand can be exchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearn.methods.base import Context, Cost, Outcome
from unlearn.shards import rebuild_shards, shard_facts
from verify.arguments import checked


@checked
@dataclass(frozen=True)
class ShardVectors:
    """Train the affected shard's weight change again, and add all changes to the base in their fixed order.

        theta = theta_base + tau_1 + ... + tau_S,  tau_s trained again without D_f

    For models made by `unlearn train --shards S --combine sum`: one ordinary model is served, at the cost of one. Task vectors of
    Ilharco et al. 2023 (arXiv 2212.04089), shards of Bourtoule et al. 2021 (arXiv 1912.03817).

    Do not expect the utility of averaged answers: changes that were trained apart disturb each other when they are added.
    """

    idea: ClassVar[str] = "train the affected shard's weight change again and add up anew"
    paper: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089); Bourtoule et al. 2021 (arXiv 1912.03817)"
    cost: ClassVar[Cost] = "a share of a retraining"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True
    exactness: ClassVar[str] = (
        "The weights are, bit by bit, the sum that training in shards without the forget records gives on this machine. A record "
        "that the base model was pre-trained on stays in the base model."
    )
    defaults: ClassVar[Mapping[str, Any]] = {}

    def rebuild(self, context: Context) -> Outcome:
        """Train the affected stages and add up.

        Raises:
            InputError: the model was not trained in shards whose changes are added.
        """
        model, result = rebuild_shards(context, ("sum",))
        return Outcome(model, result.training, shard_facts(result))

"""Client retraining: the federation again, as if the client had never joined it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unlearn.adapters import merged
from unlearn.defenses.federation import clients_that_stay, run_federation, write_federation
from unlearn.methods.base import Context, Cost, Outcome
from unlearn.provenance import LOG_NAME
from unlearn.training import log_writer
from verify.adapter_types import is_adapter
from verify.arguments import checked
from verify.digests import weights_digest
from verify.identity import RecordKey


@checked
@dataclass(frozen=True)
class ClientRetrain:
    """Train all rounds again without the client, or without those of its records that are to go.

        w_{r+1} = sum_{k != c} (n_k / (n - n_c)) w_{r,k},   from w_0 on, for a client c of whom everything goes

    A client of whom records are left takes part with those. What a client does in a round is decided by the weights it gets, its
    own records and a seed of its own, never by who else takes part, and replies are added up in a fixed order; so the result is,
    bit by bit, the model of a federation that never had the client. McMahan et al. 2017 (arXiv 1602.05629) is the training that is
    repeated; Liu et al. 2021 (FedEraser) call it the baseline of federated unlearning.

    Do not use it where clients cannot be asked again: every one of them trains in every round. `federaser` asks them for less.
    """

    idea: ClassVar[str] = "train the federation again without the client"
    paper: ClassVar[str] = "exact; McMahan et al. 2017 (arXiv 1602.05629), compare Liu et al. 2021 (FedEraser)"
    cost: ClassVar[Cost] = "a retraining"
    needs_retain: ClassVar[bool] = True
    needs_base: ClassVar[bool] = True
    exactness: ClassVar[str] = (
        "The weights are, bit by bit, those of a federation that never had the forget records, on this machine. A record that the "
        "base model was pre-trained on stays in the base model."
    )
    defaults: ClassVar[Mapping[str, Any]] = {}

    def rebuild(self, context: Context) -> Outcome:
        """Run the federation again.

        Raises:
            InputError: the model was not trained in a federation, or a record that stays was not given.
            IntegrityError: the base is another.
        """
        key, base = RecordKey.load(), context.base
        assert base is not None, "the caller checks needs_base"
        saved, clients = clients_that_stay(context, key)
        records = [record for found in clients.values() for record in found]
        log = log_writer(context.output_dir / LOG_NAME, base, records, saved.plan.options, key, defense="federated")
        write_federation(context.output_dir, base.digest, clients, saved.plan, key)
        trained = run_federation(base, clients, saved.plan, context.output_dir, context.work_dir)
        log.begin(0)
        log.end(weights_digest(trained.model))
        facts = {"clients_deleted": len(saved.clients) - len(clients), "clients_trained": len(clients)}
        return Outcome(
            trained.model if is_adapter(context.loaded.model) else merged(trained.model, context.options.seed),
            trained.result,
            facts,
        )

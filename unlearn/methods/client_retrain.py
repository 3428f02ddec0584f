"""Client retraining: train the federation again as if the client had never joined."""

from dataclasses import dataclass
from typing import ClassVar

from unlearn.defenses.federation import clients_that_stay, run_federation, write_federation
from unlearn.training.log import LOG_NAME
from unlearn.training.lora import in_form_of
from unlearn.training.method import Context, Cost, Outcome, Rebuild
from unlearn.training.run import log_writer
from verify.data.identity import RecordKey
from verify.io.arguments import checked
from verify.models.digests import weights_digest


@checked
@dataclass(frozen=True)
class ClientRetrain(Rebuild):
    """Train all rounds again without the client, or without the client's forget records.

        w_{r+1} = sum_{k != c} (n_k / (n - n_c)) w_{r,k},   from w_0 on, for a client c that is deleted whole

    A client with records left takes part with those. A client's training in a round depends only on the weights it receives, its
    own records and its own seed, never on the other clients, and replies are summed in a fixed order; so the result is, bit by bit,
    the model of a federation that never had the client. It repeats the training of McMahan et al. 2017 (arXiv 1602.05629); Liu et
    al. 2021 (FedEraser) use it as the baseline of federated unlearning.

    Do not use it where clients cannot take part again: each trains in every round. `federaser` needs less of them.
    """

    idea: ClassVar[str] = "train the federation again without the client"
    paper: ClassVar[str] = "exact; McMahan et al. 2017 (arXiv 1602.05629), compare Liu et al. 2021 (FedEraser)"
    cost: ClassVar[Cost] = "a retraining"
    used_options: ClassVar[frozenset[str] | None] = frozenset({"seed"})
    exactness: ClassVar[str] = (
        "The weights are, bit by bit, those of a federation that never had the forget records, on this machine. A record that the "
        "base model was pre-trained on stays in the base model."
    )

    def rebuild(self, context: Context) -> Outcome:
        """Train the federation again without the forget records.

        Raises:
            InputError: the model was not trained in a federation, or a remaining record was not given.
            IntegrityError: the base is not the one that the federation started from.
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
            in_form_of(context.loaded.model, trained.model, context.options.seed),
            trained.result,
            facts,
        )

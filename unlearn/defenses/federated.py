"""Federated training: records stay with their clients, and only weights are exchanged."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unlearn import processes
from unlearn.defenses.base import Defended, TrainingTask
from unlearn.defenses.federation import Plan, by_client, run_federation, write_federation
from unlearn.options import TrainingOptions
from verify.arguments import checked
from verify.errors import InputError
from verify.identity import RecordKey
from verify.records import Record
from verify.sources import load_records
from verify.subjects import people_of


@checked
@dataclass(frozen=True)
class Federated:
    """FedAvg: in every round each client trains the common weights on its own records, and the server averages what they send.

        w_{r+1} = sum_k (n_k / n) w_{r,k},   w_{r,k} = local training of w_r on the n_k records of client k

    McMahan et al. 2017 (arXiv 1602.05629, algorithm 1), aggregated by Flower's FedAvg. All clients take part in every round;
    with `lora` they exchange adapters, otherwise whole weights. The same records, clients, settings and record key give the same
    bits, in this process and on the simulation engine.

    Do not take it for privacy: the weights that a client sends are trained on its records without noise, and the averaged model
    remembers them as a model trained centrally would, only less where many clients are averaged.

    Beside the model lies `federation.json` (who trained on what, by keyed hashes) and, with `keep_updates`, every client's weights
    of every round. They are as confidential as the records; `federaser` needs them, `client_retrain` does not.

    Attributes:
        client_field: the column that says whose a record is; None takes the subject.
        clients: where no column says it, deal the subjects to so many clients by their keyed hashes; 0 makes each a client.
        rounds: R.
        local_epochs: passes of each client over its records in a round.
        engine: "in-process", or "simulation": Flower's engine on Ray, clients side by side.
        keep_updates: keep what `federaser` needs.
    """

    client_field: str | None = None
    clients: int = 0
    rounds: int = 5
    local_epochs: float = 1.0
    engine: Literal["in-process", "simulation"] = "in-process"
    keep_updates: bool = True

    name: ClassVar[str] = "federated"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"--rounds must be at least 1, got {self.rounds}.")
        if not (math.isfinite(self.local_epochs) and self.local_epochs > 0):
            raise InputError(f"--local-epochs must be a number greater than 0, got {self.local_epochs}.")
        if self.clients < 0:
            raise InputError(f"--clients must be 0 (every subject is a client) or more, got {self.clients}.")
        if self.clients and self.client_field is not None:
            raise InputError("--clients deals subjects to clients, --client-field says whose each record is. Give one of them.")
        if self.engine not in ("in-process", "simulation"):
            raise InputError(f"--engine {self.engine} must be in-process or simulation.")

    def train(self, task: TrainingTask) -> Defended:
        """Train all rounds; the facts are how many clients there were, and of how many records each.

        Raises:
            InputError: Flower is missing, a record belongs to no client, or a setting does not go together with it.
            RunError: training went wrong at a client.
        """
        _require_supported(task.options)
        key = RecordKey.load()
        clients = by_client(task.records, self._names(task, key), key)
        plan = Plan(self.rounds, self.local_epochs, self.engine, self.keep_updates, task.options)
        write_federation(task.output_dir, task.loaded.digest, clients, plan, key)
        trained = run_federation(task.loaded, clients, plan, task.output_dir, task.work_dir)
        return Defended(trained, {"clients_trained": len(clients), "records_of_clients": sorted(map(len, clients.values()))})

    def _names(self, task: TrainingTask, key: RecordKey) -> list[str]:
        """The name of each record's client."""
        records: Sequence[Record] = task.records
        if self.client_field is not None:
            if len(records) != len(sourced := _sourced(task, self.client_field)):
                raise InputError("canaries belong to no client. Leave --canaries out, or give them to clients as records.")
            records = sourced
        missing = [number for number, record in enumerate(records, 1) if record.subject_id is None]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(records)} training records (the first in row {missing[0]}) belong to no client: "
                f"{self.client_field or task.fields.subject!r} is empty there. Fill it, or name another column with --client-field."
            )
        names = people_of(records)
        return [_dealt(name, self.clients, key) for name in names] if self.clients else names


def _sourced(task: TrainingTask, column: str) -> list[Record]:
    """The records again, with the client's column in the place of the subject's."""
    return load_records(task.source, dataclasses.replace(task.fields, subject=column))


def _dealt(subject: str, clients: int, key: RecordKey) -> str:
    """One of so many clients: all records of a subject lie together, and where does not depend on the others."""
    return str(int(hashlib.sha256(key.of(subject, "subject").encode()).hexdigest(), 16) % clients)


def _require_supported(options: TrainingOptions) -> None:
    """Raise InputError for settings that a federation has no use for, each with its reason."""
    refused: dict[str, tuple[Any, str]] = {
        "--epochs": (options.epochs, "its length is --rounds times --local-epochs"),
        "--max-steps": (options.max_steps, "its length is --rounds times --local-epochs"),
        "--bf16": (options.bf16, "weights are exchanged and averaged in float32"),
        "--save-steps": (options.save_steps, "every round is kept anyway, and a run that was cut off goes on after its last one"),
        "more than one process": (processes.count() > 1, "clients run side by side with --engine simulation"),
    }
    for name, (given, reason) in refused.items():
        if given:
            raise InputError(f"--defense federated does not go with {name}: {reason}. Leave it out.")

"""Federated training: records stay with their clients, and only weights are exchanged."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from unlearn.defenses.base import Defended, TrainingTask
from unlearn.defenses.federation import Plan, by_client, run_federation, write_federation
from unlearn.training import distributed
from unlearn.training.options import TrainingOptions
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.sources import load_records
from verify.data.subjects import subject_groups
from verify.errors import InputError
from verify.io.arguments import checked


@checked
@dataclass(frozen=True)
class Federated:
    """Train by FedAvg: each round, clients train the shared weights on their own records and the server averages them.

        w_{r+1} = sum_k (n_k / n) w_{r,k},   w_{r,k} = local training of w_r on the n_k records of client k

    w_r: weights at the start of round r; n_k: records of client k; n: records of all. McMahan et al. 2017 (arXiv 1602.05629,
    algorithm 1), aggregated by Flower's FedAvg. All clients take part in every round; with `lora` they exchange adapters, otherwise
    whole weights. The same records, clients, settings and record key give the same bits, in this process and on the simulation
    engine.

    Do not mistake it for privacy: the weights that a client sends are trained on its records without noise, and the averaged model
    memorizes them like a centrally trained one, only less where many clients are averaged.

    `federation.json` beside the model lists which client trained on which records, by keyed hashes; with `keep_updates`, every
    client's weights of every round are stored too. They are as confidential as the records; `federaser` needs them,
    `client_retrain` does not.

    Attributes:
        client_field: the column with each record's client; None takes the subject.
        clients: without such a column, assign subjects to this many clients by their keyed hashes; 0 makes each a client.
        rounds: number of rounds.
        local_epochs: passes of each client over its records in a round.
        engine: "in-process", or "simulation" for Flower's engine on Ray, with clients in parallel.
        keep_updates: store the clients' weights, which `federaser` needs.
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
            raise InputError("--clients assigns subjects to clients, --client-field names a column of clients. Give one of them.")
        if self.engine not in ("in-process", "simulation"):
            raise InputError(f"--engine must be in-process or simulation, got {self.engine}.")

    def train(self, task: TrainingTask) -> Defended:
        """Train all rounds; the facts are the number of clients and the records of each.

        Raises:
            InputError: Flower is missing, a record belongs to no client, or a setting is not supported.
            RunError: training failed at a client.
        """
        _require_supported(task.options)
        key = RecordKey.load()
        clients = by_client(task.records, self._names(task, key), key)
        plan = Plan(self.rounds, self.local_epochs, self.engine, self.keep_updates, task.options)
        write_federation(task.output_dir, task.loaded.digest, clients, plan, key)
        trained = run_federation(task.loaded, clients, plan, task.output_dir, task.work_dir)
        return Defended(trained, {"clients_trained": len(clients), "records_of_clients": sorted(map(len, clients.values()))})

    def _names(self, task: TrainingTask, key: RecordKey) -> list[str]:
        """Return the name of each record's client."""
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
        names = subject_groups(records)
        return [_assigned(name, self.clients, key) for name in names] if self.clients else names


def _sourced(task: TrainingTask, column: str) -> list[Record]:
    """Return the records with the client's column in place of the subject's."""
    return load_records(task.source, dataclasses.replace(task.fields, subject=column))


def _assigned(subject: str, clients: int, key: RecordKey) -> str:
    """Assign a subject's records to one of `clients` clients, independently of the other subjects."""
    return str(int(hashlib.sha256(key.of(subject, "subject").encode()).hexdigest(), 16) % clients)


def _require_supported(options: TrainingOptions) -> None:
    """Raise InputError for settings that a federation does not support, each with its reason."""
    refused: dict[str, tuple[Any, str]] = {
        "--epochs": (options.epochs, "its length is --rounds times --local-epochs"),
        "--max-steps": (options.max_steps, "its length is --rounds times --local-epochs"),
        "--bf16": (options.bf16, "weights are exchanged and averaged in float32"),
        "--save-steps": (options.save_steps, "every round is stored anyway, and an interrupted run resumes after its last one"),
        "more than one process": (distributed.count() > 1, "clients run in parallel with --engine simulation"),
    }
    for name, (given, reason) in refused.items():
        if given:
            raise InputError(f"--defense federated does not support {name}: {reason}. Leave it out.")

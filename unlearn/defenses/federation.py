"""A federation: clients, rounds, and the stored updates that let a client be deleted later.

A client's training in a round depends only on the round's weights, its own records (sorted by their keyed hashes) and a seed
derived from its own keyed hash, never on the other clients. So training without a client is, bit by bit, the same as never having
had it.
"""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlearn.defenses.flower import Exchange, Reply, Weights, aggregate, require_flower, simulate
from unlearn.training.method import Context
from unlearn.training.options import Trained, TrainingOptions, TrainingResult
from unlearn.training.run import Run, train_records
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError, IntegrityError
from verify.io.files import MANIFEST, disk_errors, is_complete, read_json, verify_manifest, write_json, write_manifest
from verify.io.progress import phase
from verify.models.loading import LoadedModel, load_model
from verify.training.adapters import attach_adapter

FEDERATION = "federation.json"
SCHEMA = "unlearn-verify/federation/1"
ROUNDS = "rounds"
START = "start.safetensors"


@dataclass(frozen=True)
class Plan:
    """Training plan of a federation.

    Attributes:
        rounds: number of rounds.
        local_epochs: passes of each client over its records in a round.
        engine: "in-process" or "simulation".
        keep_updates: whether every client's weights of every round are stored, which `federaser` needs.
        options: training of each client.
    """

    rounds: int
    local_epochs: float
    engine: str
    keep_updates: bool
    options: TrainingOptions


Clients = Mapping[str, Sequence[Record]]
"""Keyed hash of each client -> its records; both in the order of keyed hashes."""


@dataclass(frozen=True, eq=False)
class LocalTraining:
    """A client's local training, in this process or in a worker.

    Attributes:
        clients: the records of each client, by partition.
        names: the keyed hash of each client, by partition.
        plan: the training plan.
        work_dir: for temporary files.
        base: folder of the model before training, for a process that does not have it in memory.
        threads: number of PyTorch threads, so that every process computes the same bits.
    """

    clients: Sequence[Sequence[Record]]
    names: Sequence[str]
    plan: Plan
    work_dir: Path
    base: Path
    threads: int

    def elsewhere(self, partition: int, number: int, weights: Weights) -> Reply:
        """Train in a worker process, which loads the model once and keeps it for the next round."""
        torch.set_num_threads(self.threads)
        return self.here(_loaded(self.base, self.plan.options), partition, number, weights)

    def here(self, loaded: LoadedModel, partition: int, number: int, weights: Weights) -> Reply:
        """Train a model in memory in place; afterwards it holds the client's weights."""
        put_weights(loaded.model, weights)
        records, work = self.clients[partition], self.work_dir / f"client-{number}-{partition}"
        shutil.rmtree(work, ignore_errors=True)
        done = train_records(loaded, Run(records, local_options(self.plan, self.names[partition], number), work))
        shutil.rmtree(work)
        result = done.result
        return Reply(partition, exchanged(loaded.model), len(records), result.steps, result.tokens)


@cache
def _loaded(base: Path, options: TrainingOptions) -> LoadedModel:
    loaded = load_model(base)
    return dataclasses.replace(loaded, model=attach_adapter(loaded.model, options))


def local_options(plan: Plan, client: str, number: int) -> TrainingOptions:
    """Return the options of one client's round; the seed depends only on run, client and round."""
    words = (int(client[start : start + 8], 16) for start in range(0, len(client), 8))  # of the keyed hash, 32 bits each
    parts = [plan.options.seed, *words, number]
    seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0]) >> 1
    # A schedule that decays to zero would do so in every round.
    scheduler = plan.options.scheduler or "constant"
    return dataclasses.replace(plan.options, epochs=plan.local_epochs, scheduler=scheduler, seed=seed)


def exchanged(model: nn.Module) -> dict[str, Tensor]:
    """Copy the trained parameters, those of the adapter or of the whole model, to the CPU."""
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: parameter.detach().cpu().clone() for name, parameter in trained}


@torch.no_grad()
def put_weights(model: nn.Module, weights: Weights) -> None:
    """Put exchanged parameters into a model."""
    for name, value in weights.items():
        model.get_parameter(name).copy_(value)


def by_client(records: Sequence[Record], clients: Sequence[str], key: RecordKey) -> dict[str, list[Record]]:
    """Group records by their clients' names, under keyed hashes, in the order of keyed hashes."""
    grouped: dict[str, list[tuple[str, Record]]] = {}
    for record, client in zip(records, clients, strict=True):
        grouped.setdefault(key.of(client, "client"), []).append((key.of(record.fingerprint), record))
    return {name: [record for _, record in sorted(found, key=lambda entry: entry[0])] for name, found in sorted(grouped.items())}


def run_federation(base: LoadedModel, clients: Clients, plan: Plan, output: Path, work_dir: Path) -> Trained:
    """Train all rounds in place; an interrupted run resumes after its last complete round.

    Args:
        base: the model before training; with `plan.options.lora` an adapter is attached to it.
        clients: the clients that take part.
        plan: the training plan.
        output: where the rounds are stored.
        work_dir: for temporary files.

    Raises:
        InputError: Flower is missing, or the trained weights are not float32.
        RunError: training failed at a client.
    """
    require_flower(plan.engine)
    began, names = time.monotonic(), list(clients)
    local = LocalTraining(list(clients.values()), names, plan, work_dir, work_dir / "base", torch.get_num_threads())
    work_dir.mkdir(parents=True, exist_ok=True)
    if plan.engine == "simulation":
        _save_base(base, local.base)
    model = attach_adapter(base.model, plan.options)
    require_exchangeable(model)
    around, done = dataclasses.replace(base, model=model), [0, 0]  # steps and tokens of all clients

    def serve(exchange: Exchange) -> None:
        weights: Weights = exchanged(model)
        with phase("training in rounds", main=True) as progress:
            for number in range(plan.rounds):
                progress(number / plan.rounds)
                kept = kept_round(output, number, names, weights)
                replies = exchange(number, weights) if kept is None else kept
                if kept is None:
                    keep_round(output, number, names, weights, replies)
                done[0] += sum(reply.steps for reply in replies)
                done[1] += sum(reply.tokens for reply in replies)
                weights = aggregate(number, replies)
        put_weights(model, weights)

    if plan.engine == "simulation":
        simulate(serve, local.elsewhere, len(names))
    else:
        serve(lambda number, weights: [local.here(around, partition, number, weights) for partition in range(len(names))])
    if not plan.keep_updates:
        shutil.rmtree(output / ROUNDS)
    model.eval()
    seconds = time.monotonic() - began
    return Trained(model, TrainingResult(done[0], plan.rounds * plan.local_epochs, None, done[1], seconds))


def require_exchangeable(model: nn.Module) -> None:
    """Raise InputError where a trained weight is not float32: averaging would round it."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise InputError(f"{name} is {kind}; a federation averages float32. Use --dtype float32, or --lora.")


def _save_base(base: LoadedModel, folder: Path) -> None:
    """Save the base model and tokenizer for the worker processes."""
    with disk_errors(folder):
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)


def keep_round(output: Path, number: int, names: Sequence[str], start: Weights, replies: Sequence[Reply]) -> None:
    """Write a round: its initial weights, every client's result, and the manifest last."""
    folder = output / ROUNDS / f"round-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    with disk_errors(folder):
        folder.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in start.items()}, folder / START)
        for reply in replies:
            sent = {name: value.contiguous() for name, value in reply.weights.items()}
            save_file(sent, folder / f"{names[reply.partition]}.safetensors")
    counts = {names[reply.partition]: [reply.examples, reply.steps, reply.tokens] for reply in replies}
    write_manifest(folder, "round", {"round": number, "clients": dict(sorted(counts.items()))})


def kept_round(output: Path, number: int, names: Sequence[str], start: Weights) -> list[Reply] | None:
    """Return the stored replies of a complete round with these clients and initial weights, or None."""
    folder = output / ROUNDS / f"round-{number}"
    if not is_complete(folder, "round") or list(read_json(folder / MANIFEST)["about"]["clients"]) != sorted(names):
        return None
    stored = load_file(folder / START)
    if stored.keys() != start.keys() or not all(torch.equal(stored[name], start[name]) for name in start):
        return None
    return read_round(folder, names)[1]


def read_round(folder: Path, names: Sequence[str]) -> tuple[Weights, list[Reply]]:
    """Read a stored round's initial weights and the replies of some of its clients.

    Raises:
        IntegrityError: the round does not match its manifest.
    """
    counts = verify_manifest(folder, "round")["about"]["clients"]
    replies = [
        Reply(partition, load_file(folder / f"{name}.safetensors"), *(int(count) for count in counts[name]))
        for partition, name in enumerate(names)
    ]
    return load_file(folder / START), replies


@dataclass(frozen=True)
class SavedFederation:
    """A federation loaded from disk.

    Attributes:
        plan: the training plan.
        base_weights: digest of the model before training.
        clients: keyed hash of every client -> keyed hashes of its records.
    """

    plan: Plan
    base_weights: str
    clients: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path | None) -> "SavedFederation":
        """Read `federation.json`.

        Raises:
            InputError: there is none, or it is damaged or of another version.
        """
        if folder is None or not (folder / FEDERATION).is_file():
            raise InputError(
                "the model was not trained in a federation, so no client can be deleted from it. Give the folder that "
                "`unlearn train --defense federated` wrote, or use retrain."
            )
        about = read_json(folder / FEDERATION)
        try:
            if about["schema"] != SCHEMA:
                raise ValueError
            plan = {**about["plan"], "options": TrainingOptions(**about["plan"]["options"])}
            clients = {str(name): tuple(map(str, records)) for name, records in about["clients"].items()}
            return cls(Plan(**plan), str(about["base_weights"]), clients)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"{folder / FEDERATION} is damaged or of another version ({SCHEMA}). Train again.") from None


def write_federation(output: Path, base_weights: str, clients: Clients, plan: Plan, key: RecordKey) -> None:
    """Write which client trained on which records, by keyed hashes only."""
    named = {name: [key.of(record.fingerprint) for record in records] for name, records in clients.items()}
    description = {"schema": SCHEMA, "plan": dataclasses.asdict(plan), "base_weights": base_weights, "clients": named}
    write_json(output / FEDERATION, description)


def clients_that_stay(context: Context, key: RecordKey) -> tuple[SavedFederation, dict[str, list[Record]]]:
    """Load a federation with the clients and records that remain without the forget set.

    Args:
        context: the model with its base, and all records that remain.
        key: the key of the hashes.

    Raises:
        InputError: the model was not trained in a federation, no client is left, or a remaining record was not given.
        IntegrityError: the base is not the federation's.
    """
    saved = SavedFederation.read(context.model_dir)
    assert context.base is not None, "the caller checks needs_base"
    if context.base.digest != saved.base_weights:
        raise IntegrityError(f"{context.base.name} is not the base of this federation. Give that one with --base DIR.")
    gone = {key.of(record.fingerprint) for record in context.forget}
    given = {key.of(record.fingerprint): record for record in context.retain}
    kept = {name: [record for record in records if record not in gone] for name, records in saved.clients.items()}
    kept = {name: records for name, records in kept.items() if records}
    missing = sum(record not in given for records in kept.values() for record in records)
    if missing:
        raise InputError(
            f"{missing} remaining training records were not given, and their clients cannot train again without them. "
            "Name the whole training file with --data."
        )
    if not kept:
        raise InputError("no client would be left to train. Use the base model, which is what remains of this federation.")
    return saved, {name: [given[record] for record in records] for name, records in kept.items()}

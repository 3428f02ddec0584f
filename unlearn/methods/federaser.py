"""FedEraser: replay a federation's rounds without the client by calibrated updates."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.defenses.federation import (
    ROUNDS,
    LocalTraining,
    Plan,
    SavedFederation,
    clients_that_stay,
    exchanged,
    keep_round,
    put_weights,
    read_round,
    write_federation,
)
from unlearn.defenses.flower import Reply, Weights, aggregate, require_flower
from unlearn.training.log import LOG_NAME, LogWriter
from unlearn.training.lora import in_form_of
from unlearn.training.method import Context, Cost, Outcome, WeightEdit
from unlearn.training.options import TrainingResult
from verify.data.identity import RecordKey
from verify.errors import InputError
from verify.io.arguments import checked
from verify.io.progress import phase
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel
from verify.training.adapters import attach_adapter


@checked
@dataclass(frozen=True)
class FedEraser(WeightEdit):
    """Replay the stored rounds without the client: short local training gives each update's direction, the stored one its length.

        w_{r+1} = w_r + sum_k (n_k / n) |U_{r,k}| U'_{r,k} / |U'_{r,k}|,   per weight tensor and kept client k

    U_{r,k} is the update that client k sent in round r while the deleted client took part, U'_{r,k} its new update from w_r after
    fewer local epochs. The first round started from the base model, before the client had any influence, so its updates are reused
    unchanged. Liu et al. 2021 (FedEraser, IWQoS 2021), equations 3 and 4.

    Do not take it for exact: the lengths were determined in the client's presence, and nothing bounds how much they reveal of it;
    audit the result. It deletes whole clients only, and needs the updates that `keep_updates` stored beside the model.

    Attributes:
        calibration: share of the local epochs that a client trains to find a direction.
        interval: use every n-th stored round; a larger one is cheaper and ends nearer to the base.
    """

    calibration: float = 0.5
    interval: int = 1

    idea: ClassVar[str] = "replay stored rounds without the client: new directions, old lengths"
    paper: ClassVar[str] = "Liu et al. 2021 (FedEraser, IWQoS 2021), equations 3 and 4"
    cost: ClassVar[Cost] = "a share of a retraining"
    used_options: ClassVar[frozenset[str] | None] = frozenset({"seed", "bf16"})
    reads_holdout: ClassVar[bool] = False
    needs_base = True

    def __post_init__(self) -> None:
        if not 0 < self.calibration <= 1:
            raise InputError(f"--calibration must lie above 0 and at most at 1, got {self.calibration}. 0.5 is the default.")
        if self.interval < 1:
            raise InputError(f"--interval must be at least 1 (every stored round), got {self.interval}.")

    def edit(self, context: Context) -> Outcome:
        """Calibrate the stored rounds.

        Raises:
            InputError: the model was not trained in a federation, its updates were not stored, a client would keep some of its
                records, or a remaining record was not given.
            IntegrityError: the base is not the federation's, or a stored round was changed.
        """
        require_flower()
        key, base, began = RecordKey.load(), context.base, time.monotonic()
        assert base is not None, "the caller checks needs_base"
        saved, clients = clients_that_stay(context, key)
        assert context.model_dir is not None, "`clients_that_stay` read the federation there"
        rounds = _kept_rounds(context.model_dir, saved, clients)[:: self.interval]
        model = attach_adapter(base.model, saved.plan.options)
        around = dataclasses.replace(base, model=model)
        shorter = dataclasses.replace(saved.plan, local_epochs=saved.plan.local_epochs * self.calibration)
        local = LocalTraining(
            list(clients.values()), list(clients), shorter, context.work_dir, context.work_dir / "base", torch.get_num_threads()
        )
        weights, done = exchanged(model), [0, 0]
        with phase("calibrating the rounds", main=True) as progress:
            for number, folder in enumerate(rounds):
                progress(number / len(rounds))
                replies = _calibrated(local, around, folder, number, weights)
                keep_round(context.output_dir, number, list(clients), weights, replies)
                done = [done[0] + sum(reply.steps for reply in replies), done[1] + sum(reply.tokens for reply in replies)]
                weights = aggregate(number, replies)
        put_weights(model, weights)
        _write_records(context, base, saved, clients, model, key)
        epochs = (len(rounds) - 1) * shorter.local_epochs
        result = TrainingResult(done[0], epochs, None, done[1], time.monotonic() - began)
        facts = {"clients_deleted": len(saved.clients) - len(clients), "rounds_calibrated": len(rounds) - 1}
        return Outcome(in_form_of(context.loaded.model, model, context.options.seed), result, facts)


def _kept_rounds(folder: Path, saved: SavedFederation, clients: Mapping[str, Sequence[Any]]) -> list[Path]:
    """Return the folders of the stored rounds, in order.

    Raises:
        InputError: a client would keep some of its records, or no rounds are stored.
    """
    partly = sum(len(clients[name]) < len(saved.clients[name]) for name in clients)
    if partly:
        raise InputError(
            f"{partly} clients would lose some of their records and keep others; federaser deletes whole clients only. "
            "Use client_retrain, or name all records of the client."
        )
    found = sorted((folder / ROUNDS).glob("round-*"), key=lambda path: int(path.name.removeprefix("round-")))
    if not found:
        raise InputError(
            f"{folder} holds no updates of its clients (it was trained with --keep-updates False). Use client_retrain."
        )
    return found


def _calibrated(local: LocalTraining, around: LoadedModel, folder: Path, number: int, weights: Weights) -> list[Reply]:
    """Calibrate the remaining clients' updates of one round."""
    start, old = read_round(folder, local.names)
    if number == 0:
        # The deleted client had no influence on the weights that the first round started from.
        return [dataclasses.replace(reply, steps=0, tokens=0) for reply in old]
    replies = []
    for reply in old:
        new = local.here(around, reply.partition, number, weights)
        calibrated = {
            name: value + of_length(new.weights[name] - value, reply.weights[name] - start[name]) for name, value in weights.items()
        }
        replies.append(dataclasses.replace(new, weights=calibrated))
    return replies


def of_length(direction: Tensor, length: Tensor) -> Tensor:
    """Rescale a direction to a length: |length| direction / |direction|, zero where there is no direction."""
    norm = direction.norm()
    return direction * (length.norm() / norm) if norm > 0 else torch.zeros_like(direction)


def _write_records(
    context: Context, base: LoadedModel, saved: SavedFederation, clients: Mapping[str, Sequence[Any]], model: Any, key: RecordKey
) -> None:
    """Write the federation file and training log of the remaining clients and records, for the next deletion."""
    plan: Plan = saved.plan
    write_federation(context.output_dir, base.digest, clients, plan, key)
    records = [record for found in clients.values() for record in found]
    log = LogWriter.for_run(
        context.output_dir / LOG_NAME,
        records,
        plan.options,
        key,
        tokenizer=base.tokenizer_digest,
        start_weights=base.digest,
        defense="federated",
        device=next(model.parameters()).device,
    )
    log.begin(0)
    log.end(weights_digest(model))

"""Adapter to Flower: FedAvg aggregation, and its simulation engine (on Ray) for parallel clients.

Flower and Ray send usage statistics unless that is turned off before they are imported; `require_flower` turns it off.
"""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verify.errors import RunError
from verify.io.extras import missing

SILENT = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
HOME = "FLWR_HOME"

Weights = Mapping[str, Tensor]
"""What clients and server exchange: the trained parameters by name."""


@dataclass(frozen=True, eq=False)
class Reply:
    """A client's reply.

    Attributes:
        partition: the client's index among all clients, from 0.
        weights: its parameters after local training.
        examples: number of records it trained on.
        steps, tokens: steps and tokens of its local training.
    """

    partition: int
    weights: Weights
    examples: int
    steps: int
    tokens: int


Exchange = Callable[[int, Weights], Sequence[Reply]]
"""One round: from the round's number and initial weights to the clients' replies, in any order."""


def require_flower(engine: str = "in-process") -> None:
    """Raise InputError where Flower, or for its simulation engine Ray, is not installed."""
    os.environ.update(SILENT)
    try:
        import flwr.serverapp.strategy
        import flwr.simulation  # noqa: F401
    except ImportError as error:
        raise missing(f"--defense federated (Flower: {error.msg})", "federated") from None
    telemetry = sys.modules.get("flwr.supercore.telemetry")
    if telemetry is not None:
        # Where Flower was imported earlier, it has read the environment already.
        vars(telemetry)["FLWR_TELEMETRY_ENABLED"] = "0"
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if engine == "simulation":
        try:
            import ray  # noqa: F401
        except ImportError:
            raise missing("--engine simulation (Ray)", "federated") from None


def aggregate(round_number: int, replies: Sequence[Reply]) -> dict[str, Tensor]:
    """Average the clients' weights, weighted by their records (FedAvg; McMahan et al. 2017, algorithm 1).

    Replies are sorted by partition first: floating-point sums depend on their order, and replies arrive in any order.
    """
    require_flower()
    from flwr.app import DEFAULT_TTL, Message, MessageType, Metadata, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg

    messages = []
    for reply in sorted(replies, key=lambda reply: reply.partition):
        content = {"arrays": _arrays(reply.weights), "metrics": MetricRecord({"num-examples": reply.examples})}
        # A message from the client's node to the server, outside any run that Flower itself started.
        sent = Metadata(0, "", reply.partition + 1, 0, "", str(round_number), 0.0, DEFAULT_TTL, MessageType.TRAIN)
        messages.append(Message(content=RecordDict(content), metadata=sent))
    arrays, _ = FedAvg().aggregate_train(round_number, messages)
    assert arrays is not None, "there is a client in every federation"
    return _tensors(arrays)


def simulate(serve: Callable[[Exchange], None], train: Callable[[int, int, Weights], Reply], clients: int) -> None:
    """Run a federation on Flower's simulation engine: `serve` here, `train` in Ray's processes.

    Args:
        serve: runs all rounds, given the function that exchanges one.
        train: (partition, round, weights) -> reply; it is pickled for other processes, so it holds paths and records, not a model.
        clients: number of clients.

    Raises:
        RunError: a client failed.
    """
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    server, client, ended = ServerApp(), ClientApp(), threading.Event()

    @client.train()  # type: ignore[untyped-decorator]
    def _answer(message: Any, context: Any) -> Any:
        number = int(message.content["config"]["round"])
        reply = train(int(context.node_config["partition-id"]), number, _tensors(message.content["arrays"]))
        return Message(_packed(reply), reply_to=message)

    @server.main()  # type: ignore[untyped-decorator]
    def _main(grid: Any, _: Any) -> None:
        def exchange(number: int, weights: Weights) -> list[Reply]:
            nodes = _all_nodes(grid, clients, ended)
            content = RecordDict({"arrays": _arrays(weights), "config": ConfigRecord({"round": number})})
            asked = [Message(content, dst_node_id=node, message_type="train") for node in nodes]
            waiting, answers = set(grid.push_messages(asked)), []
            while waiting:
                _require_running(ended)
                arrived = list(grid.pull_messages(waiting))
                waiting -= {answer.metadata.reply_to_message_id for answer in arrived}
                answers += arrived
            return [_unpacked(answer) for answer in answers]

        serve(exchange)

    settings = {
        "client_resources": {"num_cpus": 1, "num_gpus": 1.0 if torch.cuda.is_available() else 0.0},
        # A separate Ray: by default it would join the cluster that was last started on this machine, and send the records there.
        "init_args": {"address": "local", "log_to_driver": False, "logging_level": logging.ERROR},
    }
    with _temporary_home():
        try:
            run_simulation(server, client, num_supernodes=clients, backend_config=settings)
        except (RuntimeError, ConnectionError, OSError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError("Flower's simulation engine ended early. Run with --engine in-process, or see Ray's own log.") from error
        finally:
            ended.set()  # the server's thread would otherwise wait for clients that never come


@contextmanager
def _temporary_home() -> Iterator[None]:
    """Redirect Flower's home folder, where it writes an identifier of this machine even with telemetry off."""
    before = os.environ.get(HOME)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[HOME] = folder
        try:
            yield
        finally:
            os.environ.pop(HOME)
            if before is not None:
                os.environ[HOME] = before


def _all_nodes(grid: Any, clients: int, ended: threading.Event) -> list[int]:
    """Wait until every client's node has registered, which they do while the server already runs."""
    while len(nodes := list(grid.get_node_ids())) < clients:
        _require_running(ended)
    return nodes


def _require_running(ended: threading.Event) -> None:
    """Wait briefly; raise RunError where the engine has ended."""
    if ended.wait(0.05):
        raise RunError("Flower's simulation engine ended before its clients had answered.")


def _packed(reply: Reply) -> Any:
    from flwr.app import MetricRecord, RecordDict

    numbers = {"partition": reply.partition, "num-examples": reply.examples, "steps": reply.steps, "tokens": reply.tokens}
    return RecordDict({"arrays": _arrays(reply.weights), "metrics": MetricRecord(numbers)})


def _unpacked(answer: Any) -> Reply:
    if answer.has_error():
        raise RunError(
            f"a client failed in the simulation (Flower's code {answer.error.code}). Run --engine in-process to see why."
        )
    numbers = answer.content["metrics"]
    weights = _tensors(answer.content["arrays"])
    return Reply(int(numbers["partition"]), weights, int(numbers["num-examples"]), int(numbers["steps"]), int(numbers["tokens"]))


def _arrays(weights: Weights) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(np.ascontiguousarray(value.detach().cpu().numpy())) for name, value in weights.items()})


def _tensors(arrays: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in arrays.items()}

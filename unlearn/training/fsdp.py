"""Models sharded over several processes (FSDP2): every parameter is a `DTensor`, and each process holds one shard of it."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unlearn.training import distributed
from verify.errors import InputError
from verify.models.digests import whole

CONFIGURATIONS = Path(__file__).parents[1] / "configs"


def is_sharded(model: nn.Module) -> bool:
    """Return whether any parameter is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(parameter: Tensor) -> Tensor:
    """Copy this process's shard to main memory."""
    held = parameter.detach()
    return (held.to_local() if isinstance(held, DTensor) else held).to("cpu", copy=True)


@torch.no_grad()
def put(parameter: Tensor, value: Tensor, kept_whole: bool) -> None:
    """Write back what `local` returned.

    Args:
        parameter: sharded or not.
        value: a whole tensor, or this process's shard.
        kept_whole: whether `value` is whole, as taken before the model was sharded.
    """
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    if kept_whole:  # every process has the whole value and cuts out its own shard, so nothing is sent
        part = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
        value = part.to_local()
    parameter.to_local().copy_(value)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """Gather all weights in the main process's memory, one whole tensor at a time; empty in the other processes.

    Collective: all processes must call it.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        value = whole(tensor.detach())
        if distributed.is_main():
            found[name] = value.cpu()
    return found


def configuration(name: str) -> Path:
    """Return a configuration file for `accelerate launch --config_file`.

    Raises:
        InputError: there is none of that name.
    """
    names = sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml"))
    if name not in names:
        raise InputError(f"there is no configuration {name}. There are: {', '.join(names)}.")
    return CONFIGURATIONS / f"{name}.yaml"

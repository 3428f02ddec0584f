"""Models whose weights lie in parts on several processes (FSDP2): every parameter is a `DTensor`, of which each holds its share."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from unlearn.training import distributed
from verify.errors import InputError
from verify.models.digests import whole

CONFIGURATIONS = Path(__file__).parent / "configs"


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter lies in parts."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(parameter: Tensor) -> Tensor:
    """A copy, in main memory, of what this process holds."""
    held = parameter.detach()
    return (held.to_local() if isinstance(held, DTensor) else held).to("cpu", copy=True)


@torch.no_grad()
def put(parameter: Tensor, value: Tensor, kept_whole: bool) -> None:
    """Write back what `local` gave, also where it was taken before the model was put into parts."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    if kept_whole:  # every process has the same value and takes its own part of it, so nothing is sent
        part = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
        value = part.to_local()
    parameter.to_local().copy_(value)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """All weights, in the main memory of the main process; empty in the others. One tensor at a time is whole on the devices.

    All processes call this together.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        value = whole(tensor.detach())
        if distributed.is_main():
            found[name] = value.cpu()
    return found


def configuration(name: str) -> Path:
    """The file that `accelerate launch --config_file` takes.

    Raises:
        InputError: there is none by that name.
    """
    names = sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml"))
    if name not in names:
        raise InputError(f"there is no configuration {name}. There are: {', '.join(names)}.")
    return CONFIGURATIONS / f"{name}.yaml"

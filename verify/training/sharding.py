"""Parameters sharded over several processes (FSDP2): reading and writing one process's part of a `DTensor`."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


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

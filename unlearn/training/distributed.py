"""Multi-process runs (`accelerate launch`): ranks, barriers and reductions; the main process writes.

Only the main process writes the files of a run; the other processes read them afterwards.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from verify.errors import RunError

if TYPE_CHECKING:
    from accelerate import PartialState

Value = TypeVar("Value")


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's rank, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Return whether this process is the main one, which writes."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes have reached this call."""
    if count() > 1:
        _connected().wait_for_everyone()


def agreed(value: Value) -> Value:
    """Broadcast the main process's value: measurements may differ in the last bit, decisions must not."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _connected()
    shared: list[Value] = broadcast_object_list([value])
    return shared[0]


def total(value: int) -> int:
    """Sum a value over all processes."""
    if count() == 1:
        return value
    from accelerate.utils import gather_object

    _connected()
    return sum(gather_object([value]))


def disconnect() -> None:
    """Destroy the process group at the end of a command; a process that ends with it open may be aborted by its own threads."""
    if count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def _connected() -> "PartialState":
    """Return the process group, which on machines without an accelerator must be requested explicitly."""
    import torch
    from accelerate import PartialState

    device = torch.accelerator.current_accelerator(check_available=True)
    state = PartialState(cpu=device is None or device.type == "mps")  # a Mac has one device for all processes
    if state.num_processes != count():
        raise RunError(
            f"{count()} processes were started, but accelerate links {state.num_processes} of them. "
            "Start them by accelerate launch, or on CPUs by python -m torch.distributed.run."
        )
    return state


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block in the main process first, then in the others."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()

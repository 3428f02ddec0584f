"""Several processes of one run (`accelerate launch`): one writes, all wait for it.

The files of a run are written by the main process alone; what the others need of them they read afterwards.
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
    """How many processes take part."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        _connected().wait_for_everyone()


def agreed(value: Value) -> Value:
    """The main process's value, in all of them: what each has measured may differ in the last bit, what follows must not."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _connected()
    shared: list[Value] = broadcast_object_list([value])
    return shared[0]


def total(value: int) -> int:
    """The sum over all processes, in each of them."""
    if count() == 1:
        return value
    from accelerate.utils import gather_object

    _connected()
    return sum(gather_object([value]))


def part() -> None:
    """Undo the link at the end of a command; a process that ends with it still open may be aborted by its own threads."""
    if count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def _connected() -> "PartialState":
    """The link between the processes; on a machine without an accelerator it has to be asked for, or nobody would wait."""
    import torch
    from accelerate import PartialState

    device = torch.accelerator.current_accelerator(check_available=True)
    state = PartialState(cpu=device is None or device.type == "mps")  # a Mac has one device, whatever the processes
    if state.num_processes != count():
        raise RunError(
            f"{count()} processes were started, but accelerate links {state.num_processes} of them. "
            "Start them by accelerate launch, or on CPUs by python -m torch.distributed.run."
        )
    return state


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block in the main process, then in the others."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()

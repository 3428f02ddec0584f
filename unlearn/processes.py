"""Several processes of one run (`accelerate launch`): one writes, all wait for it.

The files of a run are written by the main process alone; what the others need of them they read afterwards.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

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
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def agreed(value: Value) -> Value:
    """The main process's value, in all of them: what each has measured may differ in the last bit, what follows must not."""
    if count() == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState()
    shared: list[Value] = broadcast_object_list([value])
    return shared[0]


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block in the main process, then in the others."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()

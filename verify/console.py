"""What both command lines share: exit statuses, errors without a traceback, and a progress bar."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verify.errors import InputError, VerifyError

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def run_command(command: Callable[[], int], libraries: bool = True) -> int:
    """Run a command and turn what it raises into a message on standard error and an exit status.

    Args:
        command: what to run.
        libraries: whether it uses transformers, which is then kept quiet; importing it takes a second.

    Returns:
        the command's own status; 2 for what the user can mend, 1 for any other failure.
    """
    if libraries:
        quiet_libraries()
    try:
        return command()
    except VerifyError as error:
        return say_error(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint, where there is one", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. What Python still holds goes nowhere, or it would complain at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except MemoryError:
        print("error: out of memory. Use a smaller --batch-size, or --dtype bfloat16.", file=sys.stderr)  # noqa: T201
        return FAILURE


def say_error(error: VerifyError) -> int:
    """Print an error without a traceback, and return its exit status."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return USAGE_ERROR if isinstance(error, InputError) else FAILURE


def quiet_libraries() -> None:
    """Libraries report through their own bars and telemetry; a command has one voice and calls nobody."""
    quiet_imports()
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def quiet_imports() -> None:
    """What has to be said before the libraries are imported; it imports none of them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[str, float], None]]:
    """A bar with the phase, the time spent and the time left; yields what to call with phase and share done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task: TaskID = bar.add_task(description, total=1.0)
        yield lambda phase, share: bar.update(task, description=phase, completed=share)

"""Console helpers of both command lines: exit statuses, errors without a traceback, and a progress bar."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verify.errors import InputError, VerifyError

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def run_command(command: Callable[[], int]) -> int:
    """Run a command and turn its errors into a message on standard error and an exit status.

    Returns:
        the command's own status; 2 for invalid input, 1 for any other failure, 130 for an interrupt.
    """
    try:
        return command()
    except VerifyError as error:
        return say_error(error)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint, if there is one", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, say) has closed the pipe. Python flushes standard output at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except MemoryError:
        print("error: out of memory. Use a smaller --batch-size, or --dtype bfloat16.", file=sys.stderr)  # noqa: T201
        return FAILURE


def say_error(error: VerifyError) -> int:
    """Print an error without a traceback, and return its exit status."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return USAGE_ERROR if isinstance(error, InputError) else FAILURE


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[str, float], None]]:
    """Show a bar with the phase, the time spent and the time left; yields a callback `(phase, fraction_done)`."""
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

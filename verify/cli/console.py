"""Console helpers of both command lines: exit statuses, errors without a traceback, and a progress bar."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from verify.errors import InputError, VerifyError
from verify.io.progress import listening

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
SPEED_PERIOD = 600
"""Seconds over which the time left is estimated; a step of a training, or a model of an audit, may take minutes."""


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
    except OSError as error:
        if error.filename is None:  # not about a path that somebody named
            raise
        reason = (error.strerror or type(error).__name__).lower()
        print(f"error: {error.filename} cannot be used: {reason}. Give a path that can be read or written.", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    except MemoryError:
        print("error: out of memory. Use a smaller --batch-size, or --dtype bfloat16.", file=sys.stderr)  # noqa: T201
        return FAILURE


def say_error(error: VerifyError) -> int:
    """Print an error without a traceback, and return its exit status."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return USAGE_ERROR if isinstance(error, InputError) else FAILURE


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[str, float], None]]:
    """Show how far a command is: phase, time spent and time left, on standard error, and only where that is a terminal.

    A first line follows the yielded callback `(phase, fraction_done)`, which speaks of the whole command, a second one what the
    loops below report (`verify.io.progress`). Either is shown from its first report on.
    """
    if not _watched():
        yield lambda *_: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    # Printed lines go above the bar where a terminal shows them, but never from a file or pipe to the terminal.
    shown = Progress(
        *columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), speed_estimate_period=SPEED_PERIOD
    )
    with shown as bar:
        whole, part = bar.add_task(description, total=1.0), bar.add_task("", total=1.0, visible=False)
        heard = False

        def hear(phase: str, share: float) -> None:
            nonlocal heard
            heard = True
            bar.update(whole, description=phase, completed=share, visible=True)

        def overhear(phase: str, share: float) -> None:
            task = bar.tasks[part]
            if not heard:
                bar.update(whole, visible=False)
            if phase != task.description or share < task.completed:  # another phase, with a speed of its own
                bar.reset(part, total=1.0)
            bar.update(part, description=phase, completed=share, visible=True)

        with listening(overhear):
            yield hear


def _watched() -> bool:
    """Return whether somebody watches: standard error is a terminal that can redraw a line, and this is the main process."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") and os.environ.get("RANK", "0") == "0"

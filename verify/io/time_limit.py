"""Time limit for other people's code that runs in this process, such as a chat template of a model's folder.

One watching thread raises an exception in every thread whose block has run too long. It is raised between two steps of the
interpreter: a single call into C code cannot be interrupted.
"""

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERVAL = 0.2
"""Seconds between two looks of the watching thread."""


class TimeLimitError(Exception):
    """The block ran longer than it may."""


class _Watch:
    """Deadlines of the threads that are in a limited block."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.deadlines: dict[int, float] = {}
        self.thread: threading.Thread | None = None

    def begin(self, thread: int, deadline: float) -> None:
        with self.lock:
            self.deadlines[thread] = deadline
            if self.thread is None:
                self.thread = threading.Thread(target=self._look, daemon=True, name="time limit")
                self.thread.start()

    def end(self, thread: int) -> None:
        with self.lock:
            if self.deadlines.pop(thread, None) is None:
                _raise_in(thread, None)  # it was raised, perhaps only after the block had ended: then it must not come later

    def _look(self) -> None:
        while True:
            time.sleep(INTERVAL)
            with self.lock:
                now = time.monotonic()
                for thread in [thread for thread, deadline in self.deadlines.items() if deadline < now]:
                    del self.deadlines[thread]
                    _raise_in(thread, TimeLimitError)


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    """Let a thread raise an exception at its next step; None takes back one that was not raised yet."""
    given: ctypes.py_object[Any] = ctypes.py_object() if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)


_watch = _Watch()


def _forget() -> None:
    """Forget the deadlines in a forked process, which has no watching thread."""
    global _watch
    _watch = _Watch()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the time of a `with` block; blocks may not be nested in one thread.

    Raises:
        TimeLimitError: from within the block, once it has run so long.
    """
    thread, watch = threading.get_ident(), _watch
    watch.begin(thread, time.monotonic() + seconds)
    try:
        yield
    finally:
        watch.end(thread)

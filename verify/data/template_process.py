"""A process of its own for chat templates, with bounded time and memory; see `verify.data.template_renderer`.

It is started with the first chat, serves all that follow, and is started again after a template that had to be ended.
"""

import atexit
import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.data.template_renderer import ANSWER, LENGTH
from verify.errors import RunError
from verify.io.time_limit import TimeLimitError

PROGRAM = Path(__file__).with_name("template_renderer.py")
STARTING_SECONDS = 300.0
"""Time that starting may take, on a machine that does much else."""
MEMORY = 1 << 29
"""Bytes that rendering may take beyond what the process starts with; a book as a chat takes some ten million."""
GRACE = 5.0
"""Seconds after which the process ends itself, where nobody ended it in time."""


class TemplateFailedError(Exception):
    """What a template raised.

    Attributes:
        kind: name of the error's class. The message may repeat the chat.
    """

    def __init__(self, kind: str, said: str) -> None:
        """Take the name of the error's class and its message."""
        super().__init__(said)
        self.kind = kind


class TemplateMemoryError(Exception):
    """A template needed more memory than it may take."""


class TemplateSizeError(Exception):
    """A template made a longer text than it may."""


class TemplateProcess:
    """The process, and what goes through its pipes; one request at a time, whatever thread it comes from."""

    def __init__(self) -> None:
        """Prepare to start the process at the first request."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(
        self,
        template: Any,
        special: Mapping[str, Any],
        turns: Sequence[Any],
        cue: bool,
        arguments: Mapping[str, Any],
        seconds: float,
        largest: int,
    ) -> str:
        """Render a chat.

        Args:
            template: the tokenizer's chat template, or several by name.
            special: its special tokens by name.
            turns, cue, arguments: as for `apply_chat_template`.
            seconds, largest: limits of the time, and of the text in characters.

        Raises:
            TimeLimitError, TemplateMemoryError, TemplateSizeError: it took more than it may.
            TemplateFailedError: the template raised an error.
            RunError: the process cannot be started.
        """
        request = {"template": template, "special": dict(special), "turns": list(turns), "cue": cue, "arguments": dict(arguments)}
        content = pickle.dumps({**request, "largest": largest, "seconds": seconds + GRACE})
        with self._lock:
            process = self._started()
            done, answer = self._asked(process, content, seconds)
        if done:
            return answer.decode("utf-8", "surrogatepass")
        kind, _, said = answer.decode("utf-8", "surrogatepass").partition("\n")
        if kind in ("MemoryError", "OverflowError") and not said:
            raise TemplateMemoryError if kind == "MemoryError" else TemplateSizeError
        raise TemplateFailedError(kind, said)

    def end(self) -> None:
        """End the process; a later request starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the running process; start one where there is none."""
        if self._process is None or self._process.poll() is not None:
            self.end()
            # -P: modules beside the program must not be taken for others of the same name.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            try:
                _write(self._process, LENGTH.pack(MEMORY))
                _read(self._process, ANSWER.size, time.monotonic() + STARTING_SECONDS)
            except (TimeLimitError, EOFError, OSError):
                self.end()
                raise RunError(
                    f"the process that renders chat templates could not be started. Run `{sys.executable} -P {PROGRAM}` for its "
                    "error message; it needs the library transformers."
                ) from None
        return self._process

    def _asked(self, process: subprocess.Popen[bytes], content: bytes, seconds: float) -> tuple[bool, bytes]:
        """Send a request and wait for the answer; end the process where none comes."""
        deadline = time.monotonic() + seconds
        try:
            _write(process, LENGTH.pack(len(content)) + content)
            done, length = ANSWER.unpack(_read(process, ANSWER.size, deadline))
            return done, _read(process, length, deadline + seconds)
        except (EOFError, OSError):  # the system ended it: it had no memory left to say so
            self.end()
            raise TemplateMemoryError from None
        except BaseException:  # also an interrupt: the answer to this request must not be taken for one to the next
            self.end()
            raise


def _write(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None, "a pipe was asked for"
    process.stdin.write(content)
    process.stdin.flush()


def _read(process: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    """Read a number of bytes.

    Raises:
        TimeLimitError: they did not come in time. EOFError: the process ended.
    """
    assert process.stdout is not None, "a pipe was asked for"
    found, source = bytearray(), process.stdout.fileno()
    while len(found) < count:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeLimitError
        part = os.read(source, count - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


_process = TemplateProcess()


def template_process() -> TemplateProcess:
    """Return this process's own."""
    return _process


def _forget() -> None:
    """Forget the process in a forked one, which starts its own: two must not share its pipes."""
    global _process
    _process = TemplateProcess()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _process.end())

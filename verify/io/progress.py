"""Progress of long work, from the loops that do it to the code that shows it.

A loop opens a phase and reports the share of it that is done. Nothing happens unless something listens, as the commands do with
their bar; no function between the two has to pass anything on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float], None]
"""Called with the name of the current phase and the share of it that is done, in [0, 1]."""


class Phase:
    """A phase of the work that is in progress; call it with the share that is done.

    Attributes:
        name: what is being done.
        outer: the phase that this one is a part of, or None.
        main: whether it is the main work of one item of the outer phase.
    """

    def __init__(self, name: str, outer: "Phase | None", main: bool) -> None:
        self.name, self.outer, self.main = name, outer, main
        self.done, self.span = 0.0, 0.0

    def __call__(self, share: float, span: float = 0.0) -> None:
        """Report the share that is done; `span` is the share of the item that comes next, whose main phase fills it."""
        self.done, self.span = share, span
        self._report(share)

    def _report(self, share: float) -> None:
        """Tell the listener, or move the phase around this one."""
        if self.outer is None:
            listener = _listener.get()
            if listener is not None:
                listener(self.name, min(max(share, 0.0), 1.0))
        elif self.main and self.outer.span:
            self.outer._report(self.outer.done + self.outer.span * share)


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_phase: ContextVar[Phase | None] = ContextVar("phase", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass the progress of all phases within this block to a listener."""
    before = _listener.set(listener), _phase.set(None)
    try:
        yield
    finally:
        _listener.reset(before[0])
        _phase.reset(before[1])


@contextmanager
def phase(name: str, *, main: bool = False) -> Iterator[Phase]:
    """Open a phase for this block.

    A phase inside another is a part of it: only the outermost reports, so that what is left is that of the whole.

    Args:
        name: what is being done, in a word or two; no content of records.
        main: whether it is the main work of one item of the phase around it, which then advances with it.
    """
    current = Phase(name, _phase.get(), main)
    before = _phase.set(current)
    try:
        current(0.0)
        yield current
    finally:
        _phase.reset(before)

"""kill -9 in the cleaning, at moments that are counted and not drawn: before every step by which it changes a file or the ledger.

Cleaning takes a fraction of a second of minutes, so that random moments hardly ever fall into it. Here the process kills itself:
Python tells an audit hook before it opens a file for writing, renames, removes or makes one, and the n-th time is the last.
"""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from sys import addaudithook
from typing import Any

import kills
from kills import SIGNING, Figures, after_a_kill, at_the_end, in_child, new_weights, world_with_a_log

from unlearn.requests.ledger.ledger import Ledger
from verify.certificate.statements import make_key
from verify.schema.deletion_record import DeletionRecord

CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
COUNT = "steps.txt"
"""How many steps an undisturbed cleaning took; beside the world."""


@dataclass
class Steps:
    """Counts the steps of both cleanings, before and after the old weights are retired, and ends the process before one of them.

    Attributes:
        world: files outside of it do not count.
        last: the step that is not taken; 0 for none.
        taken: how many were.
    """

    world: Path
    last: int = 0
    taken: int = 0
    cleaning: bool = False

    def count(self) -> None:
        """In a child: from now on, every step of a cleaning is counted."""
        real_purge, real_advance = kills.purge_batch, Ledger.advance_each

        def purge_batch(*given: Any, **named: Any) -> Any:
            self.cleaning = True
            found = real_purge(*given, **named)
            self.cleaning = False
            return found

        def advance_each(*given: Any) -> Any:
            self.step()
            found = real_advance(*given)
            self.step()  # it is noted, and nobody was told
            return found

        setattr(kills, "purge_batch", purge_batch)  # noqa: B010 - typed as a function of a module
        setattr(Ledger, "advance_each", advance_each)  # noqa: B010 - typed as a method
        addaudithook(self.heard)

    def heard(self, event: str, details: Any) -> None:
        """One thing that Python is about to do."""
        if not self.cleaning:
            return
        writes = event == "open" and isinstance(details[2], int) and details[2] & WRITING and self.inside(details[0])
        if event in CHANGES or writes:
            self.step()

    def inside(self, place: Any) -> bool:
        return isinstance(place, (str, Path)) and str(place).startswith(str(self.world))

    def step(self) -> None:
        """One step is about to be taken, or the process ends here."""
        if not self.cleaning:
            return
        self.taken += 1
        if self.taken == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in_cleaning(built: Path, folder: Path, every: int = 1, tell: Callable[[str], None] = lambda _: None) -> Figures:
    """Kill before every step of the cleaning, in a deletion of its own each; and before the second step of going on.

    Args:
        built: a world.
        folder: a place for copies of it.
        every: only every so manieth step.
        tell: told how far it is.
    """
    make_key(folder / SIGNING)
    world = world_with_a_log(built, folder / "cleaning")
    assert in_child(world, None, _stopping)
    shutil.copytree(world, folder / "deployed", symlinks=True)
    assert in_child(world, None, _writing_down(Steps(world)))
    steps, weights, cleaned = int((folder / COUNT).read_text()), new_weights(world), _cleaned(world)
    figures = Figures()
    for last in range(1, steps + 1, every):
        shutil.rmtree(world)
        shutil.copytree(folder / "deployed", world, symlinks=True)
        for number in (last, 2):
            if in_child(world, None, Steps(world, number).count):
                continue  # less than two steps were left
            state, lost = after_a_kill(world)
            counted = {**figures.states, state: figures.states.get(state, 0) + 1}
            figures = replace(figures, kills=figures.kills + 1, states=counted, lost=figures.lost + lost)
        assert in_child(world, None)
        figures = at_the_end(world, figures, weights)
        figures = replace(figures, different=figures.different + (_cleaned(world) != cleaned))
        tell(f"killed before step {last} of {steps} of the cleaning")
    return figures


def _stopping() -> None:
    """In a child: lead it to the cleaning, and no further."""

    def stop(*_: Any, **__: Any) -> None:
        os._exit(0)

    setattr(kills, "purge_batch", stop)  # noqa: B010 - typed as a function of a module


def _writing_down(steps: Steps) -> Callable[[], None]:
    """In a child: count, and say how many there were at the end."""

    def prepare() -> None:
        steps.count()
        real = kills.close_request

        def close_request(*given: Any, **named: Any) -> Any:
            (steps.world.parent / COUNT).write_text(str(steps.taken))
            return real(*given, **named)

        setattr(kills, "close_request", close_request)  # noqa: B010 - typed as a function of a module

    return prepare


def _cleaned(world: Path) -> tuple[Mapping[str, int], Any, Any]:
    """What the record says was removed, stays and is out of service."""
    (path,) = (world / "deletions").glob("B-*/deletion.json")
    record = DeletionRecord.load(path)
    return record.removed, record.residual, record.retired

"""Judgement of one input: it is read correctly, refused in words, or exposes a fault.

A member of a family is a call of a public entry point with one input. The correct outcome is written beside the input and follows
from the input alone: a check of the result against an answer known beforehand, and the words that a refusal must contain.
"""

import re
import signal
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.misread.world import Bench, CommandRefusedError
from verify.errors import VerifyError

Outcome = Literal["read", "refused", "misread", "crashed", "refused wrongly", "refused unclearly", "disclosed"]
FAULTS: tuple[Outcome, ...] = ("misread", "crashed", "refused wrongly", "refused unclearly", "disclosed")
SHOWN = 200
"""Number of characters of the result that are kept."""
LONGEST = 30.0
"""Seconds that one input may take; a longer call counts as hung, which is a crash."""


@dataclass(frozen=True)
class Member:
    """One input.

    Attributes:
        name: what is special about it, without any path, so that lists of members can be compared.
        attempt: passes the input to a public entry point and returns the result.
        right: returns whether the result is correct; None where no result is correct.
        refusal: pattern that the message of a refusal must match; None where the input is valid and a refusal wrong.
        private: texts that no message may repeat.
    """

    name: str
    attempt: Callable[[], Any]
    right: Callable[[Any], bool] | None = None
    refusal: str | None = None
    private: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Inputs of one kind.

    Attributes:
        case: number of the field case that the kind comes from.
        name: name of the kind.
        members: generates the inputs.
        quick: number of members in the fast subset.
    """

    case: int
    name: str
    members: Callable[["Bench"], Iterable[Member]]
    quick: int = 2


@dataclass(frozen=True)
class Judged:
    """A judged member.

    Attributes:
        family, member: the family, and the member's name.
        outcome: the outcome.
        said: the message of a refusal, the last line of a traceback, or the result.
    """

    family: Family
    member: str
    outcome: Outcome
    said: str


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a block that runs longer."""

    def over(_: int, __: types.FrameType | None) -> None:
        raise TimeoutError(f"still running after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(family: Family, member: Member) -> Judged:
    """Attempt one member and compare the outcome with the correct one."""
    try:
        with at_most(LONGEST):
            found = member.attempt()
    except (VerifyError, CommandRefusedError) as error:
        said = str(error)
        return Judged(family, member.name, _refused(member, said), " ".join(said.split()))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any other exception is a fault
        last = traceback.format_exception_only(error)[-1].strip()
        return Judged(family, member.name, "crashed", f"{last} at {_place(error)}")
    right = member.right is not None and member.right(found)
    return Judged(family, member.name, "read" if right else "misread", " ".join(str(found).split())[:SHOWN])


def _refused(member: Member, said: str) -> Outcome:
    if any(text in said for text in member.private):
        return "disclosed"
    if member.refusal is None:
        return "refused wrongly"
    known = re.search(member.refusal, said, re.IGNORECASE | re.DOTALL) is not None
    return "refused unclearly" if not known or "Traceback" in said else "refused"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "no frame"

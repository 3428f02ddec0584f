"""Distances of a recorded state from executions on this machine, for logs of other hardware or software.

A segment is executed eight times: once for its digests, once more for its state, twice in another order of summation (the second
time with another number of threads), once for each of two places where a forget record is put back, and once for each control.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from verify.data.encoding import Encoded
from verify.errors import IntegrityError, RunError
from verify.provenance.training_log import TrainingLog
from verify.reexecution.course import Course
from verify.schema.reexecution import Finding, Segment
from verify.schema.tolerance import Deviation
from verify.training.checkpoints import Checkpoint, put_checkpoint
from verify.training.reordering import Reordered
from verify.training.replay import Inspect, replay
from verify.training.state import StateDigest

WEIGHTS = "weights"
FIRST, OTHER_THREADS, CLEAN, TAINTED = 1, 2, 3, 4
"""Seeds of the orders of summation: of both measurements of the noise, and of the controls."""

State = dict[str, dict[str, Tensor]]
"""Part ("weights", or an optimizer's moment) -> parameter name -> values."""
Place = tuple[int, Encoded]
"""Number of a microbatch, and the window of a forget record that is put back into it."""


@dataclass(frozen=True)
class Trial:
    """How a segment is executed.

    Attributes:
        order: seed of the order of summation; None computes as always.
        threads: number of threads; None takes that of the log.
        place: the forget record to put back, or None.
    """

    order: int | None = None
    threads: int | None = None
    place: Place | None = None


def about_states(courses: Iterable[Course]) -> Iterator[Finding]:
    """Name the recorded states that are not kept: without them no distance can be measured."""
    for course in courses:
        ends = [end for _, end in course.segments()[:-1]]
        missing = [str(end) for end in ends if (kept := course.origin(end)) is None or kept.step != end]
        if missing:
            what = f"{course.place} lacks the states of step {', '.join(missing)}, so that no distance from them can be measured."
            yield Finding(
                kind="tolerance", what=f"{what} Restore these checkpoints, or execute without --tolerance on the same software."
            )


def judged(course: Course, segment: Segment) -> tuple[Segment, Finding | None]:
    """Measure how far a segment's end is from the recorded state, and judge it.

    Args:
        course: the log, with all its states kept.
        segment: as executed, with other digests than the recorded ones.

    Returns:
        the segment with its distances, and what contradicts the claim or keeps it from being checked.
    """
    steps = f"Steps {segment.start + 1} to {segment.end} of {segment.place}"
    try:
        found = segment.model_copy(update={"deviations": deviations(course, segment.start, segment.end)})
    except IntegrityError as error:
        return segment, Finding(kind="checkpoint", what=str(error))
    except RunError as error:
        return segment, Finding(kind="tolerance", what=f"{steps} cannot be measured: {error}")
    if found.reading == "different":
        what = f"{steps} end as far from the recorded state as one forget record in one microbatch would move it, or farther."
        return found, Finding(kind="segment", what=what)
    if found.reading == "not testable":
        return found, Finding(kind="tolerance", what=f"{steps} {_not_testable(found)}")
    return found, None


def _not_testable(segment: Segment) -> str:
    """Say why a comparison with a tolerance shows nothing."""
    if all(one.testable for one in segment.deviations):
        return "end farther from the recorded state than noise explains, but nearer than a forget record would move it."
    one = next(one for one in segment.deviations if not one.testable)
    figures = f"in the {one.part}, noise is {one.noise:.2g}, and one forget record in one microbatch moves it by {one.power:.2g}"
    return f"cannot be compared with a tolerance: {figures}, or a control did not read as it must."


def deviations(course: Course, start: int, end: int) -> tuple[Deviation, ...]:
    """Measure distance, noise, power and controls at the end of a segment.

    Args:
        course: the log, with states kept at both ends of the segment.
        start, end: optimizer steps done before and after it.

    Returns:
        one for each part of the state; at the end of the log only the weights count.

    Raises:
        RunError: a loss or weight is not finite.
        IntegrityError: the recorded state is not the one that the log states.
    """

    def run(trial: Trial) -> Mapping[str, float]:
        return distances(bench.executed(start, end, trial), here)

    bench = Bench(course)
    here, threads = bench.executed(start, end, Trial()), _threads(course, end)
    noise = [run(Trial(FIRST)), run(Trial(OTHER_THREADS, 1 if threads > 1 else 2))]
    places = places_of(course, start, end)
    powers = [run(Trial(place=place)) for place in places]
    weakest = min(range(len(places)), key=lambda number: powers[number][WEIGHTS])
    clean, tainted = run(Trial(CLEAN)), run(Trial(TAINTED, place=places[weakest]))
    distance = distances(bench.recorded(end), here)
    return tuple(
        Deviation(
            part=part,
            distance=distance[part],
            noise=max(one[part] for one in noise),
            power=min(one[part] for one in powers),
            clean=clean[part],
            tainted=tainted[part],
        )
        for part in here
    )


def places_of(course: Course, start: int, end: int) -> list[Place]:
    """Choose where forget records are put back: where they stood in this segment (the first and the last), else at its thirds."""
    numbers = [entry.number for entry in course.log.microbatches if start < entry.step <= end]
    stood = [place for place in course.stood if place[0] in set(numbers)]
    if stood:
        return [stood[0], stood[-1]]
    return [(numbers[len(numbers) * third // 3], course.forget[third % len(course.forget)]) for third in (1, 2)]


def distances(one: State, other: State) -> dict[str, float]:
    """Compute the Euclidean distance of two states, part by part."""
    return {
        part: sum(float((values - other[part][name]).double().square().sum()) for name, values in held.items()) ** 0.5
        for part, held in one.items()
    }


class Bench:
    """A log's model, with which segments are executed again and again."""

    def __init__(self, course: Course) -> None:
        self.course, self.model = course, course.start_model()
        self._first = {name: weight.detach().clone() for name, weight in _trained(self.model).items()}

    def executed(self, start: int, end: int, trial: Trial) -> State:
        """Execute a segment and return the state that it ends in."""
        course, found = self.course, dict[int, State]()
        log, windows = course.log, dict(course.windows)
        if trial.place is not None:
            log, windows = _put_back(log, windows, trial.place)
        log = dataclasses.replace(log, checkpoints=((end, ""),))  # its state is asked for there

        def keep(step: int, _: StateDigest, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            if step == end:
                found[step] = state_of(trained, optimizer)

        with _computing(trial.order, trial.threads or _threads(course, end)):
            self._replay(log, windows, course.origin(start), end, keep)
        return found[end] if end < course.last else state_of(self.model, None)

    def recorded(self, end: int) -> State:
        """Read the recorded state at the end of a segment.

        Raises:
            IntegrityError: the state that was kept is not the one that the log states.
        """
        course, found = self.course, list[State]()
        if end == course.last:
            assert course.served is not None, "a log that is compared with a tolerance has its weights"
            put_checkpoint(self.model, course.served)
            return state_of(self.model, None)
        stated = next(one for one in course.log.boundaries if one.step == end and one.optimizer is not None)

        def keep(_: int, state: StateDigest, trained: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            if (state.weights, state.optimizer) != (stated.weights, stated.optimizer):
                raise IntegrityError(f"The state kept at step {end} of {course.place} is not the one that the log states.")
            found.append(state_of(trained, optimizer))

        # No step is taken: the state is loaded as a training's start is.
        self._replay(course.log, course.windows, course.origin(end), end, keep)
        return found[0]

    def _replay(self, log: TrainingLog, windows: Mapping[int, Encoded], begin: Checkpoint | None, end: int, keep: Inspect) -> None:
        """Replay from a state to a step, starting with the weights that the log starts from."""
        with torch.no_grad():
            for name, weight in _trained(self.model).items():
                weight.copy_(self._first[name])
        with TemporaryDirectory() as folder:
            replay(
                self.model,
                self.course.tokenizer,
                log,
                windows,
                Path(folder),
                start=begin,
                last_step=end,
                inspect=keep,
                keep=False,
            )


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> State:
    """Copy the trained weights, and the optimizer's moments of each, to the processor."""
    trained = _trained(model)
    state: State = {WEIGHTS: {name: _copy(weight) for name, weight in trained.items()}}
    held = {} if optimizer is None else optimizer.state
    for name, weight in trained.items():
        for part, values in held.get(weight, {}).items():
            if isinstance(values, Tensor) and values.shape == weight.shape:  # not the number of steps
                state.setdefault(part, {})[name] = _copy(values)
    return state


def _copy(values: Tensor) -> Tensor:
    return values.detach().float().cpu().clone()


def _put_back(log: TrainingLog, windows: Mapping[int, Encoded], place: Place) -> tuple[TrainingLog, dict[int, Encoded]]:
    """Add a forget record's window to a microbatch."""
    number, window = place
    index = len(log.records)
    microbatches = tuple(
        dataclasses.replace(entry, records=(*entry.records, index)) if entry.number == number else entry
        for entry in log.microbatches
    )
    return dataclasses.replace(log, microbatches=microbatches), {**windows, index: window}


def _threads(course: Course, end: int) -> int:
    """Return the number of threads that computed a segment; where the log does not say, that of this process."""
    stated = (one.threads for one in course.log.boundaries if one.step == end)
    return next((threads for threads in stated if threads), torch.get_num_threads())


@contextmanager
def _computing(order: int | None, threads: int) -> Iterator[None]:
    """Compute in an order of summation, or as always, with a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with nullcontext() if order is None else Reordered(order):
            yield
    finally:
        torch.set_num_threads(before)

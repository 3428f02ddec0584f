"""Execution of training segments: each from a recorded state to the next, which it must reach bit for bit."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from verify.errors import InputError, IntegrityError, RunError
from verify.io.documents import Frozen
from verify.io.files import read_json, verify_manifest, write_json
from verify.models.digests import weights_digest
from verify.provenance.training_log import Boundary, TrainingLog
from verify.reexecution.course import Course
from verify.reexecution.schedules import segment_ends
from verify.reexecution.tolerance import judged
from verify.schema.reexecution import Finding, Segment
from verify.training.checkpoints import Checkpoint
from verify.training.replay import Observe, replay
from verify.training.state import StateDigest

DONE = "segments.json"
"""File of a working folder that lists the segments executed so far."""


@dataclass(frozen=True)
class Group:
    """Segments of one log that are executed in one run, from one kept state.

    Attributes:
        place: folder of the log.
        segments: start and end of each, in order; those between them are executed, too.
    """

    place: str
    segments: tuple[tuple[int, int], ...]


Outcome = tuple[list[Segment], list[Finding]]
"""What a run of a group gives: its segments, and what contradicts the claim."""
RunAll = Callable[[Sequence[tuple[Course, Group]]], Iterable[tuple[Course, Group, Outcome]]]
"""Executes groups, one after another or side by side."""
Tell = Callable[[int], None]
"""Progress callback `(tokens executed)`."""


def groups_of(course: Course, chosen: Sequence[tuple[int, int]]) -> list[Group]:
    """Divide chosen segments, in order, by the kept state that each is run from."""
    found: dict[int, list[tuple[int, int]]] = {}
    for start, end in chosen:
        origin = course.origin(start)
        found.setdefault(0 if origin is None else origin.step, []).append((start, end))
    return [Group(course.place, tuple(segments)) for segments in found.values()]


def execute(course: Course, group: Group, model: Any) -> Outcome:
    """Run from a kept state through segments that follow it, and compare the state at the end of each.

    Args:
        course: the log.
        group: segments of it that are run from the same state.
        model: the model that the log starts from; where the group starts from a kept state, its trained weights are overwritten.
    """
    origin, last = course.origin(group.segments[0][0]), group.segments[-1][1]
    begin = 0 if origin is None else origin.step
    expected = {one.step: one for one in course.log.boundaries if one.optimizer is not None}
    if origin is not None and (damage := _damage(origin)) is not None:
        return [], [damage]
    seen: dict[int, StateDigest] = {}
    with TemporaryDirectory() as folder, _threads_of(course.log, seen) as observe:
        try:
            replay(
                model,
                course.tokenizer,
                course.log,
                course.windows,
                Path(folder),
                start=origin,
                last_step=last,
                observe=observe,
                keep=False,
            )
        except RunError as error:
            model.zero_grad()  # of the step that failed, which the next group would add to
            return [], [Finding(kind="segment", what=f"Steps {begin} to {last} of {course.place} cannot be taken: {error}")]
    if origin is not None and (wrong := _wrong_start(course, begin, seen[begin], expected.get(begin))) is not None:
        return [], [wrong]
    whole = weights_digest(model) if last == segment_ends(course.log)[-1] else None
    done = [
        _compared(course, (start, end, begin), seen.get(end), expected.get(end), whole if end == last else None)
        for start, end in group.segments
    ]
    if course.tolerance:
        measured = [(one, None) if one.equal else judged(course, one) for one in done]
        return [one for one, _ in measured], [finding for _, finding in measured if finding is not None]
    return done, [_elsewhere(one) for one in done if not one.equal]


def _damage(origin: Checkpoint) -> Finding | None:
    """Check a checkpoint's files by its manifest."""
    try:
        verify_manifest(origin.folder, "checkpoint")
    except IntegrityError as error:
        return Finding(kind="checkpoint", what=f"The state kept at step {origin.step} is damaged: {error}")
    return None


def _wrong_start(course: Course, step: int, found: StateDigest, expected: Boundary | None) -> Finding | None:
    """Check that the state that a run began with is the recorded one."""
    if expected is not None and (found.weights, found.optimizer) == (expected.weights, expected.optimizer):
        return None
    what = "weights" if expected is None or found.weights != expected.weights else "optimizer state"
    return Finding(kind="checkpoint", what=f"The {what} kept at step {step} of {course.place} are not those that the log states.")


def _elsewhere(segment: Segment) -> Finding:
    """Describe a segment that ended on another state than the recorded one."""
    what = f"Steps {segment.start + 1} to {segment.end} of {segment.place} do not lead to the recorded state."
    return Finding(kind="segment", what=what)


def _compared(
    course: Course, where: tuple[int, int, int], found: StateDigest | None, expected: Boundary | None, whole: str | None
) -> Segment:
    """Compare the state at a segment's end with the recorded one, and at the log's end the whole model."""
    start, end, begin = where
    final = str(course.log.final_weights)
    equal = whole is None or whole == final
    if expected is not None:
        equal = equal and found is not None and (found.weights, found.optimizer) == (expected.weights, expected.optimizer)
    reached = whole or ("" if found is None else found.weights)
    wanted = final if whole is not None else str(expected.weights if expected else "")
    return Segment(
        place=course.place,
        start=start,
        end=end,
        ran_from=begin,
        tokens=course.tokens(start, end),
        equal=equal,
        expected=wanted,
        found=reached,
    )


@contextmanager
def _threads_of(log: TrainingLog, seen: dict[int, StateDigest]) -> Iterator[Observe]:
    """Compute every segment with the number of threads that computed it: sums in another order give other bits.

    Args:
        log: the log, which may name several numbers, as of a training that was resumed elsewhere.
        seen: receives the digests of the states.

    Yields:
        what the replay calls at its start and wherever a segment ends.
    """
    before, ends, counts = torch.get_num_threads(), segment_ends(log), {one.step: one.threads for one in log.boundaries}

    def observe(step: int, state: StateDigest) -> None:
        seen[step] = state
        if following := counts.get(next((end for end in ends if end > step), ends[-1])):
            torch.set_num_threads(following)

    try:
        yield observe
    finally:
        torch.set_num_threads(before)


class _Done(Frozen):
    """Content of the working folder: what was asked, and the segments executed so far."""

    asked: str
    segments: tuple[Segment, ...]


class Executor:
    """Executes segments and keeps their outcomes, so that an interrupted execution resumes.

    Attributes:
        work_dir: working folder; None keeps nothing.
        findings: what contradicts the claim so far.
    """

    def __init__(self, work_dir: Path | None, asked: str) -> None:
        """Open the working folder.

        Args:
            work_dir: a new folder, that of the same execution interrupted, or None.
            asked: digest of what is executed: weights, logs and chosen segments.

        Raises:
            InputError: the folder belongs to another execution.
        """
        self.work_dir, self.asked, self.findings = work_dir, asked, list[Finding]()
        self._done: dict[tuple[str, int], Segment] = {}
        if work_dir is None:
            return
        work_dir.mkdir(parents=True, exist_ok=True)
        if (work_dir / DONE).is_file():
            kept = _Done.model_validate(read_json(work_dir / DONE), strict=False)
            if kept.asked != asked:
                raise InputError(f"{work_dir} holds another re-execution. Give a new --work folder, or remove this one.")
            self._done = {(one.place, one.end): one for one in kept.segments}
        elif any(work_dir.iterdir()):
            raise InputError(f"{work_dir} is not empty and no unfinished re-execution. Give a new --work folder.")

    def run(self, courses: Sequence[Course], chosen: Sequence[tuple[Course, int, int]], run: RunAll, tell: Tell) -> list[Segment]:
        """Execute chosen segments.

        Args:
            courses: the logs, in order.
            chosen: log, start and end of each segment, in order.
            run: executes groups and yields the outcome of each, in any order.
            tell: called with the tokens of every finished group.

        Returns:
            the outcome of each segment, in order; those after one that ended elsewhere may be missing.
        """
        grouped = [
            (course, group)
            for course in courses
            for group in groups_of(course, [(start, end) for other, start, end in chosen if other is course])
        ]
        missing = [(course, group) for course, group in grouped if not self._has(group)]
        for course, group in grouped:
            if (course, group) not in missing:
                tell(course.tokens(group.segments[0][0], group.segments[-1][1]))
        found: dict[Group, list[Finding]] = {}
        for course, group, (segments, wrong) in run(missing):
            self._done.update({(one.place, one.end): one for one in segments})
            found[group] = wrong
            self._save()
            tell(course.tokens(group.segments[0][0], group.segments[-1][1]))
        self.findings += [finding for _, group in grouped for finding in found.get(group, ())]
        return [
            self._done[course.place, end]
            for course, group in grouped
            for _, end in group.segments
            if (course.place, end) in self._done
        ]

    def _has(self, group: Group) -> bool:
        return all((group.place, end) in self._done for _, end in group.segments)

    def _save(self) -> None:
        """Write the segments executed so far; failed ones are left out, so that a second attempt runs them again."""
        if self.work_dir is not None:
            good = [one.model_dump(mode="json") for one in self._done.values() if one.passes]
            write_json(self.work_dir / DONE, {"asked": self.asked, "segments": good})

    def close(self) -> None:
        """Remove the working folder."""
        if self.work_dir is not None:
            shutil.rmtree(self.work_dir, ignore_errors=True)

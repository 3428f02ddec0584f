"""Execution of training segments: each from a recorded state to the next, which it must reach bit for bit."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from verify.data.encoding import Encoded
from verify.errors import InputError, IntegrityError, RunError
from verify.io.documents import Frozen
from verify.io.files import read_json, verify_manifest, write_json
from verify.models.digests import weights_digest
from verify.provenance.training_log import Boundary, TrainingLog
from verify.reexecution.schedules import segment_ends
from verify.schema.reexecution import Finding, Segment
from verify.training.checkpoints import Checkpoint
from verify.training.replay import replay
from verify.training.state import StateDigest

DONE = "segments.json"
"""File of a working folder that lists the segments executed so far."""


@dataclass(frozen=True, eq=False)
class Course:
    """One training log to execute: its start, its windows, and where its states are kept.

    Attributes:
        place: folder of the log, "." or a stage's.
        log: the deletion's log.
        windows: the encoded window of every log entry.
        start_model: makes the model that the log starts from, with its new adapter.
        tokenizer: its tokenizer.
        folder: the deleted model's, with its checkpoints; None where the log has none.
        clean: a folder with checkpoints from before the first forget record, and the last step that these count for.
    """

    place: str
    log: TrainingLog
    windows: Mapping[int, Encoded]
    start_model: Callable[[], Any]
    tokenizer: Any
    folder: Path | None = None
    clean: tuple[Path, int] | None = None

    def segments(self) -> list[tuple[int, int]]:
        """Return start and end of every segment of the log, in optimizer steps."""
        ends = segment_ends(self.log)
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def tokens(self, after: int, until: int) -> int:
        """Count the tokens of the steps later than `after`, up to `until`."""
        entries = (entry for entry in self.log.microbatches if after < entry.step <= until)
        return sum(len(self.windows[index].input_ids) for entry in entries for index in entry.records)

    def origin(self, step: int) -> Checkpoint | None:
        """Return the latest kept state at or before a step; None for the log's start."""
        for at, name in sorted(self.log.checkpoints, reverse=True):
            parents = [parent for parent in (self.folder,) if parent is not None]
            if self.clean is not None and at <= self.clean[1]:
                parents.append(self.clean[0])
            kept = next((parent / name for parent in parents if (parent / name).is_dir()), None)
            if at <= step and kept is not None:
                return Checkpoint(kept, at)
        return None


class _Done(Frozen):
    """Content of the working folder: what was asked, and the segments executed so far."""

    asked: str
    segments: tuple[Segment, ...]


class Executor:
    """Executes segments and keeps their outcomes, so that an interrupted execution goes on where it was.

    Attributes:
        work_dir: working folder.
        findings: what contradicts the claim so far.
    """

    def __init__(self, work_dir: Path, asked: str) -> None:
        """Open the working folder.

        Args:
            work_dir: a new folder, or that of the same execution interrupted.
            asked: digest of what is executed: weights, root and chosen segments.

        Raises:
            InputError: the folder belongs to another execution.
        """
        self.work_dir, self.asked, self.findings = work_dir, asked, list[Finding]()
        self._done: dict[tuple[str, int], Segment] = {}
        work_dir.mkdir(parents=True, exist_ok=True)
        if (work_dir / DONE).is_file():
            kept = _Done.model_validate(read_json(work_dir / DONE), strict=False)
            if kept.asked != asked:
                raise InputError(f"{work_dir} holds another re-execution. Give a new --work folder, or remove this one.")
            self._done = {(one.place, one.end): one for one in kept.segments}
        elif any(work_dir.iterdir()):
            raise InputError(f"{work_dir} is not empty and no unfinished re-execution. Give a new --work folder.")

    def run(self, course: Course, chosen: Sequence[tuple[int, int]], progress: Callable[[int], None]) -> list[Segment]:
        """Execute chosen segments of a log.

        Args:
            course: the log.
            chosen: start and end of each segment, in order.
            progress: called with the tokens of every finished run of segments.

        Returns:
            the outcome of each, in order; segments after one that ended elsewhere may be missing.
        """
        groups: dict[int, tuple[Checkpoint | None, list[tuple[int, int]]]] = {}
        for start, end in chosen:
            origin = course.origin(start)
            groups.setdefault(0 if origin is None else origin.step, (origin, []))[1].append((start, end))
        for step, (origin, segments) in groups.items():
            if any((course.place, end) not in self._done for _, end in segments):
                for one in self._execute(course, origin, segments):
                    self._done[course.place, one.end] = one
                self._save()
            progress(course.tokens(step, segments[-1][1]))
        return [self._done[course.place, end] for _, end in chosen if (course.place, end) in self._done]

    def _execute(self, course: Course, origin: Checkpoint | None, segments: Sequence[tuple[int, int]]) -> Iterator[Segment]:
        """Run from one kept state through segments that follow it."""
        last, begin = segments[-1][1], 0 if origin is None else origin.step
        expected = {one.step: one for one in course.log.boundaries if one.optimizer is not None}
        if origin is not None and not self._kept_whole(origin):
            return
        seen: dict[int, StateDigest] = {}
        model = course.start_model()
        folder = self.work_dir / "run"
        shutil.rmtree(folder, ignore_errors=True)
        with threads_of(expected.get(last) or course.log.boundaries[-1]):
            try:
                replay(
                    model,
                    course.tokenizer,
                    course.log,
                    course.windows,
                    folder,
                    start=origin,
                    last_step=last,
                    observe=seen.__setitem__,
                    keep=False,
                )
            except RunError as error:
                self.findings.append(
                    Finding(kind="segment", what=f"Steps {begin} to {last} of {course.place} cannot be taken: {error}")
                )
                return
        shutil.rmtree(folder, ignore_errors=True)
        if origin is not None and not self._starts_right(course, begin, seen, expected.get(begin)):
            return
        whole = weights_digest(model) if last == segment_ends(course.log)[-1] else None
        for start, end in segments:
            yield self._compared(course, (start, end, begin), seen.get(end), expected.get(end), whole if end == last else None)

    def _kept_whole(self, origin: Checkpoint) -> bool:
        """Check a checkpoint's files by its manifest."""
        try:
            verify_manifest(origin.folder, "checkpoint")
        except IntegrityError as error:
            self.findings.append(Finding(kind="checkpoint", what=f"The state kept at step {origin.step} is damaged: {error}"))
            return False
        return True

    def _starts_right(self, course: Course, step: int, seen: Mapping[int, StateDigest], expected: Boundary | None) -> bool:
        """Check that the state that a run began with is the recorded one."""
        found = seen[step]
        if expected is not None and (found.weights, found.optimizer) == (expected.weights, expected.optimizer):
            return True
        what = "weights" if expected is None or found.weights != expected.weights else "optimizer state"
        self.findings.append(
            Finding(kind="checkpoint", what=f"The {what} kept at step {step} of {course.place} are not those that the log states.")
        )
        return False

    def _compared(
        self, course: Course, where: tuple[int, int, int], found: StateDigest | None, expected: Boundary | None, whole: str | None
    ) -> Segment:
        """Compare the state at a segment's end with the recorded one, and at the log's end the whole model."""
        start, end, begin = where
        final = str(course.log.final_weights)
        equal = whole is None or whole == final
        if expected is not None:
            equal = equal and found is not None and (found.weights, found.optimizer) == (expected.weights, expected.optimizer)
        if not equal:
            self.findings.append(
                Finding(kind="segment", what=f"Steps {start + 1} to {end} of {course.place} do not lead to the recorded state.")
            )
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

    def _save(self) -> None:
        """Write the segments executed so far; failed ones are left out, so that a second attempt runs them again."""
        good = [one.model_dump(mode="json") for one in self._done.values() if one.equal]
        write_json(self.work_dir / DONE, {"asked": self.asked, "segments": good})

    def close(self) -> None:
        """Remove the working folder."""
        shutil.rmtree(self.work_dir, ignore_errors=True)


@contextmanager
def threads_of(boundary: Boundary) -> Iterator[None]:
    """Compute with the number of threads that computed the recorded state: sums in another order give other bits."""
    before = torch.get_num_threads()
    if boundary.threads:
        torch.set_num_threads(boundary.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

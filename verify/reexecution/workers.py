"""Execution of segments side by side, in processes of this machine or on a cluster: they are independent of each other.

Every worker derives the plan itself, from the same files, and holds one model. No record leaves its machine. What comes back are
digests, which are put in the order of the plan: the proof is the one that a single process gives.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from verify.data.identity import KEY_VARIABLE, RecordKey
from verify.errors import InputError
from verify.io.jobs import Job, run_jobs
from verify.reexecution.course import Course
from verify.reexecution.environment import about_software
from verify.reexecution.execution import Group, Outcome, RunAll, execute
from verify.reexecution.request import Request

_ALONE = threading.Lock()
"""Held while a segment is executed: dropout's random numbers belong to the process, and a cluster's worker may have several
threads."""


def one_by_one(groups: Sequence[tuple[Course, Group]]) -> Iterator[tuple[Course, Group, Outcome]]:
    """Execute groups of segments in this process, in order, all those of one log in one model."""
    used: Course | None = None
    model: Any = None
    for course, group in groups:
        # A kept state overwrites what the group before trained; a run from the log's start needs the model as it was.
        if course is not used or course.origin(group.segments[0][0]) is None:
            model = None  # freed before another is loaded
            used, model = course, course.start_model()
        yield course, group, execute(course, group, model)


def side_by_side(request: Request, key: RecordKey, workers: int, engine: str | None) -> RunAll:
    """Return what executes groups of segments in other processes.

    Args:
        request: what every worker derives the plan from; files only.
        key: the record key, which workers must have, too.
        workers: processes on this machine.
        engine: a cluster, "dask://HOST:PORT" or "ray://HOST:PORT", whose workers see the same folders; None for this machine.

    Raises:
        InputError: records or tokenizer are in memory.
    """
    request.require_files()
    request = request.absolute()

    def run(groups: Sequence[tuple[Course, Group]]) -> Iterator[tuple[Course, Group, Outcome]]:
        courses = {group: course for course, group in groups}
        jobs = [
            Job(
                label=group.place,
                weight=course.tokens(group.segments[0][0], group.segments[-1][1]),
                run=execute_group,
                arguments={"request": request, "group": group, "key_check": key.check},
            )
            for course, group in groups
        ]
        for job, outcome in run_jobs(jobs, workers, engine):
            group = job.arguments["group"]
            yield courses[group], group, outcome

    return run


def execute_group(request: Request, group: Group, key_check: str) -> Outcome:
    """Derive the plan and execute one group of segments.

    Args:
        request: what is given.
        group: the segments.
        key_check: check value of the record key.

    Raises:
        InputError: this machine has another record key.
    """
    with _ALONE:
        key = RecordKey.load()
        if key.check != key_check:
            raise InputError(f"a worker has another record key than this machine. Give all workers the same in ${KEY_VARIABLE}.")
        plan = request.plan(request.shown(key), request.load_base())
        course = next(course for course in plan.courses if course.place == group.place)
        # A worker of another kind would reach other bits and accuse an honest deletion.
        segments = [(course, start, end) for start, end in group.segments]
        other = [] if request.tolerance else about_software(segments, request.device)
        return ([], other) if other else execute(course, group, course.start_model())

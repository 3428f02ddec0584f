"""Software and hardware that the bits of a training depend on, compared with those of the logged runs."""

from collections.abc import Iterator, Sequence

import torch

from verify.provenance.training_log import GPU
from verify.reexecution.course import Course
from verify.schema.reexecution import Finding
from verify.training.software import software


def environment() -> dict[str, str]:
    """Return the software and hardware that the bits of a training depend on, besides the number of threads."""
    found = software(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {name: value for name, value in found.items() if name != "machine"}  # `capability` is finer


def environment_on(device: str | None) -> dict[str, str]:
    """Return the same for an execution on a device: "cpu" leaves a GPU out; None is a GPU where there is one."""
    found = environment()
    return {name: value for name, value in found.items() if name != GPU} if device == "cpu" else found


def about_software(segments: Sequence[tuple[Course, int, int]], device: str | None) -> list[Finding]:
    """Compare the software and hardware of an execution here with those of the logged steps; the first difference is enough.

    Args:
        segments: what is executed: log, start and end.
        device: that it is executed on, "cpu" or None, as `Request.device` has it.
    """
    here = {GPU: "none"} | environment_on(device)
    for course in dict.fromkeys(course for course, _, _ in segments):
        ranges = [(start, end) for other, start, end in segments if other is course]
        for steps, there in _made_with(course, ranges):
            if there and here[GPU] != "none":  # a run on a processor names no GPU, and another log of the model names one
                there = {GPU: "none", **there}
            other = [f"{name} {there[name]} (here {here[name]})" for name in here if there.get(name, here[name]) != here[name]]
            if other:
                what = f"{steps} trained with {', '.join(other)}, which rounds otherwise. Execute it with the same versions."
                return [Finding(kind="software", what=what)]
    return []


def _made_with(course: Course, segments: Sequence[tuple[int, int]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what computed the steps that an execution of segments takes; those before the state it starts from do not count.

    Yields:
        subject and verb of a sentence about the steps, and their software and device.
    """
    stretches = course.log.stretches
    ends = [*(one.after for one in stretches[1:]), course.last]
    origins = {start: 0 if (origin := course.origin(start)) is None else origin.step for start, _ in segments}
    for one, last in zip(stretches, ends, strict=True):
        if any(origins[start] < last and one.after < end for start, end in segments):
            place = course.place
            yield f"{place} was" if len(ends) == 1 else f"Steps {one.after + 1} to {last} of {place} were", dict(one.execution)

"""Software and hardware that the bits of a training depend on, compared with those of the logged runs."""

from collections.abc import Iterable
from importlib import metadata

import torch

from verify.provenance.training_log import GPU
from verify.reexecution.execution import Course
from verify.schema.reexecution import Finding


def environment() -> dict[str, str]:
    """Return the software and hardware that the bits of a training depend on, besides the number of threads."""
    gpu = {GPU: torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        **gpu,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def environment_on(device: str | None) -> dict[str, str]:
    """Return the same for an execution on a device: "cpu" leaves a GPU out; None is a GPU where there is one."""
    found = environment()
    return {name: value for name, value in found.items() if name != GPU} if device == "cpu" else found


def about_software(courses: Iterable[Course], device: str | None) -> list[Finding]:
    """Compare the software and hardware of an execution here with those of the logged runs; the first difference is enough.

    Args:
        courses: the logged runs.
        device: that they are executed on, "cpu" or None, as `Request.device` returns it.
    """
    here, found = {GPU: "none"} | environment_on(device), []
    for course in courses:
        there = course.log.execution
        if there and here[GPU] != "none":  # a run on a processor names no GPU, and another log of the model names one
            there = {GPU: "none", **there}
        other = [f"{name} {there[name]} (here {here[name]})" for name in here if there.get(name, here[name]) != here[name]]
        if other:
            what = f"{course.place} was trained with {', '.join(other)}, which rounds otherwise. Execute it with the same versions."
            found.append(Finding(kind="software", what=what))
    return found[:1]

"""Time and peak memory of a stage of an experiment, measured in the process that runs it."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verify.io.files import read_json, write_json

USAGE = "usage.json"
COLUMNS = ("stage", "seconds", "processor seconds", "peak memory")


@dataclass(frozen=True)
class Usage:
    """What one stage took.

    Attributes:
        seconds: wall time.
        processor_seconds: time of all its threads on processors.
        peak_bytes: largest resident memory of its process during the stage, with Python and its libraries.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int


def measured(run: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, Usage]:
    """Run a function with arguments by name, and return its result with what it took."""
    _reset_peak()
    started, processor = time.monotonic(), time.process_time()
    result = run(**arguments)
    return result, Usage(time.monotonic() - started, time.process_time() - processor, _peak_bytes())


class UsageFile:
    """File with the usage of each finished stage; a stage that is found complete later keeps its first figures."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / USAGE
        self.stages: dict[str, Usage] = {}
        if self.path.is_file():
            self.stages = {label: Usage(**entry) for label, entry in read_json(self.path).items()}

    def add(self, label: str, usage: Usage) -> None:
        """Record a stage, unless it is known."""
        if label not in self.stages:
            self.stages[label] = usage
            write_json(self.path, {name: asdict(entry) for name, entry in self.stages.items()})

    def rows(self) -> list[list[str]]:
        """Return one row for each stage, by `COLUMNS`, and one for all."""
        rows = [
            [label, f"{entry.seconds:.0f}", f"{entry.processor_seconds:.0f}", f"{entry.peak_bytes / 1e9:.1f} GB"]
            for label, entry in self.stages.items()
        ]
        total = sum(entry.processor_seconds for entry in self.stages.values())
        return [*rows, ["all", "", f"{total:.0f}", ""]]


def _reset_peak() -> None:
    """Set the process's peak memory back to its present memory, where the system allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_bytes() -> int:
    """Return the peak of the resident memory: since the reset or, where there is none, since the process began."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Models and data of `unlearn demo`, for benchmarks that measure more of them."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from unlearn.cli.demo import Demo
from verify.io.files import MANIFEST


def demo_world(folder: Path) -> Path:
    """Return the folder of a finished demo; where there is none, the demo is run first.

    Raises:
        InputError: the folder is that of an interrupted demo, which does not resume.
    """
    if not (folder / MANIFEST).exists():
        Demo(output=folder).run()
    return folder


def references_of(demo: Path) -> list[Path]:
    """Return the demo's four models that were trained without the forget set."""
    return [demo / "models" / f"reference{number}" for number in range(1, 5)]


def machine() -> str:
    """Return date, processor, core count and version of torch, for the first lines of a page."""
    return f"{datetime.now(UTC).date()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"

"""Jobs for worker processes, in a module that imports nothing: each new worker imports it before it begins."""

import os
import time
from pathlib import Path


def work(folder: str, number: int, dies_first: bool = False) -> int:
    """A job for a worker; one kills it the first time."""
    mark = Path(folder) / f"died-{number}"
    if dies_first and not mark.exists():
        mark.touch()
        os._exit(1)
    return number * number


def noted(folder: str, name: str, until: str = "") -> str:
    """Note in a common file that a job begins and, once the file has a line, that it ends."""
    log = Path(folder) / "log"
    with log.open("a") as lines:
        lines.write(f"{name} begins\n")
    for _ in range(600):  # a minute, after which the test fails
        if until in log.read_text():
            break
        time.sleep(0.1)
    with log.open("a") as lines:
        lines.write(f"{name} ends\n")
    return name

"""Hostile input to every parser: requests as they come in, and documents with bits flipped, parts cut out and values replaced."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hostile_inputs
from spoiled_documents import feed_document, kinds

from benchmarks.reliability.kills import world

INPUTS = 10_000
FEWER = {"letter templates": 2_000}
"""Inputs of parsers that take long: YAML is read in Python."""


def feed_all(output: Path, before: Mapping[str, Any], last: float) -> dict[str, Any]:
    """Feed every parser that was not fed yet, while there is time; the first that raises anything but an InputError ends it."""
    folder = output / f"parsers-{len(before.get('parsers', ()))}"
    folder.mkdir()
    runs: dict[str, Callable[[], int]] = {
        name: partial(hostile_inputs.feed, name, INPUTS, folder) for name in hostile_inputs.PARSERS
    }
    documents = kinds(folder / "whole", world(output) / "models" / "original")
    runs |= {
        name: partial(feed_document, kind, FEWER.get(name, INPUTS), folder / f"kind-{number}")
        for number, (name, kind) in enumerate(documents.items())
    }
    fed = dict(before.get("parsers", {}))
    for name, run in runs.items():
        if name not in fed and time.monotonic() < last:
            started = time.monotonic()
            fed[name] = {"inputs": run(), "seconds": time.monotonic() - started}
            print(name, fed[name], flush=True)
    return {"parsers": fed, "done": fed.keys() == runs.keys()}

"""Output of a finished matrix: Markdown, JSON and figure, and the tables of the page in docs/."""

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.matrix.checks import Check
from benchmarks.matrix.figure import HEADLINE, draw
from benchmarks.matrix.results import Cell
from benchmarks.matrix.rows import Place, rows_of
from benchmarks.matrix.settings import DataName
from benchmarks.matrix.table import checks_as_list, sentences, table
from verify.errors import InputError
from verify.io.files import write_json, write_text

NOTES = f"""Means over seeds; in brackets the smallest lower and the largest upper 95 % limit of the seeds, each over records.
Membership by the `{HEADLINE}` attack (the adversary has the base model); every attack is in the JSON file. `verbatim`: share of a
record's tokens that greedy decoding reproduces; `log p_z`: mean log-probability of a whole record, nats; `strength`: share of a
record that is extracted given the rest. Triggers are tested on prompts that were not trained on. `utility`: token probability on
retain records, relative to retraining; `unseen text`: token probability on never-trained records. Seconds and MiB are for making
the model; for a deletion, without training the original. A verdict in parentheses: the references were trained differently from
this model, so the verdict is not on deletion alone."""


def environment() -> dict[str, Any]:
    """Return machine and library versions."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "opacus", "flwr", "numpy", "scipy", "unlearn-verify"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"machine": platform.machine(), "cores": os.cpu_count(), "versions": versions}


def write_results(place: Place, data: DataName, cells: Sequence[Cell], checks: Sequence[Check], folder: Path) -> Path:
    """Write `matrix_DATA_TUNING.md`, `.json` and `.svg`; return the Markdown file."""
    rows, name = rows_of(place.setting, place.tuning), f"matrix_{data}_{place.tuning}"
    about = environment() | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data,
        "tuning": place.tuning,
        "setting": place.setting.name,
        "seeds": sorted({cell.seed for cell in cells}),
    }
    listed = [{"name": check.name, "passed": check.passed, "reason": check.reason} for check in checks]
    write_json(folder / f"{name}.json", {"about": about, "checks": listed, "cells": [cell.model_dump() for cell in cells]})
    write_text(folder / f"{name}.svg", draw(cells, rows))
    versions = ", ".join(f"{library} {version}" for library, version in about["versions"].items())
    parts = [
        f"# The matrix: {data}, {'all weights' if place.tuning == 'full' else 'LoRA'}, setting {place.setting.name}",
        f"{about['machine']}, {about['cores']} cores; {versions}; seeds {', '.join(map(str, about['seeds']))}; {about['created']}.",
        NOTES,
        table(cells, rows).rstrip(),
        sentences(cells, rows).rstrip(),
        f"![An adversary's success against utility]({name}.svg)",
        "Checks:",
        checks_as_list(checks).rstrip(),
    ]
    path = folder / f"{name}.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def update_page(page: Path, place: Place, data: DataName, cells: Sequence[Cell], checks: Sequence[Check]) -> None:
    """Write table, sentences and checks between the page's marks for this data and tuning.

    Raises:
        InputError: the page has no such marks.
    """
    rows, mark = rows_of(place.setting, place.tuning), f"matrix {data} {place.tuning}"
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise InputError(f"{page} has no lines {begin} and {end}. Put them where the table should be.")
    seeds = len({cell.seed for cell in cells})
    parts = [
        f"Setting `{place.setting.name}`, {seeds} {'seed' if seeds == 1 else 'seeds'}.",
        table(cells, rows).rstrip(),
        sentences(cells, rows).rstrip(),
        f"![An adversary's success against utility](../benchmarks/results/matrix_{data}_{place.tuning}.svg)",
        "Checks:",
        checks_as_list(checks).rstrip(),
    ]
    filled = "\n\n".join([begin, *parts, end])
    write_text(page, re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: filled, text, flags=re.DOTALL))

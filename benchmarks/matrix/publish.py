"""Output of a finished matrix: JSON, and from it Markdown, figure, and the tables of the page in docs/."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.matrix.checks import Check, run_checks
from benchmarks.matrix.figure import HEADLINE, draw
from benchmarks.matrix.results import Cell
from benchmarks.matrix.rows import Place, Row, rows_of
from benchmarks.matrix.settings import SMOLLM2_FEW, World, setting_for
from benchmarks.matrix.table import checks_as_list, sentences, table
from verify.errors import InputError
from verify.io.files import read_json, write_json, write_text

NOTES = f"""Means over seeds; in brackets the smallest lower and the largest upper 95 % limit of the seeds, each over records.
Membership by the `{HEADLINE}` attack (the adversary has the base model); every attack is in the JSON file. `verbatim`: share of a
record's tokens that greedy decoding reproduces; `log p_z`: mean log-probability of a whole record, nats; `strength`: share of a
record that is extracted given the rest. Triggers are tested on prompts that were not trained on. `utility`: token probability on
retain records, relative to retraining; `unseen text`: token probability on never-trained records. Seconds and MiB are for making
the model; for a deletion, without training the original. A verdict in parentheses: the references were trained differently from
this model, so the verdict is not on deletion alone."""
UNTIMED_NOTE = "A dash under `seconds`: other work ran on the machine, so that the time cannot be compared."
GENERAL_NOTE = """`Wikipedia text` and `novel text`: token probability on 24 passages of a thousand characters each of WikiText-2
(its test part) and of Treasure Island, relative to the base model before any fine-tuning. `tokens`: tokens that making the model
took, relative to a retraining."""


EXACT_TEXTS_ALONE = (
    "they were measured before audits asked in other ways than by the exact text, on which alone their verdicts are (rule 1), and "
    "before controls that a method has read were refused: methods and attacks shared them, on which membership rests, and the "
    "verdicts do not"
)
SECOND_RULE = "2026-11-26"
"""Day on which rule 2 and separate controls for methods and audits came; results that are older have neither."""


def environment() -> dict[str, Any]:
    """Return machine and library versions."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "opacus", "flwr", "numpy", "scipy", "unlearn-verify"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    card = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"machine": platform.machine(), "cores": os.cpu_count(), **card, "versions": versions}


@dataclass(frozen=True)
class Results:
    """A matrix as its JSON files have it: what is needed to write about it, without its models.

    Attributes:
        about: the run: world, tuning, setting, seeds, machine, versions.
        cells: all cells.
    """

    about: Mapping[str, Any]
    cells: Sequence[Cell]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "Results":
        """Read one file, or several with different seeds or rows of the same matrix; the machine is the first one's.

        Raises:
            InputError: a file is damaged, of another version or of another matrix than the first, or none has an untouched model.
        """
        contents = [read_json(path) for path in paths]
        cells: dict[tuple[str, int], Cell] = {}
        for path, content in zip(paths, contents, strict=True):
            try:
                about, first = content["about"], contents[0]["about"]
                same = [about[name] == first[name] for name in ("data", "tuning", "setting")]
                same += [about[name] == first[name] for name in ("approximate", "training") if name in about and name in first]
                found = [Cell.model_validate_json(json.dumps(cell)) for cell in content["cells"]]
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"{path} holds no results of the matrix, or those of another version. Run the matrix again."
                ) from None
            if not all(same):
                raise InputError(
                    f"{path} holds another matrix than {paths[0]}. Name files of one world, tuning and setting, with the same "
                    "approximate method and training options."
                )
            cells |= {(cell.row, cell.seed): cell for cell in found}
        if not any(cell.row == "none" for cell in cells.values()):
            raise InputError(f"{paths[0]} has no untouched model, with which every row is compared. Run the row none first.")
        about = {**contents[0]["about"], "seeds": sorted({cell.seed for cell in cells.values()})}
        lacking = {row: why for content in contents for row, why in (content["about"].get("missing") or {}).items()}
        about["missing"] = {row: why for row, why in lacking.items() if not any(cell.row == row for cell in cells.values())}
        unmade = [
            (row, seed, why)
            for content in contents
            for row, seeds in (content["about"].get("unfinished") or {}).items()
            for seed, why in seeds.items()
            if (row, int(seed)) not in cells
        ]
        about["unfinished"] = {row: {seed: why for name, seed, why in unmade if name == row} for row, _, _ in unmade}
        named = {name: value for name, value in about.items() if value or name not in ("missing", "unfinished")}
        return cls(named, list(cells.values()))

    @property
    def name(self) -> str:
        """The name of its files; those of few people on a pretrained model, and of training in float32, stand beside the others."""
        few = "_few" if self.about["setting"] == SMOLLM2_FEW.name else ""
        # Whether these are trained in bfloat16 depends on the processor.
        precision = "_float32" if few and not self.about["training"]["bf16"] else ""
        return f"matrix_{self.about['data']}{few}_{self.about['tuning']}{precision}"

    @property
    def rows(self) -> dict[str, Row]:
        """Its rows, in the order of the table."""
        setting = setting_for(self.about["setting"], self.about["data"], self.about.get("approximate"))
        return rows_of(setting, self.about["tuning"])

    @property
    def checks(self) -> list[Check]:
        """The checks of its cells."""
        return run_checks(self.cells)

    def parts(self, figures: str) -> list[str]:
        """Return the paragraphs that file and page share.

        Args:
            figures: where the figure is, seen from the text.
        """
        not_run = self._not_run()
        return [
            table(self.cells, self.rows).rstrip(),
            sentences(self.cells, self.rows).rstrip(),
            *([f"Not run: {'; '.join(not_run)}."] if not_run else []),
            f"![An adversary's success against utility]({figures}{self.name}.svg)",
            "Checks:",
            checks_as_list(self.checks).rstrip(),
        ]

    def rules(self) -> str:
        """Say by which rule the verdicts are, as far as the results name it."""
        named = sorted({cell.rule for cell in self.cells if cell.rule is not None})
        said = [f"Verdicts by rule {' and '.join(map(str, named))}."] if named else []
        if unnamed := sum(cell.rule is None for cell in self.cells):
            some = f"{unnamed} of {len(self.cells)} results name" if named else "The results name"
            known = f": {EXACT_TEXTS_ALONE}" if not named and self.about["created"] < SECOND_RULE else ""
            said.append(f"{some} no rule{known}.")
        return " ".join(said)

    def _not_run(self) -> list[str]:
        """Name the rows, or seeds of rows, that have no cell, each with the reason."""
        missing: Mapping[str, str] = self.about.get("missing") or {}
        unfinished: Mapping[str, Mapping[str, str]] = self.about.get("unfinished") or {}
        found = [f"{self.rows[row].label} ({why})" for row, why in missing.items()]
        for row, reasons in unfinished.items():
            whole = "everything" if row == "none" else self.rows[row].label  # no row is compared without an untouched model
            for why in dict.fromkeys(reasons.values()):
                seeds = [seed for seed, reason in reasons.items() if reason == why]
                found.append(f"{whole}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)} ({why})")
        return found

    def write(self, folder: Path) -> Path:
        """Write `matrix_WORLD_TUNING.json`, `.md` and `.svg`; return the Markdown file."""
        listed = [{"name": check.name, "passed": check.passed, "reason": check.reason} for check in self.checks]
        cells = [cell.model_dump() for cell in self.cells]
        write_json(folder / f"{self.name}.json", {"about": dict(self.about), "checks": listed, "cells": cells})
        write_text(folder / f"{self.name}.svg", draw(self.cells, self.rows))
        about = self.about
        versions = ", ".join(f"{library} {version}" for library, version in about["versions"].items())
        machine = f"{about['machine']}, {about['cores']} cores" + (f", {about['gpu']}" if "gpu" in about else "")
        beside = f", {about['workers']} models made side by side" if about.get("workers", 1) > 1 else ""
        tuning = "all weights" if about["tuning"] == "full" else "LoRA"
        parts = [
            f"# The matrix: {about['data']}, {tuning}, setting {about['setting']}",
            f"{machine}{beside}; {versions}; seeds {', '.join(map(str, about['seeds']))}; {about['created']}.",
            self.rules(),
            NOTES,
            *([UNTIMED_NOTE] if any(cell.seconds is None for cell in self.cells) else []),
            *([GENERAL_NOTE] if any(cell.general for cell in self.cells) else []),
            *self.parts(""),
        ]
        path = folder / f"{self.name}.md"
        write_text(path, "\n\n".join(parts) + "\n")
        return path


def results_of(
    place: Place,
    world: World,
    cells: Sequence[Cell],
    *,
    workers: int = 1,
    missing: Mapping[str, str] | None = None,
    lacking: Mapping[str, Mapping[str, str]] | None = None,
) -> Results:
    """Return the results of a run on this machine.

    Args:
        place, world: of the matrix.
        cells: its cells, those of `none` among them.
        workers: models that were made in parallel, which their seconds depend on.
        missing: rows that this installation could not run, each with its reason.
        lacking: cells that failed or were not made in time: row -> seed -> reason.
    """
    about = environment() | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": world,
        "tuning": place.tuning,
        "setting": place.setting.name,
        "approximate": place.setting.approximate,
        "training": asdict(place.options(0)),
        "seeds": sorted({cell.seed for cell in cells}),
        "workers": workers,
        **({"missing": dict(missing)} if missing else {}),
        **({"unfinished": {row: dict(seeds) for row, seeds in lacking.items()}} if lacking else {}),
    }
    return Results(about, cells)


def marks_of(results: Results) -> tuple[str, str]:
    """Return the lines between which a page has the table of these results."""
    mark = results.name.replace("_", " ")
    return f"<!-- {mark} -->", f"<!-- end of {mark} -->"


def update_page(page: Path, results: Results) -> bool:
    """Write table, sentences and checks between the page's marks for this world and tuning; return whether it has them."""
    begin, end = marks_of(results)
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        return False
    seeds = len(results.about["seeds"])
    where = f", on {results.about['gpu']}" if "gpu" in results.about else ""
    parts = [
        f"Setting `{results.about['setting']}`, {seeds} {'seed' if seeds == 1 else 'seeds'}{where}. {results.rules()}",
        *results.parts("../benchmarks/results/"),
    ]
    filled = "\n\n".join([begin, *parts, end])
    write_text(page, re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: filled, text, flags=re.DOTALL))
    return True

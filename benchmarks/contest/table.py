"""Results of the contest: table, JSON, and figure of residual fraction against utility."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import transformers
from matplotlib.figure import Figure

from benchmarks.contest.data import World
from verify.errors import InputError
from verify.io.files import read_json, write_json, write_text
from verify.report.svg import as_svg

Runs = Mapping[int, Sequence[Mapping[str, Any]]]
WORDS = ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN", "INCONCLUSIVE", "NOT_TESTABLE", "diverged")
HEADER = ("method", "verdicts", "residual", "records under / over", "AUC", "attacks", "utility", "relearning", "int4", "cost")
LEGEND = (
    "Means over the seeds, lowest to highest in brackets. Residual: 1 untouched, 0 retrained. Records: share that the audit "
    "accuses as remembered / as over-forgotten. AUC: loss attack. Attacks: number of quick attacks that distinguish it from every "
    "reference, in either direction and beyond both intervals. Utility: token probability on the retain set relative to the "
    "references. Relearning: area of excess recovery. Int4: residual after rounding to 4 bits. Cost: of the chosen run, in "
    "retrainings by tokens; the search over six settings costs about six times that."
)
SHORT = (
    "Number of seeds in brackets. Verdicts: E equivalent within the margin, I inconclusive, N not forgotten, T not testable (the "
    "model is broken); then the mean residual fraction (0: retrained) and the mean utility relative to the references."
)
CROWDED = 0.85
"""Utility above which points lie close together in the figure, so that their names are set in a column."""
COLOURS = {"level": "#00694b", "retrain": "#1c1c1a", "untouched": "#9c3d00"}


def write_results(folder: Path, world: World, runs: Runs, references: int) -> str:
    """Write table, JSON and figure of a world; return the table."""
    by_method = {entry["method"]: [] for entry in next(iter(runs.values()))}
    for entries in runs.values():
        for entry in entries:
            by_method[entry["method"]].append(entry)
    rows = [_row(name, found) for name, found in by_method.items()]
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, ("---",) * len(HEADER), *rows)]
    first = next(iter(runs.values()))[0]
    about = (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"seeds {', '.join(map(str, runs))}; {references} references; {first['records']} records judged, as many others used for "
        "tuning."
    )
    text = "\n".join([f"# Approximate methods, {world}\n", f"{about}\n", *lines, f"\n{LEGEND}\n"])
    write_text(folder / f"contest_{world}.md", text)
    write_json(folder / f"contest_{world}.json", {str(seed): list(entries) for seed, entries in runs.items()})
    write_text(folder / f"contest_{world}.svg", _figure(by_method))
    return text


def summary(folder: Path) -> str:
    """Format the results of all worlds in a folder as one table; writes `contest.md` there and returns it."""
    worlds = {name: read_json(path) for name in get_args(World) if (path := folder / f"contest_{name}.json").exists()}
    if not worlds:
        raise InputError(
            f"{folder} has no results of a contest. Run one first: python -m benchmarks.contest --world people --output DIR"
        )
    names = dict.fromkeys(entry["method"] for runs in worlds.values() for entries in runs.values() for entry in entries)
    found = {
        (world, name): [entry for entries in runs.values() for entry in entries if entry["method"] == name]
        for world, runs in worlds.items()
        for name in names
    }
    seeds = [f"{world} ({len(runs)})" for world, runs in worlds.items()]
    cells = [("method", *seeds), ("---",) * (len(worlds) + 1)]
    cells += [(name, *(_in_short(found[world, name]) for world in worlds)) for name in names]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    text = f"# Approximate methods, all worlds\n\n{table}\n\n{SHORT}\n"
    write_text(folder / "contest.md", text)
    return text


def _in_short(found: Sequence[Mapping[str, Any]]) -> str:
    """Format one method in one world, over its seeds."""
    if not found:
        return "-"
    verdicts = _verdicts(found, {"EQUIVALENT_WITHIN": "E", "NOT_FORGOTTEN": "N", "INCONCLUSIVE": "I", "NOT_TESTABLE": "T"})
    judged = [entry for entry in found if "residual" in entry]
    if not judged:
        return verdicts
    rho, utility = np.mean([entry["residual"][0] for entry in judged]), np.mean([entry["utility"] for entry in judged])
    return f"{verdicts}; {rho:.2f}; {utility:.2f}"


def _verdicts(found: Sequence[Mapping[str, Any]], short: Mapping[str, str]) -> str:
    counts = {word: sum(entry["verdict"] == word for entry in found) for word in WORDS}
    return ", ".join(f"{count} {short.get(word, word)}" for word, count in counts.items() if count)


def _row(name: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    verdicts = _verdicts(found, {})
    judged = [entry for entry in found if "residual" in entry]
    if not judged:
        return (name, verdicts, *("-",) * (len(HEADER) - 2))
    under = [_share(entry, "remembered") for entry in judged]
    over = [sum(entry["accused"].values()) / entry["records"] - _share(entry, "remembered") for entry in judged]
    return (
        name,
        verdicts,
        _spread([entry["residual"][0] for entry in judged]),
        f"{np.mean(under):.2f} / {np.mean(over):.2f}",
        _spread([entry["auc"] for entry in judged]),
        f"{np.mean([len(entry['seen']) for entry in judged]):.1f}",
        _spread([entry["utility"] for entry in judged]),
        _spread([entry.get("relearning_area") for entry in judged]),
        _spread([entry.get("int4") for entry in judged]),
        _spread([entry.get("share_of_retraining") for entry in judged]),
    )


def _share(entry: Mapping[str, Any], direction: str) -> float:
    return float(entry["accused"].get(direction, 0) / entry["records"])


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{np.mean(known):.2f}"
    return mean if len(known) == 1 else f"{mean} [{min(known):.2f}, {max(known):.2f}]"


def _figure(by_method: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Plot residual fraction against utility; the best method is at the right, on the zero line."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(-0.1, 0.1, color="#e9efe6", label="the margin")
    axes.axhline(0, color="#8a8a84", linewidth=0.8)
    crowded: dict[str, Any] = {}
    for name, found in by_method.items():
        points = np.array([(entry["utility"], entry["residual"][0]) for entry in found if entry.get("utility") is not None])
        if not len(points):
            continue
        middle = points.mean(0)
        axes.errorbar(
            *middle, xerr=_arms(points[:, 0]), yerr=_arms(points[:, 1]), fmt="o", color=_colour(name), markersize=4, linewidth=0.8
        )
        if middle[0] > CROWDED:
            crowded[name] = middle
        else:
            axes.annotate(name, middle, xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=_colour(name))
    _name_beside(axes, crowded)
    axes.set_xlim(0, 1.04)
    axes.set_xlabel("utility, token probability against a retraining")
    axes.set_ylabel("residual fraction (0: as a retraining)")
    axes.spines[["top", "right"]].set_visible(False)
    return as_svg(figure)


def _name_beside(axes: Any, points: Mapping[str, Any]) -> None:
    """Set the names of points that are close to each other in a column at the right, spaced and in the points' order."""
    low, high = axes.get_ylim()
    apart = 0.036 * (high - low)
    ordered = sorted(points.items(), key=lambda entry: entry[1][1])
    heights = [float(middle[1]) for _, middle in ordered]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + apart)
    for index, limit in enumerate(high - apart * np.arange(len(heights)), 1):  # none above the axes: push down again from the top
        heights[-index] = min(heights[-index], float(limit))
    for (name, middle), height in zip(ordered, heights, strict=True):
        axes.annotate(
            name,
            middle,
            xytext=(1.06, height),
            textcoords="data",
            fontsize=7.5,
            color=_colour(name),
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#8a8a84", "shrinkB": 3, "relpos": (0, 0.5)},
        )


def _colour(name: str) -> str:
    return COLOURS.get(name.split(",")[0], "#5c5c57")


def _arms(values: Any) -> Any:
    return np.array([[values.mean() - values.min()], [values.max() - values.mean()]])

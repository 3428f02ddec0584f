"""Results of the contest: tables, JSON, and figure of residual fraction against utility."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from matplotlib.figure import Figure

from benchmarks.contest.channel_table import CHANNELS, channel_row, validity
from benchmarks.contest.channel_table import LEGEND as CHANNEL_LEGEND
from benchmarks.contest.data import LLM_OPTIONS, SHORT_WORLD, SPLIT_BY_SUBJECT, World
from benchmarks.contest.settings import approximate_methods, entries_of
from verify.errors import InputError
from verify.io.files import read_json, write_text
from verify.report.svg import as_svg

Runs = Mapping[int, Sequence[Mapping[str, Any]]]
WORDS = ("EQUIVALENT_WITHIN", "NOT_FORGOTTEN", "INCONCLUSIVE", "NOT_TESTABLE", "diverged", "refused")
HEADER = (
    *("method", "verdicts", "exact text alone", "residual", "records under / over", "channels beyond", "attacks", "utility"),
    *("relearning", "probes beyond", "cost"),
)
LEGEND = (
    "Means over the seeds, lowest to highest in brackets. Exact text alone: verdicts on the same scores by rule 1, as contests "
    "before the channels have them. Residual: of the exact texts; 1 untouched, 0 retrained. Records: share "
    "that the audit accuses as remembered / as over-forgotten. Channels: ways of asking that accuse, of those that are valid, the "
    "exact text included. Attacks: number of quick attacks that distinguish it from every reference, in either direction and "
    "beyond both intervals. Utility: token probability on the retain set relative to the references. Relearning: area of excess "
    "recovery after a short training on other records. Probes: treatments under which the residual is beyond the margin. Cost: of "
    "the chosen run, in retrainings by the tokens that it trains on; the search over the settings comes on top. A dash there: "
    "weights are edited without training, and the passes over the records that this takes are not counted."
)
SHORT = (
    "Number of seeds in brackets. Verdicts: E equivalent within the margin, I inconclusive, N not forgotten, T not testable (the "
    "model is broken); then the mean residual fraction (0: retrained) and the mean utility relative to the references. A dash: not "
    "run."
)
OLDER = "they are of 27 November 2026, and their verdicts on every channel (rule 2)"
OLDEST = (
    "they were measured before audits asked in other ways than by the exact text, on which alone their verdicts are (rule 1), and "
    "before controls that a method has read were refused: methods and audits shared them, on which AUC and attacks rest, and the "
    "verdicts do not"
)
"""What is known of results without a rule: with channels, and without."""
ASKED_OTHERWISE = "*"
OTHER_RULE = (
    "With a star: judged on every channel (rule 2). The other columns are verdicts on the exact texts alone (rule 1). Compare "
    "methods within a column."
)
CROWDED = 0.85
"""Utility above which points lie close together in the figure, so that their names are set in a column."""
COLOURS = {"level": "#00694b", "retrain": "#1c1c1a", "untouched": "#9c3d00"}


def write_results(folder: Path, world: str, runs: Runs, suffix: str = "") -> str:
    """Write tables, JSON and figure of a world, with a suffix to its name in the files' names; return the tables."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for entries in runs.values():
        for entry in entries:
            by_method.setdefault(entry["method"], []).append(entry)
    judged = [entry for entries in runs.values() for entry in entries if entry.get("residual")]
    rows = [_row(name, found) for name, found in by_method.items()]
    parts = [
        f"# Approximate methods, {world}",
        _about(world, runs, judged),
        *_rules(judged),
        _table(HEADER, rows),
        LEGEND,
        *_without_verdict(world, by_method),
        "## Asked otherwise",
        validity(runs),
        _table(("method", *CHANNELS), [channel_row(name, found) for name, found in by_method.items()]),
        CHANNEL_LEGEND,
    ]
    text = "\n\n".join(parts) + "\n"
    name = f"contest_{world}_{suffix}" if suffix else f"contest_{world}"
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.json", _compact(runs))
    write_text(folder / f"{name}.svg", _figure(by_method))
    return text


def _compact(runs: Runs) -> str:
    """Format results as JSON with a line for each entry."""
    seeds = []
    for seed, entries in runs.items():
        lines = ",\n".join(json.dumps(_rounded(entry), allow_nan=False, ensure_ascii=False) for entry in entries)
        seeds.append(f'"{seed}": [\n{lines}\n]')
    return "{\n" + ",\n".join(seeds) + "\n}\n"


def _rounded(content: Any) -> Any:
    """Round all numbers to five significant digits, which is more than any of them is known to."""
    if isinstance(content, float):
        return float(f"{content:.5g}")
    if isinstance(content, Mapping):
        return {name: _rounded(value) for name, value in content.items()}
    return [_rounded(value) for value in content] if isinstance(content, list | tuple) else content


def _about(world: str, runs: Runs, judged: Sequence[Mapping[str, Any]]) -> str:
    """Name the machines that it ran on, seeds, references and records."""
    split = "" if world in SPLIT_BY_SUBJECT else ", split by record and not by subject"
    machines, references, records = (
        ", ".join(sorted({str(entry.get(name, absent)) for entry in judged})) or "none"
        for name, absent in (("machine", "machine not recorded"), ("references", "an unrecorded number of"), ("records", "-"))
    )
    seeds = ", ".join(map(str, runs))
    pools = [tried["pool"] for entry in judged for tried in entry.get("tried", ()) if "pool" in tried]
    pool = ""
    if pools:
        cost = np.mean([one["retrainings"] for one in pools])
        pool = (
            f" The pool of the level table: {pools[0]['models']} models, {cost:.1f} retrainings by tokens, spent once and before "
            "any request; no row's cost counts it."
        )
    run = f"{machines}; seeds {seeds}; {references} references; {records} records judged"
    if world == SHORT_WORLD:
        return f"{run}; nothing is tuned on them: the settings are those that were chosen on `smollm2`, with other authors.{pool}"
    return f"{run}, as many others used for tuning{split}.{pool}"


def _rules(judged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say by which rule the verdicts are, as far as the results name it; nothing where there are none."""
    named = sorted({entry["rule"] for entry in judged if "rule" in entry})
    said = [f"Verdicts by rule {' and '.join(map(str, named))}."] if named else []
    for with_channels, known in ((True, OLDER), (False, OLDEST)):
        count = sum("rule" not in entry and ("channels" in entry) is with_channels for entry in judged)
        if count:
            some = "The results name" if count == len(judged) else f"{count} of {len(judged)} results name"
            said.append(f"{some} no rule: {known}.")
    return [" ".join(said)] if said else []


def _without_verdict(world: str, by_method: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Say why methods were refused, and which of the world's entries have no verdict or no probes."""
    reasons: dict[str, str] = {}
    for name, found in by_method.items():
        said = [tried["refused"] for entry in found for tried in entry.get("tried", ()) if "refused" in tried]
        if said:
            reasons[name] = said[0].split(". ")[0].removesuffix(".")
    about = [f"Refused: {'; '.join(reasons.values())}."] if reasons else []
    exact = ("sisa",) if world in LLM_OPTIONS and LLM_OPTIONS[world].lora else ()
    missing = [name for name in entries_of(cast("World", world), [*approximate_methods(), *exact]) if name not in by_method]
    if missing:
        about.append(f"No verdict, as the run ended before them or they were not asked for: {'; '.join(missing)}.")
    unprobed = [name for name, found in by_method.items() if any("utility" in entry and "probes" not in entry for entry in found)]
    if unprobed:
        about.append(f"Not probed, for the same reasons: {'; '.join(unprobed)}.")
    return about


def merged(files: Sequence[Path]) -> tuple[str, dict[int, list[dict[str, Any]]]]:
    """Read result files of one world; of an entry that is in several, the last one counts.

    Returns:
        the world's name, from the files' names, and the entries by seed.

    Raises:
        InputError: the files are of several worlds, or one is no result of a contest.
    """
    worlds = {path.stem.removeprefix("contest_") for path in files}
    if len(worlds) != 1 or not worlds <= set(get_args(World)):
        raise InputError(f"result files of one world are called contest_WORLD.json; got {', '.join(path.name for path in files)}.")
    runs: dict[int, dict[str, dict[str, Any]]] = {}
    for path in files:
        for seed, entries in read_json(path).items():
            runs.setdefault(int(seed), {}).update({entry["method"]: entry for entry in entries})
    return worlds.pop(), {seed: list(found.values()) for seed, found in sorted(runs.items())}


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
    seeds = [f"{world}{ASKED_OTHERWISE * _by_channels(runs)} ({len(runs)})" for world, runs in worlds.items()]
    cells = [("method", *seeds), ("---",) * (len(worlds) + 1)]
    cells += [(name, *(_in_short(found[world, name]) for world in worlds)) for name in names]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    notes = [SHORT, *([OTHER_RULE] if any(map(_by_channels, worlds.values())) else [])]
    text = "\n\n".join(["# Approximate methods, all worlds", table, *notes]) + "\n"
    write_text(folder / "contest.md", text)
    return text


def _by_channels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Return whether a world's verdicts are by every channel, and not by the exact texts alone as before."""
    return any("channels" in entry for entries in runs.values() for entry in entries)


def _in_short(found: Sequence[Mapping[str, Any]]) -> str:
    """Format one method in one world, over its seeds."""
    if not found:
        return "-"
    verdicts = _verdicts(found, {"EQUIVALENT_WITHIN": "E", "NOT_FORGOTTEN": "N", "INCONCLUSIVE": "I", "NOT_TESTABLE": "T"})
    judged = [entry for entry in found if entry.get("residual")]
    if not judged:
        return verdicts
    rho, utility = np.mean([entry["residual"][0] for entry in judged]), np.mean([entry["utility"] for entry in judged])
    return f"{verdicts}; {rho:.2f}; {utility:.2f}"


def _verdicts(found: Sequence[Mapping[str, Any]], short: Mapping[str, str]) -> str:
    counts = {word: sum(entry["verdict"] == word for entry in found) for word in WORDS}
    return ", ".join(f"{count} {short.get(word, word)}" for word, count in counts.items() if count)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows))


def _row(name: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    verdicts = _verdicts(found, {})
    judged = [entry for entry in found if entry.get("residual")]
    if not judged:
        return (name, verdicts, *("-",) * (len(HEADER) - 2))
    alone = [{"verdict": entry["alone"]} for entry in found if "alone" in entry]
    under = [_share(entry, "remembered") for entry in judged]
    over = [sum(entry["accused"].values()) / entry["records"] - _share(entry, "remembered") for entry in judged]
    valid = [[one for one in entry["channels"] if one["valid"]] for entry in judged if "channels" in entry]
    probes = [list(entry["probes"].values()) for entry in judged if "probes" in entry]
    return (
        name,
        verdicts,
        _verdicts(alone, {}) or "-",
        _spread([entry["residual"][0] for entry in judged]),
        f"{np.mean(under):.2f} / {np.mean(over):.2f}",
        _of([sum(one["accused"] for one in channels) for channels in valid], [len(channels) for channels in valid]),
        f"{np.mean([len(entry['seen']) for entry in judged]):.1f}",
        _spread([entry["utility"] for entry in judged]),
        _spread([entry.get("relearning", {}).get("other records") for entry in judged]),
        _of([sum(accused for _, accused in treated) for treated in probes], [len(treated) for treated in probes]),
        _spread([entry.get("share_of_retraining") or None for entry in judged]),
    )


def _of(found: Sequence[int], among: Sequence[int]) -> str:
    """Format mean counts of some and of all."""
    return f"{np.mean(found):.1f} of {np.mean(among):.1f}" if among else "-"


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
        points = np.array(
            [(entry["utility"], entry["residual"][0]) for entry in found if entry.get("residual") and entry["utility"]]
        )
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

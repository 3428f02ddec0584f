"""Figure of the matrix: an adversary's success against utility, one curve per defence, one panel per threat."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.matrix.results import Cell, span
from benchmarks.matrix.rows import Row
from verify.report.svg import as_svg
from verify.schema.parts import Value

HEADLINE = "reference"
"""The membership attack in table and figure: the adversary has only the base model."""

PANELS: tuple[tuple[str, Callable[[Cell], Value]], ...] = (
    (f"membership: AUC of the {HEADLINE} attack", lambda cell: cell.attack(HEADLINE).auc),
    ("extraction: share of a record that comes out", lambda cell: cell.strength),
    ("backdoor: share of triggers that work", lambda cell: cell.triggers.gone),
)

# Based on Okabe and Ito's palette; markers distinguish the curves in greyscale.
_STYLES = (
    ("#b34700", "o"),
    ("#0b3d91", "s"),
    ("#00805c", "^"),
    ("#8a2be2", "D"),
    ("#cc79a7", "v"),
    ("#555555", "P"),
    ("#e69f00", "X"),
    ("#56b4e9", "h"),
    ("#000000", "*"),
)


def draw(cells: Sequence[Cell], rows: Mapping[str, Row]) -> str:
    """Draw the figure as SVG. Every curve starts at no defence; a point is one strength of the defence, the mean over seeds."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(PANELS))
    curves = _curves(cells, rows)
    for axes, (title, success) in zip(panels, PANELS, strict=True):
        for (name, points), (colour, marker) in zip(curves.items(), _STYLES, strict=False):
            _draw_curve(axes, name, points, success, colour, marker)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("utility (token probability on retain data, against retraining)", fontsize=8)
        axes.set_ylim(-0.05, 1.05)
        axes.tick_params(labelsize=8)
        axes.grid(color="#e4e4e0", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(0.5, color="#666666", linewidth=0.8, linestyle=":")
    panels[0].set_ylabel("adversary's success", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return as_svg(figure)


def _curves(cells: Sequence[Cell], rows: Mapping[str, Row]) -> dict[str, list[list[Cell]]]:
    """Return the points of each curve, each the cells of one row; every curve begins with "none"."""
    by_row = {name: [cell for cell in cells if cell.row == name] for name in rows}
    start = by_row["none"]
    curves: dict[str, list[list[Cell]]] = {}
    for name, row in rows.items():
        if row.curve and by_row[name]:
            curves.setdefault(row.curve, [] if name == "none" else [start]).append(by_row[name])
    return curves


def _draw_curve(axes: Any, name: str, points: list[list[Cell]], success: Callable[[Cell], Value], colour: str, marker: str) -> None:
    across = [span([cell.utility for cell in cells]) for cells in points]
    up = [span([success(cell) for cell in cells]) for cells in points]
    axes.errorbar(
        [value.value for value in across],
        [value.value for value in up],
        xerr=_bars(across),
        yerr=_bars(up),
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=1.2,
        elinewidth=0.7,
        label=name,
    )


def _bars(values: Sequence[Value]) -> list[list[float]]:
    return [[value.value - value.low for value in values], [value.high - value.value for value in values]]

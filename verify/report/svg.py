"""Figures of a report as SVG: no scripts, no font files, the same bytes for the same numbers."""

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from verify.schema.figures import Histogram, Residuals, RocCurve

# After Okabe and Ito's palette: distinguishable by colour-blind readers; line styles differ for greyscale.
STYLES: dict[str, Any] = {
    "original": {"color": "#b34700", "linestyle": "--", "linewidth": 1.6},
    "target": {"color": "#0b3d91", "linestyle": "-", "linewidth": 2.2},
    "base": {"color": "#8a8a8a", "linestyle": ":", "linewidth": 1.2},
    "reference": {"color": "#00805c", "linestyle": "-", "linewidth": 0.9, "alpha": 0.75},
    "level table": {"color": "#00805c", "linestyle": "-.", "linewidth": 1.4},
}
NAMES = {
    "original": "before unlearning",
    "target": "this model",
    "base": "base model",
    "reference": "retrained references",
    "level table": "never trained, by level table",
}
ORDER = ("original", "reference", "level table", "target")


def role_of(label: str) -> str:
    """Return the role of a model label: all references share one."""
    return "reference" if label.startswith("reference") else label


def called(label: str) -> str:
    """Return the reader's name of a model, for its label in the evidence."""
    return NAMES.get(label) or label.replace("reference", "retrained")


def draw_losses(histograms: Sequence[Histogram]) -> str:
    """Draw the share of forget records per loss bin: before unlearning, retrained, this model."""
    figure, axes = canvas()
    for role in ORDER:
        for number, entry in enumerate(entry for entry in histograms if role_of(entry.model) == role):
            total = max(sum(entry.counts), 1)
            shares = [count / total for count in entry.counts]
            axes.stairs(shares, entry.edges, label=NAMES[role] if not number else None, **STYLES[role])
    axes.set_xlabel("mean loss of a forget record (nats per token)")
    axes.set_ylabel("share of records")
    return finish(figure, axes)


def draw_roc(curves: Sequence[RocCurve]) -> str:
    """Draw ROC curves on logarithmic axes, which make the low false-positive rates legible."""
    figure, axes = canvas()
    floor = min(curve.fpr[0] for curve in curves)
    axes.plot([floor, 1], [floor, 1], color="#666666", linewidth=0.8, label="guessing")
    for role in ORDER:
        for number, curve in enumerate(curve for curve in curves if role_of(curve.model) == role):
            # A log axis has no zero; it is drawn at the lower edge.
            rates = [max(rate, floor) for rate in curve.tpr]
            axes.plot(curve.fpr, rates, label=NAMES[role] if not number else None, **STYLES[role])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        # Rates as they are said, which also takes half as long to draw as powers of ten.
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    return finish(figure, axes)


def draw_residuals(residuals: Residuals) -> str:
    """Draw the residual of every record, sorted, with its margin on both sides and its value before unlearning."""
    figure, axes = canvas()
    places = range(1, len(residuals.residual) + 1)
    below = [-margin for margin in residuals.margin]
    axes.fill_between(places, below, residuals.margin, color="#cfe3d8", linewidth=0, label="inside the margin")
    axes.plot(places, residuals.gap, ".", color="#b34700", markersize=2.5, label="before unlearning")
    axes.plot(places, residuals.residual, color="#0b3d91", linewidth=1.8, label="this model")
    axes.axhline(0, color="#333333", linewidth=0.6)
    axes.set_xlabel("forget records, sorted")
    axes.set_ylabel("residual (nats per token)")
    return finish(figure, axes)


def canvas() -> tuple[Figure, Axes]:
    """Return an empty figure of the page's width."""
    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e0", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def finish(figure: Figure, axes: Axes, handles: Sequence[Artist] | None = None) -> str:
    """Return the figure as SVG with its legend: above the axes or, where `handles` are given, at the right."""
    # Outside the axes, where the legend covers no data.
    if handles is None:
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    else:
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    # Width and height go; the view box stays, so that the page decides the size.
    opening, rest = as_svg(figure).split(">", 1)
    return re.sub(r' (width|height)="[^"]*"', "", opening) + ">" + rest


def as_svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element: text kept as text, for screen readers; the same bytes for the same numbers."""
    stream = io.StringIO()
    # A fixed salt makes the identifiers reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "unlearn-verify", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # A hundredth of a point is finer than any printer; matplotlib writes a millionth.
    return re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)

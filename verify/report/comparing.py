"""Comparison of several audits of one forget set: forgetting against utility, and every attack by method."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.lines import Line2D

from verify.io.escaping import visible
from verify.report.attack_pages import headline, references_of
from verify.report.svg import canvas, finish
from verify.report.text import yardstick
from verify.schema.evidence import Entry, Evidence
from verify.schema.parts import Value

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
"""One marker shape per method; shapes stay distinct where colours do not."""
INK, CERTIFIED, LONGEST_LABEL = "#0b3d91", "EQUIVALENT_WITHIN", 28


@dataclass(frozen=True)
class Cell:
    """Result of one attack on one method's model.

    Attributes:
        value: the AUC, or the mean score; None where it was not run.
        outside: whether its whole interval lies outside the range of the retrained references; the value alone often does, even
            for an honest retraining.
    """

    value: Value | None
    outside: bool


@dataclass(frozen=True)
class AttackRow:
    """One attack before unlearning, on the retrained references (their range), and on every method's model."""

    attack: str
    measure: str
    before: Value | None
    references: str
    cells: tuple[Cell, ...]


def attack_rows(entries: Sequence[Entry]) -> list[AttackRow]:
    """Return one row per attack that any of the audits ran."""
    names = dict.fromkeys(entry.attack for _, evidence, _ in entries for entry in evidence.attacks)
    return [_row(name, [evidence for _, evidence, _ in entries]) for name in names]


def _row(name: str, evidences: Sequence[Evidence]) -> AttackRow:
    first = next(evidence for evidence in evidences if any(entry.attack == name for entry in evidence.attacks))
    sample = next(entry for entry in first.attacks if entry.attack == name)
    auc = sample.family == "membership" and sample.auc is not None
    values = [headline(entry).value for entry in references_of(first, name)]
    return AttackRow(
        attack=name,
        measure="AUC" if auc else sample.unit,
        before=_value(first, name, "original"),
        references=f"{min(values):.2f} to {max(values):.2f}" if values else "\N{EN DASH}",
        cells=tuple(_cell(evidence, name) for evidence in evidences),
    )


def _value(evidence: Evidence, attack: str, model: str) -> Value | None:
    found = evidence.attack(attack, model)
    return None if found is None else headline(found)


def _cell(evidence: Evidence, attack: str) -> Cell:
    value = _value(evidence, attack, "target")
    range_ = [headline(entry).value for entry in references_of(evidence, attack)]
    return Cell(value, value is not None and bool(range_) and (value.low > max(range_) or value.high < min(range_)))


def _utility(evidence: Evidence) -> Value | None:
    return next((row.ratio for row in evidence.utility if row.model == "target"), None)


def draw_trade(entries: Sequence[Entry]) -> Markup | None:
    """Draw residual fraction against utility, both with intervals; None where no audit has both.

    The shaded band is the margin. A filled marker is a method that was certified.
    """
    points = [(name, evidence, evidence.residual, _utility(evidence)) for name, evidence, _ in entries]
    shown = [(name, evidence, residual, ratio) for name, evidence, residual, ratio in points if residual and ratio]
    if not shown:
        return None
    settings = shown[0][1].settings
    figure, axes = canvas()
    axes.axhspan(-settings.margin, settings.margin, color="#e3efe8", zorder=0)
    axes.axvline(1 - settings.utility_tolerance, color="#666666", linewidth=0.8, linestyle=":")
    axes.axhline(0, color="#333333", linewidth=0.6)
    handles = []
    for number, (name, evidence, residual, ratio) in enumerate(shown):
        across, upward = ([[one.value - one.low], [one.high - one.value]] for one in (ratio, residual))
        axes.errorbar(ratio.value, residual.value, xerr=across, yerr=upward, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
        mark = Line2D([ratio.value], [residual.value], linestyle="none", marker=MARKERS[number % len(MARKERS)], markersize=7)
        mark.set(color=INK, markerfacecolor=INK if evidence.verdict == CERTIFIED else "#ffffff", label=_label(name))
        handles.append(axes.add_line(mark))
    axes.set_xlabel(f"utility kept, relative to {yardstick(shown[0][1])}")
    axes.set_ylabel("residual fraction")
    return Markup(finish(figure, axes, handles))  # noqa: S704 - drawn here


def _label(name: str) -> str:
    """Shorten and escape a method's name for a legend: a dollar sign would start a formula, a leading underscore hide the entry."""
    short = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"
    return f" {visible(short)}".replace("$", r"\$")

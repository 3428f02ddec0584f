"""The report: one self-contained HTML file without script, for a reader who must sign it and for one who must check it.

Whatever comes from outside (model names, numbers of a foreign evidence.json) is escaped, and control and direction-changing
characters are shown instead of obeyed.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from verify.evidence import Evidence
from verify.findings import Histogram, RocCurve, Test, Value
from verify.report.drawings import NAMES, draw_losses, draw_residuals, draw_roc, role_of
from verify.report.text import Entry, comparison_row

TEMPLATES = Path(__file__).parent / "templates"
RECORDS_SHOWN = 50
ROC_ROWS = 12
RESIDUAL_ROWS = 11

PLAIN = {
    "NOT_TESTABLE": "This audit cannot say whether the records have left the model: a condition for judging it was not met.",
    "NOT_FORGOTTEN": "The model still differs on these records from models that never saw them, by more than the agreed margin.",
    "EQUIVALENT_WITHIN": "On these records, as a set, the model is as if it had never seen them, within the agreed margin.",
    "INCONCLUSIVE": "Nothing beyond the margin was found, but the audit is too small to show that nothing is there.",
}


def render(evidence: Evidence) -> str:
    """The report of one audit, as HTML."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            evidence=evidence,
            plain=PLAIN[evidence.verdict],
            key_numbers=_key_numbers(evidence),
            figures=_figures(evidence),
            attacks=_attacks(evidence),
            tests=[(test, _rows(test)) for test in evidence.tests],
            shown=evidence.accused[:RECORDS_SHOWN],
            settings=evidence.settings.model_dump(),
            environment=evidence.environment.model_dump(),
        )
    )


def render_comparison(entries: Sequence[Entry]) -> str:
    """One page that sets several methods' audits side by side.

    Args:
        entries: (method, its audit, its cost as a fraction of a retraining's time or None).
    """
    return (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            rows=[comparison_row(entry) for entry in entries],
            entries=[(name, evidence, PLAIN[evidence.verdict], _figures(evidence)) for name, evidence, _ in entries],
            first=entries[0][1],
        )
    )


def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.finalize = _finalize
    environment.filters["v"] = _value
    return environment


def _finalize(value: Any) -> Any:
    """Make hidden characters visible before anything is put on the page."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def visible(text: str) -> str:
    """Replace control, format and direction characters by their code, so that what is read is what is there."""
    return "".join(
        f"<U+{ord(character):04X}>" if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") else character
        for character in text
    )


def _value(value: Value | None) -> Markup:
    """A number with its interval, on one line."""
    if value is None:
        return Markup("&ndash;")
    return Markup('<span class="n">{}</span> <span class="ci">[{}, {}]</span>').format(
        f"{value.value:.3f}", f"{value.low:.3f}", f"{value.high:.3f}"
    )


def _key_numbers(evidence: Evidence) -> list[tuple[str, Markup, str]]:
    """(what, number, how to read it) for the first page."""
    rows: list[tuple[str, Markup, str]] = []
    if evidence.residual is not None:
        count = f"{evidence.residual.n} references, {evidence.residual.level:.0%} interval"
        rows.append(
            (
                "Residual fraction",
                _value(evidence.residual),
                f"0: as if never seen; 1: untouched; below 0: over-forgotten ({count})",
            )
        )
    if evidence.accused_share is not None:
        total = evidence.accused_share.n
        rows.append(
            (
                "Records beyond the margin",
                Markup("{} of {}").format(len(evidence.accused), total),
                "each tested, corrected for their number",
            )
        )
    for family, name in (("membership", "Strongest membership attack"), ("extraction", "Verbatim extraction")):
        rows += _attack_number(evidence, family, name)
    ratio = next((row.ratio for row in evidence.utility if row.model == "target"), None)
    if ratio is not None:
        rows.append(("Utility kept", _value(ratio), f"token probability on the retain set against an honest model (n = {ratio.n})"))
    return rows


def _attack_number(evidence: Evidence, family: str, name: str) -> list[tuple[str, Markup, str]]:
    own = [entry for entry in evidence.attacks if entry.model == "target" and entry.family == family]
    if family == "membership":
        own = sorted((entry for entry in own if entry.auc is not None), key=lambda entry: -abs(_number(entry).value - 0.5))
    else:
        own = [entry for entry in own if entry.attack == "verbatim"]
    if not own:
        return []
    best = own[0]
    others = [entry for entry in evidence.attacks if entry.attack == best.attack and role_of(entry.model) == "reference"]
    values = [_number(entry).value for entry in others]
    beside = f"references: {min(values):.3f} to {max(values):.3f}" if values else "no reference to compare with"
    what = "AUC" if family == "membership" else "mean share of an answer given back"
    return [(f"{name} ({best.attack})", _value(_number(best)), f"{what}; {beside}")]


def _number(entry: Any) -> Value:
    value: Value = entry.auc if entry.family == "membership" and entry.auc is not None else entry.mean
    return value


def _figures(evidence: Evidence) -> dict[str, Any]:
    """Each figure with its numbers; None where there is nothing to draw."""
    data = evidence.figures
    curves = [curve for curve in data.roc if curve.attack == "loss" and curve.model != "base"]
    histograms = [entry for entry in data.losses if entry.model != "base"]
    return {
        "losses": (Markup(draw_losses(histograms)), _loss_rows(histograms)) if histograms else None,  # noqa: S704 - drawn here
        "roc": (Markup(draw_roc(curves)), _roc_rows(curves)) if curves else None,  # noqa: S704
        "residuals": None if data.residuals is None else (Markup(draw_residuals(data.residuals)), _residual_rows(evidence)),  # noqa: S704
    }


def _loss_rows(histograms: Sequence[Histogram]) -> list[tuple[str, list[str]]]:
    """Quartiles of the losses per model, read off the counts."""
    return [
        (
            NAMES.get(entry.model, entry.model),
            [f"{_quantile(entry, share):.2f}" for share in (0.1, 0.25, 0.5, 0.75, 0.9)],
        )
        for entry in histograms
    ]


def _quantile(entry: Histogram, share: float) -> float:
    """The value below which a share of the counts lies, linear within its bin."""
    total, passed = sum(entry.counts), 0
    for index, count in enumerate(entry.counts):
        if count and passed + count >= share * total:
            left, right = entry.edges[index], entry.edges[index + 1]
            return left + (right - left) * (share * total - passed) / count
        passed += count
    return entry.edges[-1]


def _roc_rows(curves: Sequence[RocCurve]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    grid = curves[0].fpr
    chosen = [round(index * (len(grid) - 1) / (ROC_ROWS - 1)) for index in range(ROC_ROWS)]
    rows = [(f"{grid[index]:.3f}", [f"{curve.tpr[index]:.3f}" for curve in curves]) for index in chosen]
    return [NAMES.get(curve.model, curve.model) for curve in curves], rows


def _residual_rows(evidence: Evidence) -> list[tuple[str, str, str, str]]:
    residuals = evidence.figures.residuals
    assert residuals is not None
    last = len(residuals.residual) - 1
    places = [round(index * last / (RESIDUAL_ROWS - 1)) for index in range(RESIDUAL_ROWS)]
    return [
        (
            f"{place / max(last, 1):.0%}",
            f"{residuals.residual[place]:.3f}",
            f"{residuals.margin[place]:.3f}",
            f"{residuals.gap[place]:.3f}",
        )
        for place in places
    ]


def _attacks(evidence: Evidence) -> list[tuple[str, str, list[Any]]]:
    names = list(dict.fromkeys(entry.attack for entry in evidence.attacks))
    grouped = [(name, [entry for entry in evidence.attacks if entry.attack == name]) for name in names]
    return [(name, f"{group[0].family}, {group[0].unit}", group) for name, group in grouped]


def _rows(test: Test) -> str:
    return "; ".join(f"{quantity.name} = {quantity.value:.5g}" for quantity in test.quantities)

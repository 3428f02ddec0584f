"""The audit report: one self-contained HTML page without scripts, for whoever signs it and whoever checks it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from verify.errors import InputError
from verify.io.files import write_text
from verify.report.assurance import assurances, margin_note
from verify.report.attack_pages import attack_pages, headline, references_of, worst_attack
from verify.report.channel_pages import channel_page
from verify.report.channel_words import channels_in_a_sentence
from verify.report.comparing import attack_rows, draw_trade
from verify.report.rendering import environment, in_plain_words, not_shown_by, number
from verify.report.svg import called, draw_losses, draw_residuals, draw_roc
from verify.report.text import comparison_row, yardstick
from verify.schema.evidence import Entry, Evidence
from verify.schema.figures import Histogram, RocCurve
from verify.schema.parts import Test

RECORDS_SHOWN = 50
ROC_ROWS = 12
RESIDUAL_ROWS = 11


def write_report(evidence: Evidence, path: str | Path) -> Path:
    """Write the report of one audit as one self-contained HTML file and return its path."""
    write_text(path, render(evidence))
    return Path(path)


def render(evidence: Evidence) -> str:
    """Render the report of one audit as HTML."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            evidence=evidence,
            plain=in_plain_words(evidence),
            yardstick=yardstick(evidence),
            assurances=assurances(evidence),
            key_numbers=_key_numbers(evidence),
            figures=figures_of(evidence),
            channels=channel_page(evidence),
            margin_note=margin_note(evidence),
            attacks=attack_pages(evidence),
            tests=[(test, _rows(test)) for test in evidence.tests],
            shown=evidence.accused[:RECORDS_SHOWN],
            rows_shown=RECORDS_SHOWN,
            settings=evidence.settings.model_dump(),
            environment=evidence.environment.model_dump(),
        )
    )


def render_comparison(entries: Sequence[Entry], executed: Mapping[str, str] | None = None) -> str:
    """Render one page that compares the audits of several methods.

    Args:
        entries: (method, its audit, its cost as a fraction of a retraining's time or None).
        executed: method -> what its re-execution found, such as REBUILT_WITHOUT(all of 2), of those that were executed again.

    Raises:
        InputError: the audits are about different records, or compare with different references.
    """
    _require_alike([evidence for _, evidence, _ in entries])
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            rows=[comparison_row(entry) for entry in entries],
            entries=[
                (name, evidence, in_plain_words(evidence), channel_page(evidence), figures_of(evidence))
                for name, evidence, _ in entries
            ],
            first=entries[0][1],
            not_shown=not_shown_by([(name, evidence) for name, evidence, _ in entries]),
            executed=executed or {},
            trade=draw_trade(entries),
            attacks=attack_rows(entries),
        )
    )


def _require_alike(evidences: Sequence[Evidence]) -> None:
    """Raise InputError unless all audits are about one forget set, and use the same retrained references or level table."""
    references = [{model.weights for model in evidence.models if model.role == "reference"} for evidence in evidences]
    for what, values in (
        ("forget records", [evidence.set("forget").digest for evidence in evidences]),
        ("retrained references", references),
        ("level table", [None if evidence.level_table is None else evidence.level_table.digest for evidence in evidences]),
    ):
        if other := next((number for number, value in enumerate(values, 1) if value != values[0]), None):
            raise InputError(f"audit {other} has other {what} than the first. Compare audits of the same records and references.")


def _key_numbers(evidence: Evidence) -> list[tuple[str, Markup, str]]:
    """Return the rows of the first page: (measure, number, how to read it)."""
    rows: list[tuple[str, Markup, str]] = []
    if evidence.residual is not None:
        units = "references" if evidence.level_table is None else "subjects, by level table"
        count = f"{evidence.residual.n} {units}, {100 * evidence.residual.level:.0f} % interval"
        rows.append(
            (
                "Residual fraction",
                number(evidence.residual),
                f"0: as if never seen; 1: untouched; below 0: over-forgotten ({count})",
            )
        )
    if evidence.tests:
        total = evidence.set("forget").records
        rows.append(
            (
                "Records beyond the margin",
                Markup("{} of {}").format(len(evidence.accused), total),
                "each tested, corrected for their number",
            )
        )
    if evidence.channels:
        rows.append(
            ("Asked otherwise", Markup("{}").format(channels_in_a_sentence(evidence)), "each way of asking has a row below")
        )
    if evidence.smallest_margin is not None:
        reading = "the smallest rho* at which the same tests would certify"
        rows.append(("Smallest margin", Markup("{:.3f}").format(evidence.smallest_margin), reading))
    for family, name in (("membership", "Strongest membership attack"), ("extraction", "Verbatim extraction")):
        rows += _attack_number(evidence, family, name)
    ratio = next((row.ratio for row in evidence.utility if row.model == "target"), None)
    if ratio is not None:
        reading = f"token probability on the retain set, relative to {yardstick(evidence)} (n = {ratio.n})"
        rows.append(("Utility kept", number(ratio), reading))
    return rows


def _attack_number(evidence: Evidence, family: str, name: str) -> list[tuple[str, Markup, str]]:
    best = worst_attack(evidence, family)
    if best is None:
        return []
    values = [headline(entry).value for entry in references_of(evidence, best.attack)]
    beside = f"references: {min(values):.3f} to {max(values):.3f}" if values else "no reference to compare with"
    what = "AUC; 0.5 is guessing" if family == "membership" else "mean share of an answer that is reproduced"
    return [(f"{name} ({best.attack})", number(headline(best)), f"{what}; {beside}")]


def figures_of(evidence: Evidence) -> dict[str, Any]:
    """Return each figure with its table of numbers; None where there is nothing to draw."""
    data = evidence.figures
    curves = [curve for curve in data.roc if curve.attack == "loss" and curve.model != "base"]
    histograms = [entry for entry in data.losses if entry.model != "base"]
    return {
        "compared": "the retrained references" if evidence.level_table is None else "models that never saw it, by the level table",
        "losses": (Markup(draw_losses(histograms)), _loss_rows(histograms)) if histograms else None,  # noqa: S704 - drawn here
        "roc": (Markup(draw_roc(curves)), _roc_rows(curves)) if curves else None,  # noqa: S704
        "residuals": None if data.residuals is None else (Markup(draw_residuals(data.residuals)), _residual_rows(evidence)),  # noqa: S704
    }


def _loss_rows(histograms: Sequence[Histogram]) -> list[tuple[str, list[str]]]:
    """Compute quantiles of the losses per model from the histogram counts."""
    return [
        (
            called(entry.model),
            [f"{_quantile(entry, share):.2f}" for share in (0.1, 0.25, 0.5, 0.75, 0.9)],
        )
        for entry in histograms
    ]


def _quantile(entry: Histogram, share: float) -> float:
    """Return the quantile of a histogram, by linear interpolation within its bin."""
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
    return [called(curve.model) for curve in curves], rows


def _residual_rows(evidence: Evidence) -> list[tuple[str, str, str, str]]:
    residuals = evidence.figures.residuals
    assert residuals is not None
    last = len(residuals.residual) - 1
    places = [round(index * last / (RESIDUAL_ROWS - 1)) for index in range(RESIDUAL_ROWS)]
    return [
        (
            f"{100 * place / max(last, 1):.0f} %",
            f"{residuals.residual[place]:.3f}",
            f"{residuals.margin[place]:.3f}",
            f"{residuals.gap[place]:.3f}",
        )
        for place in places
    ]


def _rows(test: Test) -> str:
    return "; ".join(f"{quantity.name} = {quantity.value:.5g}" for quantity in test.quantities)

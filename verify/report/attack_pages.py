"""Per-attack pages of a report: the threat model, the result against every model, and figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from verify.report.charts import Mark, draw_curves, draw_intervals
from verify.report.svg import NAMES, ORDER, role_of
from verify.schema.attack_results import AttackResult
from verify.schema.evidence import Evidence
from verify.schema.parts import Value
from verify.schema.threat_model import ThreatModel

GUESSING = 0.5


@dataclass(frozen=True)
class AttackPage:
    """Content of one attack's page.

    Attributes:
        name: as on the command line.
        about: family and unit.
        threat: who could mount it; None in evidence that predates threat models.
        reading: one sentence that compares this model with the retrained ones.
        intervals, curve: the figures; no curve without never-trained controls.
        rows: the table's rows.
    """

    name: str
    about: str
    threat: ThreatModel | None
    reading: str
    intervals: Markup
    curve: Markup | None
    rows: tuple[AttackResult, ...]


def attack_pages(evidence: Evidence) -> list[AttackPage]:
    """Return a page for each attack that was run, in the audit's order."""
    names = list(dict.fromkeys(entry.attack for entry in evidence.attacks))
    return [_page(evidence, name) for name in names]


def headline(entry: AttackResult) -> Value:
    """Return the attack's headline number: the AUC of a membership attack that has one, else the mean score."""
    return entry.auc if entry.family == "membership" and entry.auc is not None else entry.mean


def worst_attack(evidence: Evidence, family: str) -> AttackResult | None:
    """Return the strongest attack of a family on the audited model, or None.

    Membership: the AUC furthest from guessing. Extraction: verbatim, the share of an answer that is reproduced word for word.
    """
    own = [entry for entry in evidence.attacks if entry.model == "target" and entry.family == family]
    if family == "membership":
        judged = [entry for entry in own if entry.auc is not None]
        return max(judged, key=lambda entry: abs(headline(entry).value - GUESSING), default=None)
    return next((entry for entry in own if entry.attack == "verbatim"), None)


def references_of(evidence: Evidence, attack: str) -> list[AttackResult]:
    """Return the results of one attack on the retrained references."""
    return [entry for entry in evidence.attacks if entry.attack == attack and role_of(entry.model) == "reference"]


def _page(evidence: Evidence, name: str) -> AttackPage:
    rows = tuple(entry for entry in evidence.attacks if entry.attack == name)
    drawn = [entry for role in ORDER for entry in rows if role_of(entry.model) == role]
    auc = all(entry.family == "membership" and entry.auc is not None for entry in drawn)
    axis = "area under the ROC curve; 0.5 is guessing" if auc else f"mean score on the forget set, {rows[0].unit}"
    curves = [curve for curve in evidence.figures.roc if curve.attack == name and role_of(curve.model) in ORDER]
    return AttackPage(
        name=name,
        about=f"{rows[0].family}; score in {rows[0].unit}",
        threat=next((threat for threat in evidence.threats if threat.attack == name), None),
        reading=_reading(evidence, name, auc),
        intervals=draw_intervals(_marks(drawn), axis, GUESSING if auc else None),
        curve=draw_curves(curves) if auc and curves else None,
        rows=rows,
    )


def _marks(entries: Sequence[AttackResult]) -> list[Mark]:
    """Build the figure's rows; labels are this package's own words, since those in the evidence may come from anywhere."""
    marks, references = [], 0
    for entry in entries:
        role = role_of(entry.model)
        references += role == "reference"
        label = f"retrained {references}" if role == "reference" else NAMES[role]
        marks.append(Mark(label, role, headline(entry)))
    return marks


def _reading(evidence: Evidence, name: str, auc: bool) -> str:
    target = evidence.attack(name, "target")
    values = [headline(entry).value for entry in references_of(evidence, name)]
    what = "AUC" if auc else "mean score"
    if target is None:
        return "It was not run on this model."
    own = headline(target)
    here = f"Its {what} on this model is {own} (n = {own.n})"
    if not values:
        return f"{here}; there is no retrained model to compare with."
    inside = min(values) <= own.value <= max(values)
    place = "inside" if inside else "outside"
    return f"{here}, {place} the range of the {len(values)} retrained models, {min(values):.3f} to {max(values):.3f}."

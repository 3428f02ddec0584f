"""What every page shares: the templates, the escaping, the form of a number, and the verdict in plain words.

Whatever comes from outside (model names, numbers of a foreign evidence.json) is escaped, and control and direction-changing
characters are shown instead of obeyed.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from verify.evidence import Evidence
from verify.findings import Tier, Value
from verify.report.assurance import assurances
from verify.report.drawings import called
from verify.visible import visible

TEMPLATES = Path(__file__).parent / "templates"

PLAIN = {
    "NOT_TESTABLE": "This audit cannot say whether the records have left the model: a condition for judging it was not met.",
    "EQUIVALENT_WITHIN": "On these records, as a set, the model is as if it had never seen them, within the agreed margin.",
    "INCONCLUSIVE": "Nothing beyond the margin was found, but the audit is too small to show that nothing is there.",
}
ACCUSED: dict[Tier, str] = {
    "retrained references": "The model still differs on these records from models that never saw them, by more than the margin.",
    "exchangeable twins": "The model still tells some of these records from ones like them that it never saw.",
    "fresh texts": "The model still tells these people from others by texts of theirs that it never saw.",
    "canaries": "The procedure leaves traces: the model still gives away which random texts were trained beside these records.",
}
"""What was found, by what found it; the first of these that accuses is said."""
NO_REFERENCES = "Nothing was found, but nothing can be certified either: that takes models that were trained without these records."
NO_RETAIN = "Nothing beyond the margin was found, but nothing is certified: whether the model still works was not examined."


def in_plain_words(evidence: Evidence) -> str:
    """The verdict as a sentence for somebody who knows none of the words."""
    if evidence.verdict == "NOT_FORGOTTEN":
        return next((ACCUSED[tier] for tier in ACCUSED if tier in evidence.accused_by), ACCUSED["retrained references"])
    if evidence.verdict == "INCONCLUSIVE":
        unexamined = [gate.name for gate in evidence.gates if gate.passed is None and "record" in gate.claims]
        if "retrained references" not in evidence.tiers:
            return NO_REFERENCES
        if "utility" in unexamined:
            return NO_RETAIN
    return PLAIN[evidence.verdict]


def not_shown_by(audits: Sequence[tuple[str, Evidence]]) -> dict[str, None]:
    """What audits, each with the name of what it is about, do not show or check; what only some of several say names these."""
    return _said_by(
        [(name, [*evidence.not_shown, *(one.text for one in assurances(evidence) if one.warns)]) for name, evidence in audits]
    )


def assured_by(audits: Sequence[tuple[str, Evidence]]) -> dict[str, None]:
    """What audits checked of their references and holdout records, named likewise."""
    return _said_by([(name, [one.text for one in assurances(evidence) if not one.warns]) for name, evidence in audits])


def _said_by(said: Sequence[tuple[str, Sequence[str]]]) -> dict[str, None]:
    """Sentences about several things, each once; what is not said of all of them is preceded by a name."""
    common = set.intersection(*(set(sentences) for _, sentences in said)) if said else set()
    return dict.fromkeys(
        sentence if sentence in common else f"{name}: {sentence}" for name, sentences in said for sentence in sentences
    )


def environment() -> Environment:
    """The templates, with every value escaped and every hidden character shown."""
    found = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    found.finalize = _finalize
    found.filters["v"] = number
    found.filters["v2"] = partial(number, digits=2)
    found.filters["minus"] = minus
    found.filters["called"] = called
    found.filters["blanks"] = blanks
    found.filters["cell"] = cell
    return found


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: Value | None, digits: int = 3) -> Markup:
    """A number with its interval; neither of the two is broken over lines."""
    if value is None:
        return Markup("&ndash;")
    return Markup('<span class="n">{}</span> <span class="ci">[{}, {}]</span>').format(
        *(minus(f"{one:.{digits}f}") for one in (value.value, value.low, value.high))
    )


def minus(text: str) -> str:
    """Negative numbers in a sentence with the minus sign that a printer would set; names and hyphens stay as they are."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text)


def cell(text: str) -> Markup:
    """A cell of a plain-text table on a page: a number and its interval are not broken, and an absent one is a dash."""
    if text == "-":
        return Markup("&ndash;")
    pieces = re.fullmatch(r"(\S+) (\[[^\]]*\])", text)
    if pieces is None:
        return escape(minus(visible(text)).replace(" x", "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"))
    return Markup('<span class="n">{}</span> <span class="ci">{}</span>').format(*map(minus, pieces.groups()))


def blanks(text: str) -> Markup:
    """What stands in square brackets is for the sender to fill in, and is marked so that none is forgotten."""
    pieces = re.split(r"(\[[^\[\]]*\])", visible(text))
    marked = Markup('<span class="blank">{}</span>')
    return Markup("").join(marked.format(piece) if piece.startswith("[") else escape(piece) for piece in pieces)

"""Shared parts of all pages: templates, escaping, number formats, and the verdict in plain words.

Everything from outside (model names, numbers of somebody else's evidence.json) is escaped, and control and direction-changing
characters are made visible.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from verify.io.escaping import visible
from verify.report.assurance import assurances
from verify.report.svg import called
from verify.schema.evidence import Evidence
from verify.schema.parts import Tier, Value

TEMPLATES = Path(__file__).parent / "templates"

PLAIN = {
    "NOT_TESTABLE": "This audit cannot say whether the records were removed from the model: a validity check failed.",
    "EQUIVALENT_WITHIN": (
        "On the exact text of these records, as a set, the model behaves like models that never saw them, within the margin. No "
        "other way of asking stands behind this."
    ),
    "INCONCLUSIVE": (
        "This audit could not settle whether the records are gone: it shows neither that they are nor that they are still there."
    ),
}
ASKED = (
    "Asked in {count} ways about these records, as a set, the model behaves like models that never saw them, within the margin. "
    "Other ways of asking may give another answer."
)
ACCUSED: dict[Tier, str] = {
    "retrained references": "The model still differs on these records from models that never saw them, by more than the margin.",
    "level table": (
        "The model still differs on these records from what models that never saw them give, by more than the margin. No model was "
        "retrained for this; a level table says what they would give."
    ),
    "asked otherwise": (
        "Asked in other ways than it was trained on, the model still differs on these records from models that never saw them, by "
        "more than the margin."
    ),
    "shard siblings": (
        "The part of the model that was rebuilt still differs on these records from its other parts, which never saw them, by more "
        "than the margin."
    ),
    "exchangeable twins": "The model still responds to some of these records differently than to similar ones that it never saw.",
    "fresh texts": "The model still responds differently to these people than to others, even on texts that it never saw.",
    "canaries": "The deletion procedure leaves traces: the model still reveals which random test texts it had been trained on.",
}
"""What was found, by tier; the sentence of the first tier that accuses is printed."""
NO_REFERENCES = "This audit could not settle whether the records are gone: that requires models trained without these records."
BY_TABLE: Mapping[str, str] = {
    "EQUIVALENT_WITHIN": (
        "On the exact text of these records, as a set, the model behaves as a level table says of models that never saw them, "
        "within the margin. No model was retrained to compare with, and no other way of asking stands behind this."
    ),
    "asked": (
        "Asked in {count} ways about these records, as a set, the model behaves as a level table says of models that never saw "
        "them, within the margin. No model was retrained to compare with; other ways of asking may give another answer."
    ),
    "one subject": (
        "This audit could not settle whether the records are gone: a level table alone can accuse a model over one person's "
        "records, but never clear it."
    ),
}
"""Sentences for audits that a level table judged."""
NO_RETAIN = "This audit could not settle it: whether the model still works was not examined."


Audits = Sequence[tuple[str, Evidence | None]]
"""Models by name, each with its audit, if it had one."""


def in_plain_words(evidence: Evidence) -> str:
    """Return the verdict as one sentence or two for readers who do not know the four words."""
    if evidence.verdict == "NOT_FORGOTTEN":
        return next((ACCUSED[tier] for tier in ACCUSED if tier in evidence.accused_by), ACCUSED["retrained references"])
    if evidence.verdict == "INCONCLUSIVE":
        if evidence.level_table is not None and any(gate.name == "several subjects" and not gate.passed for gate in evidence.gates):
            return BY_TABLE["one subject"]
        unexamined = [gate.name for gate in evidence.gates if gate.passed is None and "record" in gate.claims]
        if not {"retrained references", "level table"} & set(evidence.tiers):
            return NO_REFERENCES
        if "utility" in unexamined:
            return NO_RETAIN
    if evidence.verdict == "EQUIVALENT_WITHIN":
        asked, exact = ASKED, PLAIN["EQUIVALENT_WITHIN"]
        if evidence.level_table is not None:
            asked, exact = BY_TABLE["asked"], BY_TABLE["EQUIVALENT_WITHIN"]
        return asked.format(count=len(evidence.asked)) if len(evidence.asked) > 1 else exact
    return PLAIN[evidence.verdict]


def not_shown_by(audits: Audits) -> dict[str, None]:
    """Collect what named audits do not show or check; a sentence that does not hold for all is preceded by the model's name."""
    return said_by(
        [
            (name, [*evidence.not_shown, *(one.text for one in assurances(evidence) if one.warns)] if evidence else [])
            for name, evidence in audits
        ]
    )


def assured_by(audits: Audits) -> dict[str, None]:
    """Collect what named audits checked about their references and holdout records, as `not_shown_by` does."""
    return said_by(
        [(name, [one.text for one in assurances(evidence) if not one.warns] if evidence else []) for name, evidence in audits]
    )


def said_by(said: Sequence[tuple[str, Sequence[str]]]) -> dict[str, None]:
    """Merge sentences about several models, each once; one that does not hold for all follows the names of those it is about."""
    named: dict[str, list[str]] = {}
    for name, sentences in said:
        for sentence in dict.fromkeys(sentences):
            named.setdefault(sentence, []).append(name)
    return dict.fromkeys(
        sentence if len(names) == len(said) else f"{', '.join(names)}: {sentence}" for sentence, names in named.items()
    )


def environment(*folders: Path) -> Environment:
    """Return the template environment, with every value escaped and every hidden character made visible.

    Args:
        folders: further folders of templates, searched before that of the pages.
    """
    loader = FileSystemLoader([*folders, TEMPLATES])
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
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
    """Format a number with its interval; neither is broken over lines."""
    if value is None:
        return Markup("&ndash;")
    return Markup('<span class="n">{}</span> <span class="ci">[{}, {}]</span>').format(
        *(minus(f"{one:.{digits}f}") for one in (value.value, value.low, value.high))
    )


def minus(text: str) -> str:
    """Set a typographic minus sign in front of negative numbers; hyphens in names stay as they are."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text)


def cell(text: str) -> Markup:
    """Format a plain-text table cell for a page: number and interval unbroken, an absent value as a dash."""
    if text == "-":
        return Markup("&ndash;")
    pieces = re.fullmatch(r"(\S+) (\[[^\]]*\])", text)
    if pieces is None:
        return escape(minus(visible(text)).replace(" x", "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"))
    return Markup('<span class="n">{}</span> <span class="ci">{}</span>').format(*map(minus, pieces.groups()))


def blanks(text: str) -> Markup:
    """Highlight placeholders in square brackets, which the sender fills in."""
    pieces = re.split(r"(\[[^\[\]]*\])", visible(text))
    marked = Markup('<span class="blank">{}</span>')
    return Markup("").join(marked.format(piece) if piece.startswith("[") else escape(piece) for piece in pieces)

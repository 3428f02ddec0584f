"""Annex of an audit for a data-protection file: what EDPB Opinion 28/2024 and the CNIL ask about a model, answered from evidence.

Every answer is a number or sentence of the audit's evidence, or says that the audit does not answer. What only the controller can
say is left as a placeholder. The page never calls a model anonymous: an audit is about one set of records.

Sources: European Data Protection Board, Opinion 28/2024 on certain data protection aspects related to the processing of personal
data in the context of AI models (17 December 2024); Commission nationale de l'informatique et des libertés, IA : Analyser le statut
d'un modèle d'IA au regard du RGPD (22 July 2025), which asks for documented tests of re-identification.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from verify.report.attack_pages import headline, references_of, worst_attack
from verify.report.channel_words import channels_in_a_sentence
from verify.report.rendering import environment, in_plain_words
from verify.schema.evidence import Evidence

EDPB, CNIL = "EDPB", "CNIL"
LIMITS_SHOWN = 5
FAMILIES = {
    "membership": "whether a record was used in training (membership inference)",
    "extraction": "whether its text comes out",
}
NOT_COVERED = "inference of attributes, inversion of the model, reconstruction of records that are not in the forget set"
"""Attacks that the Opinion names and of which no audit of this program has any."""
TO_ADD = (
    "purposes, legal basis and, for legitimate interests, the balancing test",
    "sources of the training data, how they were selected and minimised",
    "measures in training and at the output, such as filters, and who reviews them",
    "who has access to the model and by which means",
    "impact assessment and advice of the data protection officer",
    "when the tests will be repeated",
)
"""What a supervisory authority may ask in addition to tests, which only the controller can say."""


@dataclass(frozen=True)
class Answer:
    """One row of the annex.

    Attributes:
        asked: what is asked.
        source: who asks it, with the place where it is asked.
        said: the answer.
    """

    asked: str
    source: str
    said: str


def answers(evidence: Evidence) -> list[Answer]:
    """Answer what is asked about a model, as far as one audit's evidence does."""
    forget = evidence.set("forget")
    return [
        Answer("What was tested", f"{CNIL}; {EDPB}, paragraph 55", _tested(evidence)),
        Answer("Extraction of personal data from the model", f"{EDPB}, paragraph 43, first condition", _extraction(evidence)),
        Answer("Personal data obtained by queries", f"{EDPB}, paragraph 43, second condition", _queries(evidence)),
        Answer("Recognition of who was in the training data", f"{EDPB}, paragraph 55; {CNIL}", _membership(evidence)),
        Answer("With which means", f"{EDPB}, means reasonably likely to be used", _means(evidence)),
        Answer("What was not tested", f"{EDPB}, paragraph 55", _not_tested(evidence)),
        Answer(
            "Whose data",
            CNIL,
            f"{forget.records} records of the forget set. Nothing here is about other people in the training data.",
        ),
        Answer("Outcome", f"{EDPB}; {CNIL}", f"{evidence.verdict_phrase}. {in_plain_words(evidence)}"),
        Answer("Documentation", f"{EDPB}, documentation", _documentation(evidence)),
    ]


def _tested(evidence: Evidence) -> str:
    references = sum(model.role == "reference" for model in evidence.models)
    models = "1 model" if references == 1 else f"{references} models"
    compared = f"compared with {models} trained without the records" if references else "without models to compare with"
    if evidence.level_table is not None:
        compared = f"compared with {evidence.level_table.what}; no model was retrained for this"
    target = next(model for model in evidence.models if model.role == "target")
    return f"The weights {target.weights[:16]}, {compared}. A model with other weights was not tested."


def _extraction(evidence: Evidence) -> str:
    attack = worst_attack(evidence, "extraction")
    if attack is None:
        return "Not measured: no attack that extracts text was run."
    beside = _beside(evidence, attack.attack)
    return f"Share of an answer that the model reproduces word for word: {headline(attack)} (n = {headline(attack).n}){beside}."


def _membership(evidence: Evidence) -> str:
    attack = worst_attack(evidence, "membership")
    if attack is None:
        return "Not measured: no such attack was run, or none has a rate, for which it takes records that no model was trained on."
    number, beside = headline(attack), _beside(evidence, attack.attack)
    return f"Strongest of the attacks that were run ({attack.attack}): AUC {number} (n = {number.n}), 0.5 is guessing{beside}."


def _beside(evidence: Evidence, attack: str) -> str:
    """Say what the same attack gives on the references, as the end of a sentence; empty where there are none."""
    values = [headline(entry).value for entry in references_of(evidence, attack)]
    return f"; models that never saw the records: {min(values):.3f} to {max(values):.3f}" if values else ""


def _queries(evidence: Evidence) -> str:
    if not evidence.channels:
        return "Asked with the exact text of the records only. Other ways of asking were not judged."
    names = ", ".join(channel.name for channel in evidence.channels)
    return f"{channels_in_a_sentence(evidence)}: {names}. Nobody can list all ways of asking."


def _means(evidence: Evidence) -> str:
    if not evidence.threats:
        return "Not stated: the evidence predates threat models."
    run = {entry.attack for entry in evidence.attacks}
    seen = list(dict.fromkeys(sight for threat in evidence.threats if threat.attack in run for sight in threat.sees))
    return f"Attackers that have: {'; '.join(seen)}. Whether these are all that is reasonably likely is for the controller to say."


def _not_tested(evidence: Evidence) -> str:
    run = {entry.family for entry in evidence.attacks}
    missing = [said for family, said in FAMILIES.items() if family not in run]
    reasons: dict[str, list[str]] = {}
    for entry in evidence.not_run:
        reasons.setdefault(entry.reason.rstrip("."), []).append(entry.attack)
    for channel in evidence.channels_not_run or ():
        reasons.setdefault(channel.reason.rstrip("."), []).append(channel.channel)
    skipped = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    also = f" Asked for, but not run: {skipped}." if skipped else ""
    listed = "; ".join([*missing, NOT_COVERED])
    return f"{listed[0].upper()}{listed[1:]}.{also} A test that is passed shows resistance to that test only."


def _documentation(evidence: Evidence) -> str:
    fixed = "Settings were not registered beforehand."
    if evidence.registration is not None:
        registered = evidence.registration
        fixed = (
            f"Settings were registered on {registered.created[:10]}, by the clock of whoever registered them (SHA-256 "
            f"{registered.digest[:16]})."
        )
    versions = evidence.environment
    made = f"unlearn-verify {versions.unlearn_verify}, torch {versions.torch}, seed {evidence.settings.seed}"
    return f"evidence.json, SHA-256 {evidence.digest[:16]}, made on {evidence.created[:10]} with {made}. {fixed}"


def render_annex(evidence: Evidence, extra: Sequence[str] = ()) -> str:
    """Render the annex of one audit as one HTML page.

    Args:
        evidence: the audit's evidence.
        extra: further limits to print, such as those of a deletion record.
    """
    return (
        environment()
        .get_template("annex.html.j2")
        .render(
            evidence=evidence,
            answers=answers(evidence),
            not_shown=[*evidence.not_shown[:LIMITS_SHOWN], *extra],
            left_out=max(0, len(evidence.not_shown) - LIMITS_SHOWN),
            to_add=TO_ADD,
        )
    )

"""The compliance report of a deletion: what was requested, done, shown and not shown, first on one page, then in full.

The operator's facts come from a deletion record, the auditor's from the evidence of one audit per replaced model. The verdict is
one of the four words of an audit; nothing here is ever called proved.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from verify.certificate.check import PRECEDENCE, Signer
from verify.errors import InputError
from verify.report.attack_pages import AttackPage, attack_pages, headline, references_of, worst_attack
from verify.report.channel_pages import ChannelPage, channel_page
from verify.report.channel_words import channels_in_a_cell
from verify.report.html import figures_of
from verify.report.rendering import assured_by, environment, in_plain_words, not_shown_by
from verify.schema.deletion_record import DeletionRecord, Outcome, ReplacedModel, RequestFacts
from verify.schema.evidence import Evidence
from verify.schema.parts import Value
from verify.schema.robustness import Robustness

OUTCOMES: dict[Outcome, str] = {
    "deleted": "deleted",
    "denied": "denied",
    "exempt": "exempt by law",
    "not_found": "not found",
    "withdrawn": "withdrawn",
    "open": "open, not yet answered",
}
REGIMES = {"gdpr": "GDPR", "ccpa": "CCPA", "drop": "DROP (California)"}
BASES = {
    "audit": "its audit",
    "exact rebuild": "exact rebuild without the records, accepted by the operator's decision; the audit was inconclusive",
}
ROWS_SHOWN = 200
"""Rows of a long table that are shown; the page says that the rest is in the JSON file."""
LIMITS_FIRST = 4
"""Number of the audit's limits on page 1, the weightiest first, beside all of the operator's own; page 1 is one sheet. The others
follow on the next page."""


@dataclass(frozen=True)
class _Replaced:
    """A replaced model with its audit and everything printed about both; `name` is unique on the page."""

    name: str
    model: ReplacedModel
    evidence: Evidence
    robustness: Robustness | None
    numbers: list[tuple[str, Value | str, str, str]]
    attacks: list[AttackPage]
    channels: ChannelPage | None
    figures: dict[str, Any]

    @property
    def cells(self) -> list[Value | str]:
        """Row of the overview: residual fraction, strongest membership attack, the same on the retrained models, utility."""
        evidence, none = self.evidence, "\N{EN DASH}"
        attack = worst_attack(evidence, "membership")
        ratio = next((row.ratio for row in evidence.utility if row.model == "target"), None)
        baseline = none if attack is None else _baseline(evidence, attack.attack)
        return [evidence.residual or none, none if attack is None else headline(attack), baseline, ratio or none]

    @property
    def how(self) -> list[tuple[str, str]]:
        """Rows on how the weights were replaced: every setting, seeds included."""
        model = self.model
        rows = [
            ("weights before", model.before),
            ("weights after", model.after),
            ("method", model.method),
            ("exactness", model.exactness or "none: an approximate method"),
            ("went into service on the basis of", BASES[model.basis]),
            ("parameters", _settings(model.parameters)),
            ("options", _settings(model.options)),
            ("reported by the method", _settings(model.facts)),
            ("audit (evidence.json)", model.audit_digest),
        ]
        return [(name, value) for name, value in rows if value]


def render(
    record: DeletionRecord,
    evidences: Sequence[Evidence],
    *,
    certificate: str | None = None,
    signers: Sequence[Signer] = (),
    robustness: Sequence[Robustness] = (),
) -> str:
    """Render the report of a batch of deletion requests as one HTML page.

    Args:
        record: the operator's facts.
        evidences: the audit of every replaced model, in any order; matched by the digest of the weights.
        certificate: the certificate's file name, for the command that checks it; None where nothing was signed.
        signers: who signed it.
        robustness: results of robustness probes, if any; matched like the audits.

    Raises:
        InputError: a replaced model has no audit, or an audit is about none of them or gives another verdict than the record.
    """
    replaced = _match(record, evidences, robustness)
    word = next((word for word in PRECEDENCE if word in [one.evidence.verdict for one in replaced]), None)
    counts = Counter(request.outcome for request in record.requests)
    shown = list(not_shown_by([(one.name, one.evidence) for one in replaced]))
    return (
        environment()
        .get_template("deletion.html.j2")
        .render(
            record=record,
            replaced=replaced,
            word=word,
            plain=_plain(word, [one.evidence for one in replaced]),
            phrase=replaced[0].evidence.verdict_phrase if len(replaced) == 1 else word,
            scope=_scope(record),
            assured=assured_by([(one.name, one.evidence) for one in replaced]),
            costs=[_cost(one.name, one.model) for one in replaced],
            counts=[(OUTCOMES[outcome], counts[outcome]) for outcome in OUTCOMES if counts[outcome]],
            not_shown=[*shown[:LIMITS_FIRST], *(sentence for sentence in record.limits if sentence not in shown)],
            not_shown_either=shown[LIMITS_FIRST:],
            residual=Counter(copy.kind for copy in record.residual),
            requests=[(request, REGIMES.get(request.regime, request.regime), _answered(request)) for request in record.requests],
            files=[
                ("deletion.json", record.digest),
                *((f"evidence.json of {one.model.name}", one.model.audit_digest) for one in replaced),
            ],
            noted=_noted(record),
            certificate=certificate,
            signers=signers,
            rows_shown=ROWS_SHOWN,
        )
    )


def _match(record: DeletionRecord, evidences: Sequence[Evidence], robustness: Sequence[Robustness]) -> list[_Replaced]:
    by_weights = {_target(evidence): evidence for evidence in evidences}
    probed = {entry.weights: entry for entry in robustness}
    known = {model.after for model in record.models}
    if foreign := [weights for weights in (*by_weights, *probed) if weights not in known]:
        raise InputError(f"an audit or probe is about weights {foreign[0][:16]}, which this deletion did not make. Leave it out.")
    found = []
    for model in record.models:
        evidence = by_weights.get(model.after)
        if evidence is None:
            raise InputError(f"the replaced model {model.after[:16]} has no audit here. Give its folder with --audits.")
        if evidence.verdict != model.verdict:
            raise InputError(
                f"the deletion record says {model.verdict} of {model.after[:16]}, its audit {evidence.verdict}. "
                "Make the record again from this audit."
            )
        if evidence.digest != model.audit_digest:
            raise InputError(
                f"the audit of {model.after[:16]} is not the one that the deletion record names ({model.audit_digest[:16]}): its "
                "evidence.json was made again or edited. Give the folder as the audit left it."
            )
        alike = sum(other.name == model.name for other in record.models)
        name = model.name if alike == 1 else f"{model.name} ({model.after[:8]})"
        probe, numbers = probed.get(model.after), _numbers(evidence)
        if probe is not None:
            probe.require_same(evidence, "a probe")
        pages = attack_pages(evidence), channel_page(evidence), figures_of(evidence)
        found.append(_Replaced(name, model, evidence, probe, numbers, *pages))
    return found


def _target(evidence: Evidence) -> str:
    return next(model.weights for model in evidence.models if model.role == "target")


def _plain(word: str | None, evidences: Sequence[Evidence]) -> str:
    worst = next((evidence for evidence in evidences if evidence.verdict == word), None)
    if worst is None:
        return "No model was changed: none of these requests led to a deletion."
    plain = in_plain_words(worst)
    if len(evidences) == 1:
        return plain
    return f"{len(evidences)} models were replaced. The one that fared worst: {plain[0].lower()}{plain[1:]}"


def _scope(record: DeletionRecord) -> str:
    """Summarise requests, records and models in one paragraph."""
    days = sorted(request.received for request in record.requests)
    span = f"on {_day(days[0])}" if days[0] == days[-1] else f"between {_day(days[0])} and {_day(days[-1])}"
    near = sum(place.near_duplicates for place in record.data)
    confirmed = f" ({near} of them near-duplicates confirmed by a person)" if near else ""
    return (
        f"{_count(len(record.requests), 'request')}, received {span}. {_count(record.records, 'record')} "
        f"in {_count(len(record.data), 'training file')} matched{confirmed}. "
        f"Models that had seen them and were replaced: {len(record.models)}; old models out of service: {len(record.retired)}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _answered(request: RequestFacts) -> tuple[str, str]:
    """Return the day of the last step of a closed request, and whether that was in time."""
    if request.outcome == "open" or not request.events:
        return "\N{EN DASH}", ""
    day = request.events[-1].day
    if day <= request.answer_by:
        return day.isoformat(), "in time"
    return day.isoformat(), "within the extension" if day <= request.due else "late"


def _numbers(evidence: Evidence) -> list[tuple[str, Value | str, str, str]]:
    """Return the rows of page 1: (measure, this model, retrained without the records, how to read it)."""
    rows: list[tuple[str, Value | str, str, str]] = []
    if evidence.residual is not None:
        reading = f"0 as if never seen, 1 untouched (n\u00a0=\u00a0{evidence.residual.n})"
        rows.append(("Residual fraction", evidence.residual, "0", reading))
    if evidence.tests:
        total = evidence.set("forget").records
        rows.append(
            ("Records beyond the margin", f"{len(evidence.accused)} of {total}", "0", "each tested, corrected for their number")
        )
    if evidence.settings.rule > 1:
        judged = channels_in_a_cell(evidence).replace("/", " of "), "each way of asking is on a later page"
        asked, reading = judged if evidence.channels else ("not judged", "needs never-trained controls and references")
        rows.append(("Asked otherwise", asked, "\N{EN DASH}", reading))
    for family, name, reading in (
        ("membership", "Strongest membership attack", "AUC; 0.5 is guessing"),
        ("extraction", "Reproduced word for word", "mean share of an answer"),
    ):
        found = worst_attack(evidence, family)
        if found is not None:
            number = headline(found)
            rows.append(
                (f"{name} ({found.attack})", number, _baseline(evidence, found.attack), f"{reading} (n\u00a0=\u00a0{number.n})")
            )
    ratio = next((row.ratio for row in evidence.utility if row.model == "target"), None)
    if ratio is not None:
        rows.append(("Utility kept", ratio, "1", f"on the records to keep (n\u00a0=\u00a0{ratio.n})"))
    return rows


def _baseline(evidence: Evidence, attack: str) -> str:
    """Return the range of an attack's headline number over the retrained models."""
    values = [headline(entry).value for entry in references_of(evidence, attack)]
    return f"{min(values):.3f} to {max(values):.3f}" if values else "\N{EN DASH}"


def _settings(settings: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items())


def _noted(record: DeletionRecord) -> list[tuple[str, str]]:
    return [
        ("created", record.created),
        ("head of the request ledger", record.ledger_head),
        ("registration", record.registration or "no: statistics and limits were not fixed beforehand"),
        *((f"weights out of service, {number}", weights) for number, weights in enumerate(record.retired, 1)),
    ]


def _cost(name: str, model: ReplacedModel) -> str:
    """State what the replacement cost, in one sentence."""
    share = "" if model.share_of_retraining is None else f", {model.share_of_retraining:.2f} of the cost of a retraining"
    tried = f" {_count(len(model.rungs), 'cheaper method')} had been tried before." if model.rungs else ""
    return f"{name}: replaced by {model.method} in {_duration(model.seconds)}{share}.{tried}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"

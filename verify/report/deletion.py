"""The compliance report of a deletion: what was requested, done, shown and not shown, first on one page, then in full.

The operator's facts come from a deletion record, the auditor's from the evidence of an audit of each replaced model, from the proof
of the re-execution of its training, or from both. The verdict is one of the four words of an audit; the outcome of a re-execution
stands beside it, in a frame of its own, and the one that accuses comes first. Nothing here is ever called proved.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, TypeVar

from verify.certificate.check import PRECEDENCE, Signer
from verify.errors import InputError
from verify.provenance.training_history import NOT_EXACT
from verify.report.attack_pages import AttackPage, attack_pages, headline, references_of, worst_attack
from verify.report.channel_pages import ChannelPage, channel_page
from verify.report.channel_words import channels_in_a_cell
from verify.report.deletion_attachments import audit_of, proof_of
from verify.report.html import figures_of
from verify.report.reexecuted import cost_of, in_plain_words_of, not_shown_by_execution, rows_of
from verify.report.rendering import assured_by, environment, in_plain_words, not_shown_by, said_by
from verify.schema.deletion_record import DeletionRecord, Outcome, ReplacedModel, RequestFacts
from verify.schema.evidence import Evidence
from verify.schema.parts import Value
from verify.schema.reexecution import Reexecution, ReexecutionWord
from verify.schema.robustness import Robustness

Given = TypeVar("Given")

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
    "exact rebuild": "exact rebuild without the records, accepted by the operator's decision",
    "re-execution": "re-execution of the training without the records, bit for bit",
}
ROWS_SHOWN = 200
"""Rows of a long table that are shown; the page says that the rest is in the JSON file."""
LIMITS_FIRST = 4
"""Number of the audit's limits on page 1, the weightiest first, in addition to all of the operator's own; page 1 is one sheet. The
others follow on the next page."""


REEXECUTIONS: tuple[ReexecutionWord, ...] = ("NOT_REBUILT", "NOT_TESTABLE", "WITHIN_NOISE", "REBUILT_WITHOUT")
"""Outcomes of a re-execution from worst to best; a batch of several models has the worst of theirs."""


@dataclass(frozen=True)
class _Frame:
    """A verdict in plain words, its word, and a note; of several, those that accuse come first."""

    word: str
    plain: str
    phrase: str
    note: str = ""


@dataclass(frozen=True)
class _Replaced:
    """A replaced model with what auditors found and everything printed about both; `name` is unique on the page."""

    name: str
    model: ReplacedModel
    evidence: Evidence | None
    proof: Reexecution | None
    robustness: Robustness | None

    @cached_property
    def numbers(self) -> list[tuple[str, Value | str, str, str]]:
        """Rows of page 1, from the audit."""
        return [] if self.evidence is None else _numbers(self.evidence)

    @cached_property
    def attacks(self) -> list[AttackPage]:
        """What each attack found."""
        return [] if self.evidence is None else attack_pages(self.evidence)

    @cached_property
    def channels(self) -> ChannelPage | None:
        """What each way of asking found; None where there was one way only."""
        return None if self.evidence is None else channel_page(self.evidence)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What the figures draw."""
        return {} if self.evidence is None else figures_of(self.evidence)

    @property
    def executed(self) -> list[tuple[str, str]]:
        """Facts of the re-execution."""
        return [] if self.proof is None else rows_of(self.proof)

    @property
    def cells(self) -> list[Value | str]:
        """Row of the overview: residual fraction, strongest membership attack, the same on the retrained models, utility."""
        none = "\N{EN DASH}"
        if self.evidence is None:
            return [none] * 4
        attack = worst_attack(self.evidence, "membership")
        ratio = next((row.ratio for row in self.evidence.utility if row.model == "target"), None)
        baseline = none if attack is None else _baseline(self.evidence, attack.attack)
        return [self.evidence.residual or none, none if attack is None else headline(attack), baseline, ratio or none]

    @property
    def how(self) -> list[tuple[str, str]]:
        """Rows on how the weights were replaced: every setting, seeds included."""
        model = self.model
        rows = [
            ("weights before", model.before),
            ("weights after", model.after),
            ("method", model.method),
            ("exactness", model.exactness or model.facts.get(NOT_EXACT) or "none: an approximate method"),
            ("went into service on the basis of", _basis(model)),
            ("parameters", _settings(model.parameters)),
            ("options", _settings(model.options)),
            ("reported by the method", _settings(model.facts)),
            ("audit (evidence.json)", model.audit_digest),
            ("proof of the re-execution", None if model.reexecution is None else model.reexecution.proof),
        ]
        return [(name, value) for name, value in rows if value]


def _basis(model: ReplacedModel) -> str:
    """Say on what basis a model went into service, and what an audit said where that was not it."""
    if model.basis != "exact rebuild":
        return BASES[model.basis]
    return f"{BASES[model.basis]}; {'no audit was made' if model.verdict is None else 'the audit was inconclusive'}"


def render(
    record: DeletionRecord,
    evidences: Sequence[Evidence],
    *,
    certificate: str | None = None,
    signers: Sequence[Signer] = (),
    robustness: Sequence[Robustness] = (),
    proofs: Sequence[Reexecution] = (),
) -> str:
    """Render the report of a batch of deletion requests as one HTML page.

    Args:
        record: the operator's facts.
        evidences: the audit of every replaced model that was audited, in any order; matched by the digest of the weights.
        certificate: the certificate's file name, for the command that checks it; None where nothing was signed.
        signers: who signed it.
        robustness: results of robustness probes, if any; matched like the audits.
        proofs: the proof of every re-execution that the record names; matched like the audits.

    Raises:
        InputError: an audit or proof that the record names is missing, or one is about none of the replaced models, is not the one
            that the record names, or has another outcome.
    """
    replaced = _match(record, evidences, robustness, proofs)
    audited = [(one.name, one.evidence) for one in replaced]
    counts = Counter(request.outcome for request in record.requests)
    executed = [(one.name, [] if one.proof is None else list(not_shown_by_execution(one.proof))) for one in replaced]
    shown = list(dict.fromkeys([*said_by(executed), *not_shown_by(audited)]))
    frames = _frames(replaced)
    return (
        environment()
        .get_template("deletion.html.j2")
        .render(
            record=record,
            replaced=replaced,
            frames=frames,
            title="; ".join(frame.word for frame in frames if frame.word) or "no model changed",
            scope=_scope(record),
            assured=assured_by(audited),
            costs=[_cost(one.name, one.model, one.proof) for one in replaced],
            counts=[(OUTCOMES[outcome], counts[outcome]) for outcome in OUTCOMES if counts[outcome]],
            not_shown=[*shown[:LIMITS_FIRST], *(sentence for sentence in record.limits if sentence not in shown)],
            not_shown_either=shown[LIMITS_FIRST:],
            residual=Counter(copy.kind for copy in record.residual),
            requests=[(request, REGIMES.get(request.regime, request.regime), _answered(request)) for request in record.requests],
            files=[
                ("deletion.json", record.digest),
                *((f"evidence.json of {one.model.name}", one.model.audit_digest) for one in replaced if one.evidence),
                *((f"proof of {one.model.name}", one.proof.digest) for one in replaced if one.proof),
            ],
            noted=_noted(record),
            certificate=certificate,
            signers=signers,
            rows_shown=ROWS_SHOWN,
        )
    )


def _match(
    record: DeletionRecord, evidences: Sequence[Evidence], robustness: Sequence[Robustness], proofs: Sequence[Reexecution]
) -> list[_Replaced]:
    audits = _by_weights("audits", ((_target(evidence), evidence) for evidence in evidences))
    probed = _by_weights("probes", ((entry.weights, entry) for entry in robustness))
    executed = _by_weights("proofs", ((proof.model, proof) for proof in proofs))
    known = {model.after for model in record.models}
    if foreign := [weights for weights in (*audits, *probed, *executed) if weights not in known]:
        raise InputError(
            f"an audit, probe or proof is about weights {foreign[0][:16]}, which this deletion did not make. Leave it out."
        )
    found = []
    for model in record.models:
        evidence, proof = audit_of(model, audits.get(model.after)), proof_of(model, executed.get(model.after))
        probe = probed.get(model.after)
        if probe is not None:
            if evidence is None:
                raise InputError(f"a probe is about {model.after[:16]}, which was not audited. Leave it out.")
            probe.require_same(evidence, "a probe")
        alike = sum(other.name == model.name for other in record.models)
        found.append(_Replaced(model.name if alike == 1 else f"{model.name} ({model.after[:8]})", model, evidence, proof, probe))
    return found


def _by_weights(what: str, given: Iterable[tuple[str, Given]]) -> dict[str, Given]:
    """Return what is given about models by the digest of their weights; a second one would be passed over."""
    found: dict[str, Given] = {}
    for weights, one in given:
        if found.setdefault(weights, one) != one:
            raise InputError(
                f"two of the {what} are about the weights {weights[:16]}. Give the one that the deletion record names."
            )
    return found


def _frames(replaced: Sequence[_Replaced]) -> list[_Frame]:
    """Return the frames of page 1: what a re-execution showed and what an audit did, never one word for both.

    An audit that accuses comes before a re-execution that does not; else the re-execution is first.
    """
    found = [frame for frame in (_executed_frame(replaced), _audited_frame(replaced)) if frame is not None]
    if not found:
        return [_Frame("", "No model was changed: none of these requests led to a deletion.", "")]
    return sorted(found, key=lambda frame: frame.word not in ("NOT_REBUILT", "NOT_FORGOTTEN"))


def _executed_frame(replaced: Sequence[_Replaced]) -> _Frame | None:
    proofs = [one.proof for one in replaced if one.proof is not None]
    if not proofs:
        return None
    worst = min(proofs, key=lambda proof: (REEXECUTIONS.index(proof.word), len(proof.executed) == proof.segments))
    phrase = worst.phrase if len(proofs) == 1 else worst.word
    plain = _of_several(in_plain_words_of(worst), "executed again", len(proofs), len(replaced))
    compared = "within numerical noise" if worst.word == "WITHIN_NOISE" else "bit for bit"
    return _Frame(worst.word, plain, phrase, f"The outcome of a re-execution of the training, compared {compared}.")


def _audited_frame(replaced: Sequence[_Replaced]) -> _Frame | None:
    evidences = [one.evidence for one in replaced if one.evidence is not None]
    word = next((word for word in PRECEDENCE if word in [evidence.verdict for evidence in evidences]), None)
    worst = next((evidence for evidence in evidences if evidence.verdict == word), None)
    if worst is None:
        return None
    plain = _of_several(
        in_plain_words(worst), "replaced" if len(evidences) == len(replaced) else "audited", len(evidences), len(replaced)
    )
    if len(replaced) > 1:
        return _Frame(worst.verdict, plain, worst.verdict)
    return _Frame(worst.verdict, plain, worst.verdict_phrase, f"Asked: {', '.join(worst.asked)}." if worst.asked else "")


def _of_several(plain: str, done: str, count: int, models: int) -> str:
    """Prefix what was found of the worst of several models with their number."""
    if models == 1:
        return plain
    of = (
        f"{count} models were {done}."
        if count == models
        else f"{count} of {models} models {'was' if count == 1 else 'were'} {done}."
    )
    return f"{of} {'The one that fared worst: ' if count > 1 else 'Of it: '}{plain[0].lower()}{plain[1:]}"


def _target(evidence: Evidence) -> str:
    return next(model.weights for model in evidence.models if model.role == "target")


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
    """Return the day on which a request was closed, and whether that was in time; notes may come later."""
    if request.outcome == "open" or not request.events:
        return "\N{EN DASH}", ""
    day = next((event.day for event in reversed(request.events) if event.state == "closed"), request.events[-1].day)
    if day <= request.answer_by:
        return day.isoformat(), "in time"
    return day.isoformat(), "within the extension" if day <= request.due else "late"


NEEDED_TO_ASK = "needs never-trained controls, and references or a level table"


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
        asked, reading = judged if evidence.channels else ("not judged", NEEDED_TO_ASK)
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


def _cost(name: str, model: ReplacedModel, proof: Reexecution | None) -> str:
    """State what the replacement and its re-execution cost, in a sentence or two."""
    share = "" if model.share_of_retraining is None else f", {model.share_of_retraining:.2f} of the cost of a retraining"
    tried = f" {_count(len(model.rungs), 'cheaper method')} had been tried before." if model.rungs else ""
    again = "" if proof is None else f" Executed again in {_duration(proof.seconds)}, {cost_of(proof)}."
    return f"{name}: replaced by {model.method} in {_duration(model.seconds)}{share}.{again}{tried}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"

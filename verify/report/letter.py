"""Letter to the person who made a request: what was done and by when, what could not be done and why, and remaining rights.

Plain language, and nothing that the tool does not know: sender, recipient and supervisory authority are placeholders in square
brackets for the sender to fill in. The letter contains no name, because the ledger stores none.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from verify.certificate.check import Claimed
from verify.certificate.reexecution import ReexecutionClaim
from verify.errors import InputError
from verify.io.escaping import visible
from verify.report.rendering import environment
from verify.schema.deletion_record import DeletionRecord, ReplacedModel, RequestFacts
from verify.schema.parts import VerdictWord
from verify.schema.reexecution import Kind

LetterKind = Literal["answer", "extension"]

COMPARED = "We tested the new model on the exact text of the records, against models that were trained without this data."
MEANING = {
    "EQUIVALENT_WITHIN": (
        f"{COMPARED} On the deleted records as a whole it behaves as they do, within the margin of the test. We did not test other "
        "ways of asking for this data."
    ),
    "NOT_FORGOTTEN": f"{COMPARED} We found signs that this data has left traces in it.",
    "INCONCLUSIVE": f"{COMPARED} The test could not settle whether this data has left traces in it.",
    "NOT_TESTABLE": "We could not test whether traces of this data are left in the new model.",
}
OTHERWISE = (
    "We tested the new model on the exact text of the records and in other ways of asking for them, against models that were "
    "trained without this data."
)
ASKED_OTHERWISE = MEANING | {
    "EQUIVALENT_WITHIN": f"{OTHERWISE} On the deleted records as a whole it behaves as they do, within the margin of the test.",
    "NOT_FORGOTTEN": f"{OTHERWISE} We found signs that this data has left traces in it.",
    "INCONCLUSIVE": f"{OTHERWISE} The test could not settle whether this data has left traces in it.",
}
"""For audits that asked in other ways than the exact text."""
WITHOUT_REFERENCES = MEANING | {
    "NOT_FORGOTTEN": "We tested the new model and found signs that this data has left traces in it.",
    "INCONCLUSIVE": "We tested the new model, but a test of this kind cannot show that no trace of this data is left in it.",
}
"""For audits without a model that was trained without the data."""
LIMIT = (
    "No test can exclude that a trace of a single record is left in a language model, or that a question nobody thought of brings "
    "it back."
)
REBUILT = "The new model was trained again without this data."
RETRAINED: dict[Kind, str] = {
    "own schedule": "We trained a new model from the same starting model as before, without {records}.",
    "derived schedule": (
        "We went back to a point in the model's training before {records} had been used, and trained it again from there without "
        "them."
    ),
    "shards": "We trained every part of the model that had learned from {records} again, without them.",
}
"""What was done, by the kind of deletion that was executed again."""
REPEATED = "{who} and arrived at exactly the same model."
NO_PART = "So {records} had no part in the training of the new model."
BY_OUR_RECORD = "That {records} had not been used in the rest of the training is what our own record of that training says."
"""Where states or parts of the training were not computed again: a record that was false from the start would not be noticed."""
SAMPLED = (
    "{who} for {executed} of its {segments} parts, chosen at random, and arrived at exactly the same result each time. That the "
    "other parts were done in the same way is our own word."
)
COUNTERSIGNED = "This computation was repeated, as a second signature confirms,"
"""Where two keys signed. Who holds them, and whether their holders are independent, no file can show."""
OURSELVES = "To check this, we repeated this computation ourselves"
NEARLY = "Other records with nearly the same words stayed in the training; a person looked at each of them and decided so."
NOT_REBUILT = (
    "A check that repeats the computation behind the new model did not confirm it. So we cannot say that the new model was made "
    "without this data."
)
NOT_REPEATED = "We could not check by repeating the computation whether the new model was made without this data."
REPEATED_LIMIT = (
    "This is about our own training. What the model that we started from had learned before, and what other people's records say "
    "about you, is not covered by it."
)
EXTENSIONS = {
    "complexity": "your request is complex",
    "number-of-requests": "of the number of requests that we have to answer",
}
"""The two reasons that Article 12(3) of the General Data Protection Regulation names, worded to follow "because"."""
RIGHTS: dict[str, tuple[str, ...]] = {
    "gdpr": (
        "You may complain to a data protection supervisory authority, in particular in the country where you live, where you "
        "work, or where you think the law was broken (Article 77 of the General Data Protection Regulation). The authority "
        "responsible for us is [name and address of the supervisory authority].",
        "You may also go to court (Article 79 of the Regulation).",
    ),
    "ccpa": (
        "You may complain to the California Privacy Protection Agency or to the Attorney General of California.",
        "We may not treat you worse because you made this request (California Civil Code, section 1798.125).",
    ),
    "drop": (
        "You can see the status of your request where you made it, in California's Delete Request and Opt-out Platform.",
        "You may complain to the California Privacy Protection Agency.",
    ),
}


@dataclass(frozen=True)
class Letter:
    """A letter as an HTML page to print and as plain text for an email."""

    html: str
    text: str


@dataclass(frozen=True)
class _Part:
    """One section of a letter: a heading, paragraphs, and a list."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    items: tuple[str, ...] = ()


def write_letter(
    request: RequestFacts,
    record: DeletionRecord | None = None,
    *,
    sent: date | None = None,
    kind: LetterKind = "answer",
    why: str | None = None,
    certificate: Claimed | None = None,
) -> Letter:
    """Write the letter that answers a request, or announces an extension of the deadline.

    Args:
        request: what was requested, and how it ended.
        record: the deletion record; required where data was deleted.
        sent: the date of the letter; the default is today.
        kind: "answer", or "extension" for a request that is still open.
        why: the reason for an extension, a key of `EXTENSIONS`; None leaves it to be filled in.
        certificate: what the deletion's certificate says (`verify.certificate.check.read_claims`). Only a re-execution that an
            auditor signed there is reported to the person as a check that was made.

    Raises:
        InputError: the request does not fit the kind of letter, or a deletion has no record.
    """
    parts = _extension(request, why) if kind == "extension" else _answer(request, record, certificate)
    rights = RIGHTS.get(request.regime)
    if rights is None:
        raise InputError(f"there is no letter for the rules {request.regime!r}. Known are: {', '.join(RIGHTS)}.")
    parts = [*parts, _Part("Your rights", items=rights)]
    facts = {
        "subject": "Your request for deletion" + (": we need more time" if kind == "extension" else ""),
        "sent": _day(sent or date.today()),
        "number": request.id,
        "received": _day(request.received),
        "parts": parts,
    }
    return Letter(environment().get_template("letter.html.j2").render(**facts), _text(facts, parts))


def _answer(request: RequestFacts, record: DeletionRecord | None, certificate: Claimed | None) -> list[_Part]:
    match request.outcome:
        case "deleted":
            if record is None or all(one.id != request.id for one in record.requests):
                raise InputError(f"the letter about the deletion {request.id} needs its deletion record. Give its deletion.json.")
            return _deleted(request, record, certificate)
        case "denied":
            return [_Part("What we decided", ("We have not deleted your data.", f"The reason: {_sentence(request.reason)}"))]
        case "exempt":
            why = f"The law allows or obliges us to keep it: {_sentence(request.reason)}"
            return [_Part("What we decided", ("We have not deleted the data that your request is about.", why))]
        case "not_found":
            return [_not_found(request)]
        case "withdrawn":
            done = "You withdrew your request, so we have ended our work on it and deleted nothing because of it."
            return [_Part("What we did", (done, "You may ask again at any time."))]
        case "open":
            raise InputError(f"the request {request.id} is still open. Close it first, or write the letter with --extension.")


def _not_found(request: RequestFacts) -> _Part:
    given = "the identifier" if request.identifiers == 1 else f"the {request.identifiers} identifiers"
    return _Part(
        "What we found",
        (
            f"We searched the data that our language models were trained on for {given} in your request and found no record of "
            "you. So there was nothing to delete there.",
            "If we may know you by another name, address or number, write to us, and we will search again.",
        ),
    )


def _deleted(request: RequestFacts, record: DeletionRecord, certificate: Claimed | None) -> list[_Part]:
    """Describe what was done, what it means, and what stays; numbers of a batch are given for all its requests together."""
    day = _closed(request)
    due = " That is later than the day by which we had to answer, for which we apologise." if day > request.due else ""
    others = sum(one.outcome == "deleted" for one in record.requests) - 1
    finished = f"{_done(record, others)} This was finished on {_day(day)}.{due}"
    parts = [_Part("What we did", (*_together(others), finished, *_meaning(record, certificate, others)))]
    if record.residual:
        parts.append(_staying(record, others))
    return parts


def _together(others: int) -> Sequence[str]:
    """State that numbers cover several requests, where they do: the record does not say whose copy is whose."""
    if not others:
        return ()
    more = "another request" if others == 1 else f"{others} other requests"
    return (f"We answered your request together with {more}. All numbers below are of these requests together.",)


def _done(record: DeletionRecord, others: int) -> str:
    data = "the data of these requests" if others else "your data"
    models, files = len(record.models), sum(record.removed.values())
    replaced = "the language model that had" if models == 1 else f"the {models} language models that had"
    done = f"We have replaced {replaced} learned from {data}." if models else f"We have deleted {data}."
    if files:
        copies = "copy" if files == 1 else "copies"
        done += f" We have also removed {files} stored {copies} of it or of models that had learned from it."
    return done


def _staying(record: DeletionRecord, others: int) -> _Part:
    """List what stays and why; for several requests only the kinds, as a reason may be about another person's copy."""
    kinds = [f"{copy.kind[:1].upper()}{copy.kind[1:]}" for copy in record.residual]
    if others:
        said = "Some copies of the data of these requests stay for now, and not all of them contain data of yours."
        whose = "Which of them do, and why they stay: [say here which and why]. They are of these kinds:"
        return _Part("What we could not delete", (f"{said} {whose}",), tuple(dict.fromkeys(kinds)))
    items = tuple(f"{kind}: {_sentence(copy.reason)}" for kind, copy in zip(kinds, record.residual, strict=True))
    return _Part("What we could not delete", ("Some copies stay for now, for these reasons:",), items)


def _meaning(record: DeletionRecord, certificate: Claimed | None, others: int) -> Sequence[str]:
    """Say what checks showed: computations that were repeated, then tests, each with what it leaves open.

    What contradicts the deletion is said whether or not it was signed.
    """
    records = "the records of these requests" if others else "your records"
    repeated = _repeated(record.models, certificate, records)
    bases = [model.basis for model in record.models]
    said = [REBUILT] if bases and all(basis != "audit" for basis in bases) and repeated in ([], [NOT_REPEATED]) else []
    tested = [_found(model, model.verdict) for model in record.models if model.verdict is not None]
    return tuple(dict.fromkeys([*said, *repeated, *tested, *([LIMIT] if said or tested else [])]))


def _repeated(models: Sequence[ReplacedModel], certificate: Claimed | None, records: str) -> list[str]:
    """Say of which models the computation was repeated, with what outcome, and what that leaves open."""
    named = {model.after: model.reexecution for model in models if model.reexecution is not None}
    signed = {} if certificate is None else dict(certificate.reexecutions)
    if "NOT_REBUILT" in {*(one.word for one in named.values()), *(claim.word for claim in signed.values())}:
        return [NOT_REBUILT]
    claims = [signed[weights] for weights, one in named.items() if weights in signed and signed[weights].proof == one.proof]
    rebuilt = [claim for claim in claims if claim.word == "REBUILT_WITHOUT"]
    if not rebuilt or certificate is None:
        return [NOT_REPEATED] if claims else []
    who = COUNTERSIGNED if _two_keys(certificate) else OURSELVES
    said = [f"{RETRAINED[claim.kind].format(records=records)} {_checked(claim, who, records)}" for claim in rebuilt]
    if len(rebuilt) < len(models):
        said = [f"Of {len(rebuilt)} of these {len(models)} models we can say this: {sentence}" for sentence in said]
    near = [NEARLY] if any(claim.near for claim in rebuilt) else []
    return [*dict.fromkeys(said), *near, REPEATED_LIMIT]


def _two_keys(certificate: Claimed) -> bool:
    """Return whether no key signed as operator and as auditor."""
    keys = {role: {signer.key for signer in certificate.signers if signer.role == role} for role in ("operator", "auditor")}
    return keys["operator"].isdisjoint(keys["auditor"])


def _checked(claim: ReexecutionClaim, who: str, records: str) -> str:
    """Say what repeating the computation showed."""
    if claim.executed == claim.segments:
        return f"{REPEATED} {BY_OUR_RECORD if claim.unchanged else NO_PART}".format(who=who, records=records)
    return SAMPLED.format(who=who, executed=claim.executed, segments=claim.segments)


def _found(model: ReplacedModel, verdict: VerdictWord) -> str:
    """Return what the test of one model says."""
    if "asked otherwise" in model.tested_by:
        return ASKED_OTHERWISE[verdict]
    return (MEANING if "retrained references" in model.tested_by else WITHOUT_REFERENCES)[verdict]


def _extension(request: RequestFacts, why: str | None) -> list[_Part]:
    if request.outcome != "open":
        raise InputError(f"the request {request.id} is closed ({request.outcome}); its deadline can no longer be extended.")
    if request.extended_to is None:
        raise InputError(
            f"{request.id} was not extended, or its rules ({request.regime}) know no extension. Answer by {request.answer_by}, or "
            f"note the extension while the ledger still has it open: unlearn request extend {request.id}"
        )
    first = f"We had to answer you by {_day(request.answer_by)}. We need more time, and will answer by {_day(request.extended_to)}."
    return [_Part("When you will hear from us", (first, _because(why)))]


def _because(why: str | None) -> str:
    return "The reason: [say here why more time is needed]." if why is None else f"We need it because {EXTENSIONS[why]}."


def _closed(request: RequestFacts) -> date:
    if not request.events:
        raise InputError(f"the record does not say when {request.id} ended. Make the deletion record again.")
    return request.events[-1].day


def _sentence(reason: str | None) -> str:
    text = (reason or "[say here why]").strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _text(facts: Mapping[str, object], parts: Sequence[_Part]) -> str:
    """Return the plain text: lines wrapped at 72 characters, control characters made visible."""

    def wrap(text: str, first: str = "", rest: str = "") -> str:
        return textwrap.fill(visible(text), 72, initial_indent=first, subsequent_indent=rest, break_long_words=False)

    blocks = ["[Name and address of the sender]", "[Name and address of the person]", str(facts["sent"])]
    blocks += [f"{facts['subject']}\nYour request of {facts['received']}, number {visible(str(facts['number']))}"]
    blocks += ["[Salutation],"]
    for part in parts:
        blocks.append(part.heading.upper())
        blocks += [wrap(paragraph) for paragraph in part.paragraphs]
        if part.items:
            blocks.append("\n".join(wrap(item, "- ", "  ") for item in part.items))
    blocks += ["If you have a question, write to [contact of the data protection officer].", "[Signature]"]
    return "\n\n".join(blocks) + "\n"

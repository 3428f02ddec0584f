"""Letter to the person who made a request: what was done and by when, what is kept and why, who was informed, and remaining rights.

Plain language, and nothing that the tool does not know: what only the sender can say comes from the company's own facts
(`verify.report.letter_words`) or is left as a placeholder in square brackets. The letter contains no name, because the ledger
stores none.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from verify.certificate.check import Claimed
from verify.errors import InputError
from verify.io.escaping import visible
from verify.report.letter_models import about_models, models_of
from verify.report.letter_words import LAYOUT, LETTERS, Words, load_words, templates_folder
from verify.report.rendering import environment
from verify.schema.deletion_record import PARTIES, DeletionRecord, RequestFacts, ResidualCopy

LetterKind = Literal["answer", "extension", "confirmation"]

EXTENSIONS = ("complexity", "number-of-requests")
"""The two reasons that Article 12(3) of the General Data Protection Regulation names."""
REGIMES = ("gdpr", "ccpa", "drop")
"""Rules for which there are letters."""
EXTENDABLE = ("gdpr", "ccpa")
"""Those under which the time for an answer may be extended."""
IN_TRAINING_FILE = "training file"
"""How the kind of a residual copy begins that is a training file with rows that were not removed."""


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
    language: str | None = None,
    templates: Path | None = None,
) -> Letter:
    """Write the letter that answers a request, confirms its receipt, or announces an extension of the deadline.

    Args:
        request: what was requested, and how it ended.
        record: the deletion record; required where data was deleted.
        sent: the date of the letter; the default is today.
        kind: "answer"; "confirmation" or "extension" for a request that is still open.
        why: the reason for an extension, one of `EXTENSIONS`; None leaves it to be filled in.
        certificate: what the deletion's certificate says (`verify.certificate.check.read_claims`). Only a re-execution that an
            auditor signed there is reported to the person as a check that was made.
        language: code of the language; the default is the request's, else the company's, else English.
        templates: the company's folder of templates; the default is that of `letter_words.templates_folder`.

    Raises:
        InputError: the request does not fit the kind of letter, a deletion has no record, or the templates cannot be used.
    """
    if request.regime not in REGIMES:
        raise InputError(f"there is no letter for the rules {request.regime!r}. Known are: {', '.join(REGIMES)}.")
    folder = templates_folder(templates)
    words = load_words(language or request.language, folder)
    match kind:
        case "extension":
            parts = _extension(request, why, words)
        case "confirmation":
            parts = _confirmation(request, words)
        case "answer":
            parts = [*_answer(request, record, certificate, words), *_kept(request, words)]
    if kind == "answer" and request.outcome == "deleted":
        parts += [*_others(request, words), *_backups_and_law(request, words)]
    parts = [*parts, _Part(words.say("heading.rights"), items=tuple(words.below(f"rights.{request.regime}")))]
    return _set(request, sent or date.today(), kind, parts, words, folder)


def _answer(request: RequestFacts, record: DeletionRecord | None, certificate: Claimed | None, words: Words) -> list[_Part]:
    match request.outcome:
        case "deleted":
            if record is None or all(one.id != request.id for one in record.requests):
                raise InputError(f"the letter about the deletion {request.id} needs its deletion record. Give its deletion.json.")
            return _deleted(request, record, certificate, words)
        case "denied" | "exempt":
            reason = words.say(f"decided.{request.outcome}_reason", reason=_sentence(request.reason, words))
            return [_Part(words.say("heading.decided"), (words.say(f"decided.{request.outcome}"), reason, *_late(request, words)))]
        case "not_found":
            searched = words.counted("not_found", request.identifiers)
            said = (words.say("scope"), searched, words.say("not_found.again"), *_late(request, words))
            return [_Part(words.say("heading.found"), said)]
        case "withdrawn":
            return [_Part(words.say("heading.withdrawn"), (words.say("withdrawn.done"), words.say("withdrawn.again")))]
        case "open":
            raise InputError(f"the request {request.id} is still open. Close it first, or write the letter with --extension.")


def _deleted(request: RequestFacts, record: DeletionRecord, certificate: Claimed | None, words: Words) -> list[_Part]:
    """Say what was deleted, what became of the models, and what stays."""
    others = sum(one.outcome == "deleted" for one in record.requests) - 1
    copies = [copy for copy in record.residual if copy.requests is None or request.id in copy.requests]
    near = [words.counted("near_left", request.near_left, reason=words.say("blank.reason"))] if request.near_left else []
    done = [words.say("scope"), _erased(request, record, copies, others, words), *near, *_removed(request, record, others, words)]
    parts = [_Part(words.say("heading.done"), tuple(done))]
    if models := models_of(request, record):
        parts.append(_Part(words.say("heading.model"), about_models(models, record, certificate, words)))
    if copies:
        parts.append(_staying(request, copies, others, words))
    return parts


def _erased(request: RequestFacts, record: DeletionRecord, copies: Sequence[ResidualCopy], others: int, words: Words) -> str:
    """Say how many records of this person were deleted and when; late answers with an apology.

    Records of earlier versions count the records of all requests together, and do not say whose rows a training file still holds:
    then the sender has to.

    Args:
        request: the person's request.
        record: the deletion record.
        copies: the copies that stay and hold this person's data, or may.
        others: number of other requests that were answered together with it.
        words: the sentences of the letter's language.
    """
    count = record.records if request.records is None and not others else request.records
    day = _closed(request)
    found = words.say("found.unknown") if not count else words.counted("found", count)
    left = [copy for copy in copies if copy.kind.startswith(IN_TRAINING_FILE)]
    own = any(copy.requests is not None or not others for copy in left)
    form = "partly" if own else "perhaps" if left else "whole"
    late = f" {words.say('late', due=words.day(request.due))}" if day > request.due else ""
    return f"{found} {words.say(f'erased.{form}', day=words.day(day))}{late}"


def _late(request: RequestFacts, words: Words) -> list[str]:
    """Apologise for an answer other than a deletion that comes after the deadline."""
    return [words.say("late_answer", due=words.day(request.due))] if _closed(request) > request.due else []


def _removed(request: RequestFacts, record: DeletionRecord, others: int, words: Words) -> list[str]:
    """List the kinds of copies of this person's data that were removed, or of the batch's where the record does not say whose."""
    if not others or request.removed is not None:
        counts = _by_word(record.removed if request.removed is None else request.removed, words)
        kinds = [words.say("counted", kind=kind, count=count) for kind, count in counts.items()]
        return [words.say("copies", kinds=", ".join(kinds))] if kinds else []
    kinds = list(_by_word(record.removed, words))
    return [words.say("copies_together", kinds=", ".join(kinds))] if kinds else []


def _by_word(removed: Mapping[str, int], words: Words) -> Counter[str]:
    """Count removed copies by the word for their kind; some kinds share one. The training files are not copies."""
    counts: Counter[str] = Counter()
    for kind, count in removed.items():
        if kind != IN_TRAINING_FILE:
            counts[words.kind(kind)] += count
    return counts


def _staying(request: RequestFacts, copies: Sequence[ResidualCopy], others: int, words: Words) -> _Part:
    """List what stays of this person's data and why.

    The reason for a copy that also holds data of others may speak of them, so the sender says what of it concerns this person, and
    whether a copy does of which it is not known whose data it holds.
    """
    items = []
    for copy in copies:
        if not others or copy.requests == (request.id,):
            reason = _sentence(copy.reason, words)
        else:
            reason = words.say("blank.whether" if copy.requests is None else "blank.reason")
        items.append(words.say("listed", kind=_capital(words.kind(copy.kind)), reason=reason))
    return _Part(words.say("heading.staying"), (words.say("staying"),), tuple(dict.fromkeys(items)))


def _kept(request: RequestFacts, words: Words) -> list[_Part]:
    """Say what is kept after the answer, what for, and for how long; entries against a return only after a deletion."""
    deleted = request.outcome == "deleted"
    record = f"{words.say('kept.record' if deleted else 'kept.only_record')} {words.say(f'kept.why.{request.regime}')}"
    lasting = words.company["retention"]
    basis = [words.company["keeping_basis"]] if request.regime == "gdpr" else []
    said = [*([words.say("kept.entries")] if deleted else []), record, " ".join([lasting, *basis])]
    return [_Part(words.say("heading.kept"), tuple(said))]


def _others(request: RequestFacts, words: Words) -> list[_Part]:
    """Say to whom the data had been passed on and whether they were notified (GDPR Article 19), by numbers alone."""
    if request.recipients is None:
        return [_Part(words.say("heading.others"), (words.say("blank.recipients"),))]
    parties = [one for one in request.recipients if one.kind in PARTIES]
    places = [one for one in request.recipients if one.kind not in PARTIES]
    # A list of the operator's own places does not state that there was nobody else.
    nobody = "blank.recipients" if places and not request.nobody else "others.nobody"
    said = [" ".join(_parties(request, words))] if parties else [words.say(nobody)]
    if places:
        confirmed = sum(one.confirmed is not None for one in places)
        alone = words.say("others.not_cleaned")
        some = alone if len(places) == 1 else words.say("others.cleaned", confirmed=confirmed, count=len(places))
        cleaned = words.counted("others.all_cleaned", len(places)) if confirmed == len(places) else some
        said.append(f"{words.counted('others.places', len(places))} {cleaned}")
    return [_Part(words.say("heading.others"), tuple(said))]


def _parties(request: RequestFacts, words: Words) -> list[str]:
    parties = [one for one in request.recipients or () if one.kind in PARTIES]
    reachable = [one for one in parties if not one.unreachable or one.told is not None or one.confirmed is not None]
    told = sum(one.told is not None or one.confirmed is not None for one in reachable)
    law, count = words.say(f"others.law.{request.regime}"), len(reachable)
    said = [words.counted("others.passed", len(parties))]
    if count and not told:
        said.append(words.say("others.told.none", law=law))
    elif count and told == count < len(parties):
        said.append(words.say("others.told.rest", told=told, law=law))
    elif count and told == count:
        said.append(words.counted("others.told", count, law=law))
    elif count:
        said.append(words.say("others.told.some", told=told, rest=count - told, law=law))
    if confirmed := sum(one.confirmed is not None for one in reachable):
        some = words.say("others.confirmed", confirmed=confirmed)
        said.append(words.counted("others.all_confirmed", count) if confirmed == count else some)
    if count < len(parties):
        alone = words.say("others.exempt.only")
        said.append(alone if len(parties) == 1 else words.counted("others.exempt", len(parties) - count))
    return [*said, words.say("others.names")]


def _backups_and_law(request: RequestFacts, words: Words) -> list[_Part]:
    law = _Part(words.say("heading.law"), (words.say(f"law.{request.regime}"),))
    return [_Part(words.say("heading.backups"), (words.company["backups"],)), law]


def _extension(request: RequestFacts, why: str | None, words: Words) -> list[_Part]:
    if request.outcome != "open":
        raise InputError(f"the request {request.id} is closed ({request.outcome}); its deadline can no longer be extended.")
    if request.extended_to is None:
        raise InputError(
            f"{request.id} was not extended, or its rules ({request.regime}) know no extension. Answer by {request.answer_by}, or "
            f"note the extension while the ledger still has it open: unlearn request extend {request.id}"
        )
    days = words.say("extension.days", answer_by=words.day(request.answer_by), extended_to=words.day(request.extended_to))
    reason = words.say("extension.unknown", reason=words.say("blank.reason")) if why is None else words.say(f"extension.{why}")
    law = f" {words.say(f'extension.law.{request.regime}')}" if request.regime in EXTENDABLE else ""
    return [_Part(words.say("heading.when"), (days, f"{reason}{law}"))]


def _confirmation(request: RequestFacts, words: Words) -> list[_Part]:
    """Confirm receipt, and say how identity is verified and when an answer will come, as 11 CCR 7021(a) asks."""
    if request.outcome != "open":
        raise InputError(f"the request {request.id} is closed ({request.outcome}); its receipt need not be confirmed any more.")
    answer = "confirmation.answer" if request.regime in EXTENDABLE else "confirmation.answer_fixed"
    said = (
        words.say("confirmation.received", received=words.day(request.received)),
        f"{words.say('confirmation.verification')} {words.say('confirmation.search')}",
        words.say(answer, answer_by=words.day(request.due)),
    )
    return [_Part(words.say("heading.next"), said)]


def _closed(request: RequestFacts) -> date:
    """Return the day of the last step; notes, such as a recipient's confirmation, may come later."""
    steps = [event for event in request.events if event.state == "closed"] or list(request.events)
    if not steps:
        raise InputError(f"the record does not say when {request.id} ended. Make the deletion record again.")
    return steps[-1].day


def _sentence(reason: str | None, words: Words) -> str:
    text = (reason or words.say("blank.reason")).strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _set(request: RequestFacts, sent: date, kind: LetterKind, parts: Sequence[_Part], words: Words, folder: Path | None) -> Letter:
    """Set the letter as a page and as plain text."""
    facts = {
        "language": words.language,
        "subject": words.say(f"subject.{kind}"),
        "sent": words.day(sent),
        "reference": words.say("reference", received=words.day(request.received), number=request.id),
        "sender": words.company["sender"].splitlines(),
        "person": words.say("blank.person"),
        "salutation": words.say("blank.salutation"),
        "question": words.say("question"),
        "closing": words.say("closing"),
        "signature": words.company["signature"],
        "parts": parts,
    }
    folders = [place for place in (folder, LETTERS) if place is not None]
    return Letter(environment(*folders).get_template(LAYOUT).render(**facts), _text(facts, parts))


def _text(facts: Mapping[str, object], parts: Sequence[_Part]) -> str:
    """Return the plain text: lines wrapped at 72 characters, control characters made visible."""

    def wrap(text: object, first: str = "", rest: str = "") -> str:
        return textwrap.fill(
            visible(str(text)), 72, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )

    sender = facts["sender"] if isinstance(facts["sender"], list) else []
    blocks = ["\n".join(map(visible, sender)), wrap(facts["person"]), str(facts["sent"])]
    blocks += [f"{wrap(facts['subject'])}\n{wrap(facts['reference'])}", str(facts["salutation"])]
    for part in parts:
        blocks.append(wrap(part.heading.upper()))
        blocks += [wrap(paragraph) for paragraph in part.paragraphs]
        if part.items:
            blocks.append("\n".join(wrap(item, "- ", "  ") for item in part.items))
    blocks += [wrap(facts["question"]), wrap(facts["closing"]), wrap(facts["signature"])]
    return "\n\n".join(block for block in blocks if block) + "\n"

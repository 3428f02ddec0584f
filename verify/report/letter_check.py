"""Compare a letter with the certificate that it refers to: rewritten from the signed deletion record, it has to be the same.

A letter is not part of a certificate, as it is written after the signatures, but nothing in it is free: the deletion record, the
certificate, the templates, the language and the date determine every word. Only the blanks in square brackets are the sender's.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from verify.certificate.attachments import Finding
from verify.certificate.check import Claimed, read_claims
from verify.errors import InputError
from verify.report.letter import write_letter
from verify.report.letter_words import languages, load_words, templates_folder
from verify.schema.deletion_record import DeletionRecord, RequestFacts

LARGEST_LETTER = 1 << 20
"""Size limit in bytes: a letter has some ten kilobytes, and larger files are not read."""
LATEST = 3660
"""Days after the receipt within which the date of a letter is looked for."""
PAGES = (".html", ".htm")
BLANK = re.compile(r"\[[^\[\]]*\]")
"""What the sender fills in."""
AROUND_BLANK, LINE_BREAK = re.compile(r'<span class="blank">|</span>'), re.compile("<br ?/?>")
"""What a page has around a blank, and what may be filled in besides text: other marks could hide the rest of the letter."""
SHOWN = 80
"""Characters of a sentence that a finding repeats."""


@dataclass(frozen=True)
class _Compared:
    """How far a letter says what it should.

    Attributes:
        blanks: number of places that the sender fills in.
        filled: number of characters in them, where the rest is the same.
        agrees: how many characters of what it should say it does say, in order, up to the first difference.
        missing: beginning of the first sentence that it lacks; None where all are there, and something else is, too.
        same: whether it says that and nothing else.
    """

    blanks: int
    filled: int
    agrees: int
    missing: str | None
    same: bool


def letter_finding(path: str | Path, certificate: str | Path, templates: Path | None = None) -> Finding:
    """Compare a letter of reply with what a certificate has it say.

    Args:
        path: the letter, as a page (.html) or as plain text, with the blanks filled in or not.
        certificate: the certificate, which the caller has checked.
        templates: the sender's folder of templates (`verify.report.letter_words`); None for that of the environment, else ours.

    Returns:
        a finding that repeats nothing from the letter, which may hold a name.

    Raises:
        InputError: the letter cannot be read, or the templates cannot be used.
    """
    what, text = f"letter {path}", _read(Path(path))
    claims = replace(read_claims(certificate), verified=True)
    if not claims.requests or not claims.requests[0]:
        return Finding(what, False, "the certificate was signed without a deletion record, from which a letter could be written")
    record = DeletionRecord.parse(json.dumps(claims.requests[0]), "the certificate's deletion record")
    request = next((one for one in record.requests if one.id in text), None)
    if request is None:
        return Finding(what, False, "it names no request of the certificate by its number")
    if request.outcome == "open":
        return Finding(what, False, f"{request.id} is open in the certificate, which only has letters of reply written")
    page = Path(path).suffix.lower() in PAGES
    best: _Compared | None = None
    for letter in _letters(request, record, claims, text, templates, page):
        found = _compared(letter, text, page)
        if found.same:
            own = f"what is in its {found.blanks} blanks, {found.filled} characters, is the sender's and not compared"
            return Finding(what, True, f"what the signed deletion record says of {request.id}{f'; {own}' if found.blanks else ''}")
        best = found if best is None or found.agrees > best.agrees else best
    if best is None:
        return Finding(what, False, f"it bears no date from the receipt of {request.id} on")
    said = f"it lacks, or says otherwise: {best.missing}" if best.missing else "it says more than that, or in another order"
    return Finding(what, False, f"it is not what the signed deletion record says of {request.id}: {said}")


def _read(path: Path) -> str:
    """Read a letter, with every run of white space as one space: mail programs break lines elsewhere."""
    try:
        if path.stat().st_size > LARGEST_LETTER:
            raise InputError(f"{path} has {path.stat().st_size} bytes; a letter is far smaller. Give the right file.")
        return " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a letter ({type(error).__name__}). Give its .html or .txt, as the desk wrote it."
        ) from None


def _letters(
    request: RequestFacts, record: DeletionRecord, claims: Claimed, text: str, templates: Path | None, page: bool
) -> Iterator[str]:
    """Yield what the letter may say, in every language and with every date that it names.

    A letter that was written without the certificate, or without keys to check it with, says less of a repeated computation.

    Raises:
        InputError: the templates cannot be used.
    """
    folder = templates_folder(templates)
    left = (date.max - request.received).days + 1  # days of the calendar: its end may be nearer
    days = [request.received + timedelta(days=number) for number in range(min(LATEST, left))]
    for language in dict.fromkeys((load_words(request.language, folder).language, *languages(folder))):
        words = load_words(language, folder)
        for day in [day for day in days if " ".join(words.day(day).split()) in text]:
            for signed in (claims, replace(claims, verified=False), None):
                write = partial(write_letter, request, record, language=language, templates=templates)
                letter = write(sent=day, certificate=signed)
                yield letter.html if page else letter.text


def _compared(expected: str, given: str, page: bool) -> _Compared:
    """Compare two letters outside the blanks; what is in the blanks of a page must not hide the rest.

    The parts between blanks are looked for one after another, each as early as possible: if they fit at all, they fit so.
    """
    if page:
        expected, given = AROUND_BLANK.sub("", expected), AROUND_BLANK.sub("", given)
    parts = BLANK.split(" ".join(expected.split()))
    blanks, at, agrees = len(parts) - 1, 0, 0
    for number, part in enumerate(parts):
        if number == 0:
            found = 0 if given.startswith(part) else -1
        elif number == blanks:
            found = len(given) - len(part) if given[at:].endswith(part) else -1
        else:
            found = given.find(part, at)
        if found < 0:
            return _Compared(blanks, 0, agrees, _missing(part, given[at:]), False)
        if page and "<" in LINE_BREAK.sub("", given[at:found]):
            return _Compared(blanks, 0, agrees, None, False)
        at, agrees = found + len(part), agrees + len(part)
    return _Compared(blanks, len(given) - agrees, agrees, None, at == len(given))


def _missing(part: str, given: str) -> str | None:
    """Return the beginning of the first sentence of a part that a text lacks; None where it has them all."""
    for sentence in re.split(r"(?<=[.!?:>]) |(?<=>)(?=<)", part):
        if sentence not in given:
            shown = " ".join(re.sub(r"<[^>]*>", " ", sentence).split())
            return f"{shown[:SHOWN]}..." if len(shown) > SHOWN else shown
    return None

"""Write a closed batch's report for the compliance officer and a letter to each person who asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from unlearn.requests.attestation import proof_of
from unlearn.requests.certifying import CERTIFICATE
from unlearn.requests.ledger.request import Request
from unlearn.requests.request_facts import facts_of
from unlearn.requests.robustness_check import stored_for
from verify.certificate.check import read_claims
from verify.certificate.reexecution import read_proof
from verify.errors import InputError, RunError
from verify.io.files import disk_errors, write_text
from verify.report.deletion import render
from verify.report.letter import Letter, write_letter
from verify.report.letter_words import load_words, templates_folder
from verify.report.pdf import write_pdf
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence
from verify.schema.robustness import Robustness

REPORT = "report.html"
PRINTED = "report.pdf"
LETTERS = "letters"
LARGEST_LETTERS = 1 << 16
"""Bytes that a letter as HTML and text takes at most."""


def write_report(
    record: DeletionRecord, folder: Path, made: Sequence[Mapping[str, Any]], pdf: bool, notify: Callable[[str], None]
) -> list[Path]:
    """Write the compliance report, and print it to PDF if requested and possible.

    The HTML page is byte-identical for the same record, audits, probes and certificate. A PDF contains its creation time, so it is
    made only once for each page.

    Args:
        record: the batch's deletion record.
        folder: the batch's folder; the report names its certificate if there is one.
        made: the ledger's entries of the deployed models.
        pdf: whether to print the report.
        notify: receives the reason if no PDF can be made.
    """
    signed = (folder / CERTIFICATE).exists()
    probed = [path for entry in made if (path := stored_for(folder, entry)) is not None]
    page = render(
        record,
        [Evidence.load(folder / entry["audit"] / "evidence.json") for entry in made if entry.get("audit") is not None],
        certificate=CERTIFICATE if signed else None,
        signers=read_claims(folder / CERTIFICATE).signers if signed else (),
        robustness=[Robustness.load(path) for path in probed],
        proofs=[read_proof(path)[0] for entry in made if (path := proof_of(folder, entry)) is not None],
    )
    if not (folder / REPORT).exists() or (folder / REPORT).read_bytes() != page.encode():
        (folder / PRINTED).unlink(missing_ok=True)  # a PDF of an outdated page
    write_text(folder / REPORT, page)
    if pdf and not (folder / PRINTED).exists():
        _print(page, folder / PRINTED, notify)
    return [path for path in (folder / REPORT, folder / PRINTED) if path.exists()]


def _print(page: str, path: Path, notify: Callable[[str], None]) -> None:
    """Print the page; a failure is reported but not raised, as the HTML page has the same content."""
    try:
        write_pdf(page, path)
    except (InputError, RunError) as error:
        notify(f"no {path.name} was written: {error}")


def write_letters(record: DeletionRecord, folder: Path, templates: Path | None = None) -> list[Path]:
    """Write each request's letter as HTML and text, unless it exists; its date is the day on which it was first written.

    Args:
        record: the batch's deletion record.
        folder: the batch's folder.
        templates: the company's folder of templates (`verify.report.letter_words`).
    """
    written = []
    # The desk signed it, into its own folder.
    claims = replace(read_claims(folder / CERTIFICATE), verified=True) if (folder / CERTIFICATE).exists() else None
    for request in record.requests:
        letter = partial(write_letter, request, record, certificate=claims, templates=templates)
        written += _once(folder / LETTERS / request.id, letter)
    return written


def require_templates(requests: Sequence[Request], templates: Path | None) -> None:
    """Check that the letters of some requests can be written, before anything is removed or recorded.

    Raises:
        InputError: there are no letters in a request's language, or the company's templates cannot be used.
    """
    folder = templates_folder(templates)
    for language in dict.fromkeys(request.language for request in requests):
        load_words(language, folder)


def require_writable(folder: Path) -> None:
    """Check that letters can be written into a folder, which is made if it is missing, before the ledger says that they were.

    Raises:
        RunError: the disk is full, or the folder is not writable.
    """
    with disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as stream:
            stream.write(bytes(LARGEST_LETTERS))
            stream.flush()


def write_confirmation(request: Request, folder: Path, templates: Path | None = None) -> list[Path]:
    """Write the letter that confirms the receipt noted in the ledger, with the date recorded there, unless it exists.

    Raises:
        InputError: no confirmation was noted, or the request has ended since.
    """
    if request.confirmation is None:
        raise InputError(f"the receipt of {request.id} was not confirmed. First run: unlearn request confirm {request.id}")
    sent = date.fromisoformat(request.confirmation["told"])
    letter = partial(write_letter, facts_of(request), sent=sent, kind="confirmation", templates=templates)
    return _once(folder / LETTERS / f"{request.id}-confirmation", letter)


def write_extension(request: Request, folder: Path, templates: Path | None = None) -> list[Path]:
    """Write the letter that notifies a person of the extension in the ledger, with the date recorded there, unless it exists.

    Raises:
        InputError: the request was not extended, or has ended since.
    """
    if request.extension is None:
        raise InputError(f"{request.id} was not extended. First run: unlearn request extend {request.id} --reason REASON")
    sent, why = date.fromisoformat(request.extension["told"]), request.extension["reason"]
    letter = partial(write_letter, facts_of(request), sent=sent, kind="extension", why=why, templates=templates)
    return _once(folder / LETTERS / f"{request.id}-extension", letter)


def _once(stem: Path, made: Callable[[], Letter]) -> list[Path]:
    """Write a letter as HTML and text at `stem` if either is missing; return both paths."""
    page, text = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".html", ".txt"))
    if not (page.exists() and text.exists()):
        letter = made()
        write_text(page, letter.html, mode=0o600)
        write_text(text, letter.text, mode=0o600)
    return [page, text]

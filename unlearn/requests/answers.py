"""What people read of a closed batch: the report for the compliance officer, and a letter to everybody who asked."""

from collections.abc import Sequence
from pathlib import Path

from unlearn.requests.statement import CERTIFICATE
from verify.certificate_check import read_claims
from verify.deletion_record import DeletionRecord
from verify.evidence import Evidence
from verify.files import write_text
from verify.report.deletion import render
from verify.report.letter import write_letter

REPORT = "report.html"
LETTERS = "letters"


def write_report(record: DeletionRecord, folder: Path, audits: Sequence[Path]) -> Path:
    """Write the compliance page; the same bytes for the same record, audits and certificate.

    Args:
        record: the batch's.
        folder: of the batch; its certificate is named where there is one.
        audits: the audits of the replaced models.
    """
    signed = (folder / CERTIFICATE).exists()
    page = render(
        record,
        [Evidence.load(audit / "evidence.json") for audit in audits],
        certificate=CERTIFICATE if signed else None,
        signers=read_claims(folder / CERTIFICATE).signers if signed else (),
    )
    write_text(folder / REPORT, page)
    return folder / REPORT


def write_letters(record: DeletionRecord, folder: Path) -> list[Path]:
    """Write each request's letter, as a page and as text, unless it is there: it bears the day on which it was first written."""
    written = []
    for request in record.requests:
        page, text = (folder / LETTERS / f"{request.id}{suffix}" for suffix in (".html", ".txt"))
        if not (page.exists() and text.exists()):
            letter = write_letter(request, record)
            write_text(page, letter.html, mode=0o600)
            write_text(text, letter.text, mode=0o600)
        written += [page, text]
    return written

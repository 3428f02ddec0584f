"""What people read of a closed batch: the report for the compliance officer, and a letter to everybody who asked."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from unlearn.requests.attestation import CERTIFICATE, facts_of
from unlearn.requests.ledger.ledger import Request
from unlearn.requests.robustness_check import kept
from verify.certificate.check import read_claims
from verify.errors import InputError, RunError
from verify.io.files import write_text
from verify.report.deletion import render
from verify.report.letter import Letter, write_letter
from verify.report.pdf import write_pdf
from verify.schema.deletion_record import DeletionRecord
from verify.schema.evidence import Evidence
from verify.schema.robustness import Robustness

REPORT = "report.html"
PAPER = "report.pdf"
LETTERS = "letters"


def write_report(
    record: DeletionRecord, folder: Path, made: Sequence[Mapping[str, Any]], pdf: bool, tell: Callable[[str], None]
) -> list[Path]:
    """Write the compliance page, and print it to PDF where that was asked for and can be done.

    The page is the same bytes for the same record, audits, probes and certificate; a PDF bears the time at which it was made, so
    that it is made once for each page.

    Args:
        record: the batch's.
        folder: of the batch; its certificate is named where there is one.
        made: the ledger's entries of the replaced models.
        pdf: whether to print it.
        tell: told why there is no PDF.
    """
    signed = (folder / CERTIFICATE).exists()
    probed = [path for entry in made if (path := kept(folder, entry)) is not None]
    page = render(
        record,
        [Evidence.load(folder / entry["audit"] / "evidence.json") for entry in made],
        certificate=CERTIFICATE if signed else None,
        signers=read_claims(folder / CERTIFICATE).signers if signed else (),
        robustness=[Robustness.load(path) for path in probed],
    )
    if not (folder / REPORT).exists() or (folder / REPORT).read_bytes() != page.encode():
        (folder / PAPER).unlink(missing_ok=True)  # it would show another page than the one beside it
    write_text(folder / REPORT, page)
    if pdf and not (folder / PAPER).exists():
        _print(page, folder / PAPER, tell)
    return [path for path in (folder / REPORT, folder / PAPER) if path.exists()]


def _print(page: str, path: Path, tell: Callable[[str], None]) -> None:
    """The HTML page says the same: that it cannot be printed here is told, and stops nothing."""
    try:
        write_pdf(page, path)
    except (InputError, RunError) as error:
        tell(f"no {path.name} was written: {error}")


def write_letters(record: DeletionRecord, folder: Path) -> list[Path]:
    """Write each request's letter, as a page and as text, unless it is there: it bears the day on which it was first written."""
    written = []
    for request in record.requests:
        written += _once(folder / LETTERS / request.id, partial(write_letter, request, record))
    return written


def write_extension(request: Request, folder: Path) -> list[Path]:
    """Write the letter that tells a person of the extension that the ledger notes, unless it is there; of the day noted there.

    Raises:
        InputError: the request was not extended, or has ended since.
    """
    if request.extension is None:
        raise InputError(f"{request.id} was not extended. Note that first: unlearn request extend {request.id} --reason REASON")
    sent, why = date.fromisoformat(request.extension["told"]), request.extension["reason"]
    letter = partial(write_letter, facts_of(request), sent=sent, kind="extension", why=why)
    return _once(folder / LETTERS / f"{request.id}-extension", letter)


def _once(stem: Path, made: Callable[[], Letter]) -> list[Path]:
    """A letter as page and text at `stem`, made where either is missing."""
    page, text = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".html", ".txt"))
    if not (page.exists() and text.exists()):
        letter = made()
        write_text(page, letter.html, mode=0o600)
        write_text(text, letter.text, mode=0o600)
    return [page, text]

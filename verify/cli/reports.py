"""Commands that write documents: report, compare, deletion-report, annex, letter, and the templates of letters."""

import dataclasses
import re
from collections.abc import Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from verify.cli.flags import EXIT_STATUS

if TYPE_CHECKING:
    from verify.schema.deletion_record import DeletionRecord, RequestFacts


KEYS_NEED = dict.fromkeys(("key", "operator_key", "auditor_key"), "--certificate")
"""What keys are for in commands that write documents."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Recompute every number of an audit from its scores, and write the report again."""

    audit: Annotated[Path, tyro.conf.Positional]
    """The folder that `audit` wrote."""
    output: Path | None = None
    """A file for the report; without it and --pdf, the numbers are only recomputed."""
    pdf: Path | None = None
    """A file for the same report as PDF; needs Chromium."""

    def run(self) -> int:
        """Recompute, print the table, and return the verdict's exit status; 1 if a number does not follow from the scores."""
        from verify.auditing.recompute import recompute
        from verify.report.html import render
        from verify.report.text import summary

        evidence = recompute(self.audit)
        covered = "Models, settings and registration are as the audit wrote them; a certificate protects them."
        print(f"{summary(evidence)}\n\nEvery number follows from {self.audit / 'scores.parquet'}. {covered}")  # noqa: T201
        _write(render(evidence), self.output, self.pdf)
        return EXIT_STATUS[evidence.verdict]


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare the audits of several methods: forgetting against utility, and every attack by method."""

    audits: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The folders that `audit` wrote, all with the same records and references."""
    output: Path
    """A file for the page."""
    names: tuple[str, ...] = ()
    """A name for each audit, in the same order; the default is the folder's name."""
    pdf: Path | None = None
    """A file for the same page as PDF; needs Chromium."""

    def run(self) -> int:
        """Print the table and write the page."""
        from verify.errors import InputError
        from verify.report.html import render_comparison
        from verify.report.text import comparison
        from verify.schema.evidence import Entry, Evidence

        names = self.names or _distinct_names(self.audits)
        if not self.audits:
            raise InputError("name the audits: verify-unlearning compare DIR ... --output FILE, by the folders that `audit` wrote.")
        if len(names) != len(self.audits):
            raise InputError(f"{len(self.audits)} audits and {len(names)} names were given. Give --names one for each audit.")
        entries: list[Entry] = [
            (name, Evidence.load(folder / "evidence.json"), None) for name, folder in zip(names, self.audits, strict=True)
        ]
        print(comparison(entries))  # noqa: T201
        _write(render_comparison(entries), self.output, self.pdf)
        return 0


def _distinct_names(folders: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the folders' names, preceded by the parent folder's if two are the same."""
    own = [folder.resolve().name for folder in folders]
    return tuple(own) if len(set(own)) == len(own) else tuple("/".join(folder.resolve().parts[-2:]) for folder in folders)


@dataclasses.dataclass(frozen=True)
class DeletionReport:
    """Write the compliance page of a batch of deletion requests: what was requested, done, shown and not shown."""

    NEEDS: ClassVar[Mapping[str, str]] = KEYS_NEED

    deletion: Annotated[Path, tyro.conf.Positional]
    """deletion.json: the operator's facts."""
    output: Path
    """A file for the report."""
    audits: tuple[Path, ...] = ()
    """The folders of the replaced models' audits."""
    reexecutions: tuple[Path, ...] = ()
    """The proofs that `reexecute` wrote about these models."""
    robustness: tuple[Path, ...] = ()
    """The files that `probe` wrote about these models."""
    certificate: Path | None = None
    """The certificate; the report names its signers and the command that checks it."""
    key: tuple[Path, ...] = ()
    """Public keys that you trust; the certificate is then checked first, and no report is written if it fails."""
    operator_key: tuple[Path, ...] = ()
    """Public keys that may have signed as operator."""
    auditor_key: tuple[Path, ...] = ()
    """Public keys that may have signed as auditor."""
    pdf: Path | None = None
    """A file for the same report as PDF; needs Chromium."""

    def run(self) -> int:
        """Write the page."""
        from verify.certificate.check import read_claims
        from verify.certificate.reexecution import read_proof
        from verify.report.deletion import render
        from verify.schema.deletion_record import DeletionRecord
        from verify.schema.evidence import Evidence
        from verify.schema.robustness import Robustness

        record = DeletionRecord.load(self.deletion)
        if self.certificate is not None:
            _require_about(record, self.deletion, self.certificate, (self.key, self.operator_key, self.auditor_key))
        page = render(
            record,
            [Evidence.load(folder / "evidence.json") for folder in self.audits],
            certificate=None if self.certificate is None else self.certificate.name,
            signers=() if self.certificate is None else read_claims(self.certificate).signers,
            robustness=[Robustness.load(path) for path in self.robustness],
            proofs=[read_proof(path)[0] for path in self.reexecutions],
        )
        _write(page, self.output, self.pdf)
        return 0


@dataclasses.dataclass(frozen=True)
class AnnexCommand:
    """Write the annex of an audit for a data-protection file: what EDPB Opinion 28/2024 and the CNIL ask, on one page."""

    audit: Annotated[Path, tyro.conf.Positional]
    """The folder that `audit` wrote."""
    output: Path
    """A file for the page."""
    deletion: Path | None = None
    """deletion.json of the deletion that the audit is about; its limits are printed as well."""
    pdf: Path | None = None
    """A file for the same page as PDF; needs Chromium."""

    def run(self) -> int:
        """Write the page."""
        from verify.errors import InputError
        from verify.report.annex import render_annex
        from verify.schema.deletion_record import DeletionRecord
        from verify.schema.evidence import Evidence

        evidence = Evidence.load(self.audit / "evidence.json")
        record = None if self.deletion is None else DeletionRecord.load(self.deletion)
        if record is not None and all(model.audit_digest != evidence.digest for model in record.models):
            raise InputError(f"{self.deletion} is about no model with this audit. Give the record of its deletion, or none.")
        _write(render_annex(evidence, () if record is None else record.limits), self.output, self.pdf)
        return 0


@dataclasses.dataclass(frozen=True)
class LetterCommand:
    """Write the letters of reply to deletion requests; sender and addressee are left for you to fill in."""

    NEEDS: ClassVar[Mapping[str, str]] = {**KEYS_NEED, "confirmation": "no --extension"}

    deletion: Annotated[Path, tyro.conf.Positional]
    """deletion.json: the operator's facts."""
    output: Path
    """A folder for the letters: NUMBER.html and NUMBER.txt for each request."""
    requests: tuple[str, ...] = ()
    """Numbers of the requests; the default is all closed ones."""
    extension: bool = False
    """Write notices that the reply will take longer, for open requests, which must be named with --requests."""
    confirmation: bool = False
    """Write confirmations of receipt, for open requests, which must be named with --requests."""
    language: str | None = None
    """Language of the letters (en, de, fr, es); the default is the one noted with each request, else that of the templates."""
    templates: Path | None = None
    """Your folder of letter templates (`letter-templates` makes one); the default is $UNLEARN_VERIFY_LETTERS, else ours."""
    sent: date | None = None
    """Date of the letter; the default is today."""
    certificate: Path | None = None
    """The certificate; a letter tells of a repeated computation only where it was signed there, and of a second signature only
    where you give the keys to check it with."""
    key: tuple[Path, ...] = ()
    """Public keys that you trust; the certificate is then checked first, and no letter is written if it fails."""
    operator_key: tuple[Path, ...] = ()
    """Public keys that may have signed as operator."""
    auditor_key: tuple[Path, ...] = ()
    """Public keys that may have signed as auditor."""

    def run(self) -> int:
        """Write two files for each request."""
        from verify.certificate.check import read_claims
        from verify.io.files import write_text
        from verify.report.letter import LetterKind, write_letter
        from verify.schema.deletion_record import DeletionRecord

        record = DeletionRecord.load(self.deletion)
        chosen = self._chosen(record)
        if self.certificate is not None:
            _require_about(record, self.deletion, self.certificate, (self.key, self.operator_key, self.auditor_key))
        verified = bool(self.key or self.operator_key or self.auditor_key)
        claims = None if self.certificate is None else dataclasses.replace(read_claims(self.certificate), verified=verified)
        kind: LetterKind = "extension" if self.extension else "confirmation" if self.confirmation else "answer"
        write = partial(write_letter, sent=self.sent, kind=kind, certificate=claims)
        letters = [write(request, record, language=self.language, templates=self.templates) for request in chosen]
        for request, letter in zip(chosen, letters, strict=True):
            write_text(self.output / f"{request.id}.html", letter.html, mode=0o600)
            write_text(self.output / f"{request.id}.txt", letter.text, mode=0o600)
        print(f"{len(letters)} letters: {self.output}")  # noqa: T201
        return 0

    def _chosen(self, record: "DeletionRecord") -> "list[RequestFacts]":
        from verify.errors import InputError

        known = {request.id: request for request in record.requests}
        if unknown := [name for name in self.requests if name not in known]:
            raise InputError(f"{len(unknown)} of the requests named are not in {self.deletion}. Give numbers that it contains.")
        if (self.extension or self.confirmation) and not self.requests:
            raise InputError("letters to people whose requests are open are for named requests only. Name them with --requests.")
        chosen = [known[name] for name in self.requests] or [one for one in record.requests if one.outcome != "open"]
        # A number becomes a file name, and the record is untrusted input.
        if any(not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", request.id) for request in chosen):
            raise InputError(
                f"{self.deletion} has a request number that is not a file name. Use letters, digits, - and _ only, at most 64."
            )
        return chosen


@dataclasses.dataclass(frozen=True)
class LetterTemplates:
    """Copy the templates of the letters (every sentence in four languages, the layout, the company's facts) for you to edit."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A new folder; name it then with --templates, or in $UNLEARN_VERIFY_LETTERS. Files and sentences that you delete are ours."""

    def run(self) -> int:
        """Copy them and print their paths."""
        from verify.report.letter_words import copy_templates

        for path in copy_templates(self.folder):
            print(path)  # noqa: T201
        return 0


def _require_about(
    record: "DeletionRecord", deletion: Path, certificate: Path, keys: tuple[tuple[Path, ...], tuple[Path, ...], tuple[Path, ...]]
) -> None:
    """Require that a certificate is about this record and, with keys (for both roles, operator, auditor), that it verifies."""
    from verify.certificate.check import Trusted, check_certificate, read_claims
    from verify.certificate.signing import load_public_key
    from verify.errors import InputError

    if any(keys):
        trusted = Trusted(*([load_public_key(path) for path in paths] for paths in keys))
        checked = check_certificate(certificate, trusted, deletion=deletion)
        if broken := [finding for finding in checked.findings if not finding.holds]:
            raise InputError(f"{certificate} does not hold: {broken[0].what}: {broken[0].detail}. Correct that first.")
    elif {request.get("ledger_head") for request in read_claims(certificate).requests} != {record.ledger_head}:
        raise InputError(f"{certificate} is not about {deletion}. Give the certificate of this deletion, or none.")


def _write(page: str, output: Path | None, pdf: Path | None) -> None:
    from verify.io.files import write_text

    if output is not None:
        write_text(output, page)
        print(f"report: {output}")  # noqa: T201
    if pdf is not None:
        from verify.report.pdf import write_pdf

        write_pdf(page, pdf)
        print(f"pdf: {pdf}")  # noqa: T201

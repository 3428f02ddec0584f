"""Commands around a certificate: keygen, certify, check, timestamp, log-entry, bom."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

if TYPE_CHECKING:
    from verify.certificate.attachments import Finding
    from verify.certificate.signing import Statement


@dataclasses.dataclass(frozen=True)
class Keygen:
    """Create a key pair for signing certificates: FILE (keep it secret) and FILE.pub (give it to those who check)."""

    output: Path
    """A new file for the private key."""

    def run(self) -> int:
        """Make the keys and print the id of the public one."""
        from verify.certificate.statements import make_key

        print(f"key {make_key(self.output)}\nprivate: {self.output}\npublic:  {self.output}.pub")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Certify:
    """Sign how a model was unlearned and what its audit or re-execution found: anybody with the public key can check it."""

    model: tuple[Path, ...]
    """The unlearned model's folder; several if several models were replaced."""
    original: tuple[Path, ...]
    """The folder of the model before unlearning; one per model, in the same order."""
    key: Path
    """The auditor's private key."""
    output: Path
    """A new file for the certificate."""
    audit: tuple[Path, ...] = ()
    """The folders that `audit` wrote: one per model, which only a re-execution replaces."""
    reexecution: tuple[Path, ...] = ()
    """The proofs that `reexecute` wrote, in any order, in addition to an audit or in its place."""
    operator_key: Path | None = None
    """The operator's private key, if the operator is not the auditor; the default is the auditor's."""
    deletion: Path | None = None
    """deletion.json: what was requested and when, where the data was, what was done, what remains. It holds no personal data."""
    robustness: tuple[Path, ...] = ()
    """The files that `probe` wrote; one per model, or none."""

    def run(self) -> int:
        """Sign and write.

        Raises:
            RunError: a number or sentence of an audit does not follow from its scores. Whoever hands in an edited audit can rewrite
                its manifest, too.
        """
        from verify.auditing.recompute import recompute
        from verify.certificate.statements import auditor_statements, load_signer, operator_statement, sign, write_certificate
        from verify.io.files import read_json

        audits, proofs = self._by_model()
        for audit in audits.values():
            recompute(audit)
        auditor = load_signer(self.key)
        operator = auditor if self.operator_key is None else load_signer(self.operator_key)
        about = None if self.deletion is None else read_json(self.deletion)
        envelopes = []
        for number, (model, original) in enumerate(zip(self.model, self.original, strict=True)):
            robustness = self.robustness[number] if self.robustness else None
            made = operator_statement(model, original, about)
            found = auditor_statements(audits.get(number), robustness, proofs.get(number))
            _require_one_deletion(made, found, model, original)
            envelopes.append(sign(made, operator))
            envelopes += [sign(statement, auditor) for statement in found]
        write_certificate(self.output, envelopes)
        keys = f"--key {self.key}.pub"
        if self.operator_key is not None:
            keys = f"--operator-key {self.operator_key}.pub --auditor-key {self.key}.pub"
        print(f"certificate: {self.output}\ncheck it:    verify-unlearning check {self.output} {keys}")  # noqa: T201
        return 0

    def _by_model(self) -> tuple[dict[int, Path], dict[int, Path]]:
        """Return the audit and the proof of each model, by its number; a proof is matched by the digest of the weights."""
        from verify.certificate.reexecution import read_proof
        from verify.errors import InputError
        from verify.io.files import verify_manifest

        self._require_as_many()
        weights = [str(verify_manifest(model)["about"].get("weights")) for model in self.model]
        proofs: dict[int, Path] = {}
        for path in self.reexecution:
            about = read_proof(path)[0].model
            if about not in weights:
                known = ", ".join(one[:16] for one in weights)
                raise InputError(
                    f"{path} is about the weights {about[:16]}, those of --model are {known}. Give the proof of this model."
                )
            if weights.index(about) in proofs:
                raise InputError(
                    f"{path} is the second proof about the weights {about[:16]}. Give one --reexecution for each model."
                )
            proofs[weights.index(about)] = path
        if not self.audit and len(proofs) < len(self.model):
            raise InputError(
                f"there is no --audit, and --reexecution is about {len(proofs)} of {len(self.model)} models. Give a proof of each, "
                "or an audit of each."
            )
        return dict(enumerate(self.audit)), proofs

    def _require_as_many(self) -> None:
        from verify.errors import InputError

        counts = {"--original": len(self.original)}
        counts |= {"--audit": len(self.audit)} if self.audit or not self.reexecution else {}
        counts |= {"--robustness": len(self.robustness)} if self.robustness else {}
        for flag, count in counts.items():
            if count != len(self.model):
                raise InputError(
                    f"{flag} names {count} and --model {len(self.model)}. Give one {flag} for each model, in the same order."
                )


def _require_one_deletion(made: "Statement", found: Sequence["Statement"], model: Path, original: Path) -> None:
    """Require that what the auditor says is about the weights of these folders, which must be two: no check would hold otherwise.

    Raises:
        InputError: the statements are about other weights, before or after, or nothing was changed.
    """
    from verify.errors import InputError

    after = made["subject"][0]["digest"]["sha256"]
    before = made["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"]
    if after == before:
        raise InputError(f"{model} has the very weights of {original}: nothing was unlearned. Give the model after the deletion.")
    for statement in found:
        about = statement["subject"][0]["digest"]["sha256"]
        from_before = statement["predicate"].get("annotations", {}).get("weights_before_deletion", before)
        for flag, folder, own, other in (("--model", model, after, about), ("--original", original, before, from_before)):
            if own != other:
                raise InputError(
                    f"{flag} {folder} has the weights {own[:16]}, the audit or re-execution is about {other[:16]}. Give the audit "
                    "of this deletion, and the two models that it compared."
                )


@dataclasses.dataclass(frozen=True)
class Check:
    """Check a certificate and name exactly what does not verify; exit status 0 if everything holds, else 1."""

    NEEDS: ClassVar[Mapping[str, str]] = {
        "timestamp": "--authority",
        "authority": "--timestamp",
        "bundle": "--log-key",
        "log_key": "--bundle",
        "templates": "--letter",
    }

    certificate: Annotated[Path, tyro.conf.Positional]
    """The certificate."""
    key: tuple[Path, ...] = ()
    """Public keys that you trust in either role; if you give several, no single one may have signed in both."""
    operator_key: tuple[Path, ...] = ()
    """Public keys that may have signed as operator."""
    auditor_key: tuple[Path, ...] = ()
    """Public keys that may have signed as auditor."""
    model: Path | None = None
    """The model in service, to compare with the certified one."""
    audit: Path | None = None
    """The audit's folder, to compare with the certified evidence."""
    deletion: Path | None = None
    """deletion.json, to compare with the certified facts."""
    ledger_head: str | None = None
    """The head of the request ledger, as you noted it when the certificate was made."""
    ledger: Path | None = None
    """The ledger's SQLite file; its chain must be unbroken and contain the certified head."""
    reexecution: Path | None = None
    """The proof of a re-execution, to compare with the certified one; its draw and counts are computed again."""
    commitment: Path | None = None
    """The commitment to the training, whose root and date must be those of the re-execution."""
    timestamp: Path | None = None
    """A time stamp (RFC 3161) on the certificate's file, from `timestamp` or `openssl ts`."""
    authority: tuple[Path, ...] = ()
    """Root certificates (PEM) of time-stamping authorities that you trust."""
    bundle: Path | None = None
    """A transparency log's entry of one of its statements, from `log-entry`; checked offline."""
    log_key: Path | None = None
    """The public key (PEM) of the transparency log that you trust."""
    letter: tuple[Path, ...] = ()
    """Letters of reply (.html or .txt); each must say what the signed deletion record says, except in the blanks, which the sender
    fills in."""
    templates: Path | None = None
    """With --letter: the sender's folder of letter templates; the default is $UNLEARN_VERIFY_LETTERS, else ours."""

    def run(self) -> int:
        """Check and print one line per finding."""
        from verify.certificate.check import Trusted, check_certificate
        from verify.certificate.signing import load_public_key
        from verify.io.escaping import visible

        given = (self.key, self.operator_key, self.auditor_key)
        checked = check_certificate(
            self.certificate,
            Trusted(*([load_public_key(path) for path in paths] for paths in given)),
            model=self.model,
            audit=self.audit,
            deletion=self.deletion,
            ledger_head=self.ledger_head,
            ledger=self.ledger,
            reexecution=self.reexecution,
            commitment=self.commitment,
            timestamp=self.timestamp,
            authorities=self.authority,
            bundle=self.bundle,
            log_key=self.log_key,
        )
        findings = [*checked.findings, *self._letters(checked.holds)]
        for finding in findings:
            # A certificate is untrusted input: control characters in its texts must not reach the terminal.
            print(visible(f"{'holds' if finding.holds else 'FAILS'}  {finding.what}: {finding.detail}"))  # noqa: T201
        if holds := all(finding.holds for finding in findings):
            several = len({*checked.phrases, *checked.reexecutions}) > 1
            said = [("re-execution", weights, claim.phrase) for weights, claim in checked.reexecutions.items()]
            said += [("verdict", weights, phrase) for weights, phrase in checked.phrases.items()]
            for kind, weights, phrase in said:
                print(visible(f"{kind}: {phrase}{f' (weights {weights[:16]})' if several else ''}"))  # noqa: T201
        return 0 if holds else 1

    def _letters(self, holds: bool) -> "list[Finding]":
        """Compare the letters with the certificate, where that holds."""
        from verify.certificate.attachments import Finding

        if not holds:
            return [
                Finding(f"letter {path}", False, "it was not compared, as the certificate does not hold") for path in self.letter
            ]
        if not self.letter:
            return []
        from verify.report.letter_check import letter_finding

        return [letter_finding(path, self.certificate, self.templates) for path in self.letter]


@dataclasses.dataclass(frozen=True)
class Timestamp:
    """Get a time stamp (RFC 3161) on a file from an authority, or check one; the authority sees only a digest."""

    NEEDS: ClassVar[Mapping[str, str]] = {"authority": "--check", "check": "--authority"}

    file: Annotated[Path, tyro.conf.Positional]
    """A certificate, registration, commitment, ledger head: whatever must be shown to have existed today."""
    url: str | None = None
    """The authority. The stamp is written beside the file, with .tsr added to its name."""
    query: Path | None = None
    """Write the query to this new file instead, to be sent by other means (curl, `openssl ts`)."""
    check: Path | None = None
    """Check this stamp on the file instead."""
    authority: tuple[Path, ...] = ()
    """With --check: root certificates (PEM) of authorities that you trust."""

    def run(self) -> int:
        """Print the path of the stamp or query, or the time that was signed."""
        from verify.certificate.timestamps import check_stamp, stamp_file, stamp_query
        from verify.errors import InputError
        from verify.io.escaping import visible
        from verify.io.files import atomic_file, no_file

        if [self.url, self.query, self.check].count(None) != 2:
            raise InputError("give one of --url (get a stamp), --query (write the request for one) and --check (check one).")
        if self.url is not None:
            print(stamp_file(self.file, self.url))  # noqa: T201
            return 0
        if not self.file.is_file():
            raise InputError(f"{self.file} {no_file(self.file)}. Name the file to stamp.")
        if self.query is not None:
            if self.query.exists():
                raise InputError(f"{self.query} exists. Name a new file for the query.")
            with atomic_file(self.query) as stream:
                stream.write(stamp_query(self.file.read_bytes()).as_bytes())
            print(self.query)  # noqa: T201
            return 0
        assert self.check is not None, "one of three is given"
        found = check_stamp(self.check, self.file.read_bytes(), self.authority)
        print(visible(f"{self.file} existed on {found.at.isoformat()}, by {found.authority}"))  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class BillOfMaterials:
    """Write the bill of materials (CycloneDX ML-BOM) of a certificate that holds: model, training data, certificate, by digest."""

    certificate: Annotated[Path, tyro.conf.Positional]
    """The certificate."""
    output: Path
    """A new .json file."""
    key: tuple[Path, ...] = ()
    """Public keys that you trust in either role, as for `check`."""
    operator_key: tuple[Path, ...] = ()
    """Public keys that may have signed as operator."""
    auditor_key: tuple[Path, ...] = ()
    """Public keys that may have signed as auditor."""

    def run(self) -> int:
        """Check the certificate and write the file."""
        from verify.certificate.bill_of_materials import bill_of_materials, write_bill_of_materials
        from verify.certificate.check import Trusted, check_certificate
        from verify.certificate.signing import load_public_key

        given = (self.key, self.operator_key, self.auditor_key)
        trusted = Trusted(*([load_public_key(path) for path in paths] for paths in given))
        write_bill_of_materials(self.output, bill_of_materials(self.certificate, check_certificate(self.certificate, trusted)))
        print(self.output)  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class LogEntry:
    """Enter a certificate's statement in a transparency log, and keep the entry in Sigstore's bundle format.

    The log is sent the whole statement, and keeps digests of it; a public log makes them public, for good.
    """

    certificate: Annotated[Path, tyro.conf.Positional]
    """The certificate."""
    url: str
    """The log (Rekor's interface)."""
    key: Path
    """The public key of the statement's signer."""
    output: Path
    """A new file for the bundle."""
    statement: int = 1
    """Number of the statement in the certificate, as `check` counts them."""

    def run(self) -> int:
        """Send the envelope and write the bundle."""
        from verify.certificate.check import envelopes_of
        from verify.certificate.signing import load_public_key
        from verify.certificate.transparency import log_envelope
        from verify.errors import InputError
        from verify.io.files import write_json

        if self.output.exists():
            raise InputError(f"{self.output} exists. Name a new file with --output.")
        envelopes = envelopes_of(self.certificate)
        if not 1 <= self.statement <= len(envelopes):
            raise InputError(f"{self.certificate} has {len(envelopes)} statements; --statement {self.statement} is none of them.")
        load_public_key(self.key)
        write_json(self.output, log_envelope(envelopes[self.statement - 1], self.key.read_text(encoding="ascii"), self.url))
        print(self.output)  # noqa: T201
        return 0

"""Check a certificate: list what verifies and exactly what does not. Imports no torch."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from verify.certificate.agreement import agreement, record_findings, reexecution_findings, requests_of
from verify.certificate.attachments import Attachments, Finding, Pair, attachment_findings
from verify.certificate.claims import adapter_finding, claim_finding, claimed_phrase, judge_findings
from verify.certificate.internal_consistency import said_twice
from verify.certificate.ledger_facts import ledger_findings
from verify.certificate.reexecution import ReexecutionClaim, claim_of
from verify.certificate.registered import registration_findings
from verify.certificate.signing import PAYLOAD_TYPE, PROVENANCE, REEXECUTION, SCHEMA, STATEMENT_TYPE, TEST_RESULT, Statement
from verify.certificate.timestamps import check_stamp
from verify.certificate.transparency import check_bundle
from verify.errors import InputError, IntegrityError
from verify.io.envelopes import signed_by
from verify.io.files import read_json
from verify.io.strict_json import NotStrictError, parse_json

LARGEST_FILE = 16 << 20
"""Size limit in bytes: a certificate has some ten kilobytes, and larger files are not read."""

DIGEST = re.compile("[0-9a-f]{64}")

ROLES = {PROVENANCE: "operator", TEST_RESULT: "auditor", REEXECUTION: "auditor"}
"""Who signs which in-toto predicate."""

PARTS = {PROVENANCE: "operator", TEST_RESULT: "auditor", REEXECUTION: "reexecution"}
"""Place of each predicate's statement among those about one model."""

PRECEDENCE = ("NOT_FORGOTTEN", "NOT_TESTABLE", "INCONCLUSIVE", "EQUIVALENT_WITHIN")
"""Verdicts from worst to best; a certificate of several models has the worst of theirs."""


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
        findings: everything that was checked, in order.
        verdicts: the auditor's verdict by the digest of the weights, for every auditor's statement that verified.
        phrases: the same verdicts with the margin and level of the audit.
        reexecutions: what the auditor states of executing the training again, likewise. Its words stand beside the verdicts.
    """

    findings: tuple[Finding, ...]
    verdicts: dict[str, str]
    phrases: dict[str, str]
    reexecutions: dict[str, ReexecutionClaim]

    @property
    def holds(self) -> bool:
        """Whether everything verified."""
        return all(finding.holds for finding in self.findings)

    @property
    def verdict(self) -> str | None:
        """The worst verdict over all models; None where no auditor's statement verified."""
        return next((word for word in PRECEDENCE if word in self.verdicts.values()), None)


@dataclass(frozen=True)
class Trusted:
    """The public keys that the reader trusts.

    Attributes:
        either: for both roles. If there are several, no single one may have signed in both roles: a reader who gives two keys
            expects two signers.
        operator, auditor: for that role alone.
    """

    either: Sequence[SSlibKey] = ()
    operator: Sequence[SSlibKey] = ()
    auditor: Sequence[SSlibKey] = ()

    def all(self) -> list[SSlibKey]:
        """Return all trusted keys, of any role."""
        return [*self.either, *self.operator, *self.auditor]

    def allows(self, role: str, key: str) -> bool:
        """Return whether the key with this id may sign in the role."""
        own = self.operator if role == "operator" else self.auditor
        return any(one.keyid == key for one in (*self.either, *own))

    def allows_both(self, key: str) -> bool:
        """Return whether one signer may act in both roles: the only key given, or one given for both."""
        named = all(any(one.keyid == key for one in own) for own in (self.operator, self.auditor))
        return named or len({one.keyid for one in self.all()}) == 1


def check_certificate(
    path: str | Path,
    keys: Sequence[SSlibKey] | Trusted,
    *,
    model: str | Path | None = None,
    audit: str | Path | None = None,
    deletion: str | Path | None = None,
    ledger_head: str | None = None,
    ledger: str | Path | None = None,
    reexecution: str | Path | None = None,
    commitment: str | Path | None = None,
    timestamp: str | Path | None = None,
    authorities: Sequence[str | Path] = (),
    bundle: str | Path | None = None,
    log_key: str | Path | None = None,
) -> Checked:
    """Check a certificate's signatures, form and consistency, and compare its attachments with it.

    Args:
        path: the certificate.
        keys: public keys that the reader trusts. Every statement must be signed by one of them; if there are several, no single
            key may have signed as operator and as auditor. `Trusted` assigns keys to roles.
        model: a model in service; its files must be the certified ones.
        audit: an audit's folder; its evidence and scores must be the certified ones.
        deletion: the deletion record (deletion.json); it must be the certified one.
        ledger_head: the head of the request ledger as the reader noted it; it must be the certified one.
        ledger: the ledger itself (SQLite); its chain must be unbroken and contain the certified head, and its events until then say
            what the certificate says.
        reexecution: the proof of a re-execution; it must be the certified one, and its parts must support its outcome.
        commitment: the commitment to the training; its root and date must be those that the re-execution states.
        timestamp: a time stamp (RFC 3161) on the certificate's file.
        authorities: files with root certificates (PEM) of time-stamping authorities that the reader trusts.
        bundle: a transparency log's entry of one of the statements, in Sigstore's bundle format.
        log_key: the public key (PEM) of the log that the reader trusts.

    Returns:
        all findings and the verdicts; a check that fails is a finding, not an exception.

    Raises:
        InputError: the file is not a certificate, an attachment cannot be read, or no key was given.
    """
    trusted = keys if isinstance(keys, Trusted) else Trusted(keys)
    if not trusted.all():
        raise InputError("a certificate is checked against public keys that you trust. Give at least one with --key FILE.")
    findings, pairs, signers = _statements(Path(path), trusted)
    try:
        findings += _consistency(pairs, signers, trusted)
        findings += attachment_findings(pairs, Attachments(model, audit, deletion, ledger_head, reexecution, commitment))
        findings += [] if ledger is None else ledger_findings(Path(ledger), pairs)
        findings += [] if timestamp is None else [_stamped(Path(path), timestamp, authorities)]
        findings += [] if bundle is None else [_logged(Path(path), bundle, log_key)]
        return _checked(findings, pairs)
    except InputError:
        raise  # its own message; as a subclass of ValueError it would be caught below
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: a signed statement lacks what this version expects ({type(error).__name__}). Ask for a new certificate."
        ) from None


def _statements(path: Path, trusted: Trusted) -> tuple[list[Finding], dict[str, Pair], dict[str, dict[str, str]]]:
    """Check every envelope of a certificate by itself.

    Returns:
        the findings, the valid statements by the weights they are about, and for the same weights the key that signed each part.
    """
    findings: list[Finding] = []
    pairs: dict[str, Pair] = {}
    signers: dict[str, dict[str, str]] = {}
    for number, raw in enumerate(envelopes_of(path), 1):
        finding, statement, by = _open(raw, number, trusted.all())
        role = None if statement is None else ROLES.get(str(statement.get("predicateType")))
        key = next((one for one in by if role is None or trusted.allows(role, one)), None)
        if statement is not None and key is None:
            detail = f"it is the {role}'s, signed by {by[0][:16]}, a key that you gave for another role"
            finding, statement = Finding(finding.what, False, detail), None
        findings.append(finding)
        if statement is None:
            continue
        weights = _subject(statement)
        if weights is None:
            findings.append(Finding(f"statement {number}", False, "it is not about exactly one model, named by one SHA-256 digest"))
        elif _sort(statement, weights, pairs):
            signers.setdefault(weights, {})[PARTS[statement["predicateType"]]] = str(key)
        else:
            findings.append(Finding(f"statement {number}", False, "its kind is unknown or occurs twice for the same weights"))
    return findings, pairs, signers


def _consistency(pairs: Mapping[str, Pair], signers: Mapping[str, dict[str, str]], trusted: Trusted) -> list[Finding]:
    """Check what the statements say against each other."""
    findings: list[Finding] = []
    for weights, pair in pairs.items():
        findings += agreement(pair, signers[weights])
        findings += _one_signer(signers[weights], trusted)
        if "auditor" in pair:
            adapter = adapter_finding(pair["auditor"]["predicate"])
            findings += [claim_finding(pair["auditor"]["predicate"]), *([] if adapter is None else [adapter])]
            findings += judge_findings(pair["auditor"]["predicate"], requests_of(pair))
        findings += reexecution_findings(pair)
    return [*findings, *record_findings(pairs), *registration_findings(pairs), *said_twice(pairs)]


def _checked(findings: Sequence[Finding], pairs: Mapping[str, Pair]) -> Checked:
    """Return the findings with verdicts and claims as the statements word them."""
    audited = {weights: pair["auditor"]["predicate"]["annotations"] for weights, pair in pairs.items() if "auditor" in pair}
    verdicts = {weights: str(found["verdict"]) for weights, found in audited.items()}
    phrases = {weights: claimed_phrase(found) for weights, found in audited.items()}
    claims = {weights: claim_of(pair["reexecution"]) for weights, pair in pairs.items() if "reexecution" in pair}
    return Checked(tuple(findings), verdicts, phrases, claims)


def _stamped(path: Path, stamp: str | Path, authorities: Sequence[str | Path]) -> Finding:
    """Check a time stamp on the certificate's file."""
    what = f"time stamp {stamp}"
    if not authorities:
        raise InputError("a time stamp is checked against an authority that you trust. Give its root certificate with --authority.")
    try:
        found = check_stamp(stamp, path.read_bytes(), authorities)
    except IntegrityError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, f"the certificate existed on {found.at.isoformat()}, by {found.authority}")


def _logged(path: Path, bundle: str | Path, log_key: str | Path | None) -> Finding:
    """Check a transparency log's entry of one of the certificate's statements."""
    what = f"log entry {bundle}"
    if log_key is None:
        raise InputError("a log entry is checked against a log that you trust. Give its public key with --log-key.")
    try:
        found = check_bundle(bundle, envelopes_of(path), log_key)
    except IntegrityError as error:
        return Finding(what, False, str(error))
    return Finding(what, True, f"a statement is entry {found.index} of the log, of {found.at.isoformat()} by the log's clock")


def _subject(statement: Statement) -> str | None:
    """Return the digest of the weights that a statement is about; None unless it is about exactly one, by SHA-256 alone."""
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], dict):
        return None
    digest = subjects[0].get("digest")
    if not isinstance(digest, dict) or digest.keys() != {"sha256"}:
        return None
    weights = digest["sha256"]
    return weights if isinstance(weights, str) and DIGEST.fullmatch(weights) else None


def _sort(statement: Statement, weights: str, pairs: dict[str, Pair]) -> bool:
    """Add a statement to those about its weights; return whether its kind is known and was not there."""
    part = PARTS.get(str(statement.get("predicateType")))
    if part is None or part in pairs.get(weights, {}):
        return False
    pairs.setdefault(weights, {})[part] = statement
    return True


@dataclass(frozen=True)
class Signer:
    """The signer of a statement: "operator" or "auditor", and the id of the key."""

    role: str
    key: str


@dataclass(frozen=True)
class Claimed:
    """A certificate's own claims, as `read_claims` reads them without verifying anything.

    Attributes:
        signers: the claimed signers, each once.
        requests: the deletion records in the operators' statements, one each.
        reexecutions: what the auditors' statements say of re-executions, by the digest of the weights.
        verified: whether the reader checked the certificate with keys; of other signatures anybody can add one.
    """

    signers: tuple[Signer, ...]
    requests: tuple[dict[str, Any], ...]
    reexecutions: Mapping[str, ReexecutionClaim]
    verified: bool = False


def read_claims(path: str | Path) -> Claimed:
    """Read a certificate without checking it: for a report that names its signers and the command that checks them.

    Raises:
        InputError: the file is no certificate.
    """
    signers: dict[Signer, None] = {}
    requests, claims = [], {}
    for raw in envelopes_of(Path(path)):
        try:
            envelope = Envelope.from_dict(json.loads(json.dumps(raw)))
            statement = parse_json(envelope.payload)
            role = ROLES[statement["predicateType"]]
            signers |= {Signer(role, str(key)): None for key in envelope.signatures}
            if role == "operator":
                requests.append(dict(statement["predicate"]["runDetails"]["metadata"]["request"]))
            if statement["predicateType"] == REEXECUTION:
                claims[str(statement["subject"][0]["digest"]["sha256"])] = claim_of(statement)
        except Exception:  # noqa: BLE001 - whatever a hostile envelope makes the library raise, it is no envelope
            raise InputError(f"{path} holds a damaged statement. Check it with `verify-unlearning check`.") from None
    return Claimed(tuple(signers), tuple(requests), claims)


def envelopes_of(path: Path) -> list[dict[str, Any]]:
    """Read the envelopes of a certificate without opening them; at least one."""
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size} bytes; a certificate is far smaller. Give the right file.")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("envelopes"), list):
        raise InputError(f"{path} is not a certificate of this version ({SCHEMA}). Give the file that `certify` wrote.")
    if not content["envelopes"]:
        raise InputError(f"{path} holds no statement. Ask for a whole certificate.")
    return list(content["envelopes"])


def _open(raw: Any, number: int, keys: Sequence[SSlibKey]) -> tuple[Finding, dict[str, Any] | None, list[str]]:
    """Verify one envelope; return its statement and key ids only if the signatures hold."""
    what = f"signature of statement {number}"
    try:
        envelope = Envelope.from_dict(json.loads(json.dumps(raw)))
    except Exception:  # noqa: BLE001 - whatever a hostile envelope makes the library raise, it is no envelope
        return Finding(what, False, "the envelope is damaged"), None, []
    ours = [key for key in keys if key.keyid in envelope.signatures]
    if not ours:
        signers = ", ".join(str(name)[:16] for name in envelope.signatures) or "nobody"
        return Finding(what, False, f"it is signed by {signers}, a foreign key: none of those you gave"), None, []
    if edited := next((key for key in ours if not signed_by(envelope, key)), None):
        detail = f"it does not match the content, which was edited after key {edited.keyid[:16]} signed"
        return Finding(what, False, detail), None, []
    try:
        statement = parse_json(envelope.payload)
        canonical = rfc8785.dumps(statement) == envelope.payload
    except NotStrictError as error:
        return Finding(what, False, f"the signed content can be read in two ways: {error.reason}"), None, []
    except (ValueError, RecursionError):
        return Finding(what, False, "the signed content is not JSON"), None, []
    if envelope.payload_type != PAYLOAD_TYPE or not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        return Finding(what, False, "the signed content is no in-toto statement"), None, []
    if not canonical:
        return Finding(what, False, "the signed content is not in canonical form (RFC 8785)"), None, []
    return Finding(what, True, f"signed by {ours[0].keyid[:16]}"), statement, [str(key.keyid) for key in ours]


def _one_signer(signers: Mapping[str, str], trusted: Trusted) -> list[Finding]:
    """Check that auditor and operator are different signers, where the reader expects two."""
    key = signers.get("operator")
    said = [what for part, what in (("auditor", "audit"), ("reexecution", "re-execution")) if signers.get(part) == key]
    if key is None or not said:
        return []
    detail = f"{key[:16]} signed as operator and as auditor: nobody else vouches for the {' and the '.join(said)}"
    if trusted.allows_both(key):
        return [Finding("signers", True, detail)]
    remedy = "if that is intended, give this key alone, or for each role (--operator-key, --auditor-key)"
    return [Finding("signers", False, f"{detail}; {remedy}")]

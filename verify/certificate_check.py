"""Check a certificate: what verifies, and exactly what does not. Imports no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from verify.certificate import PAYLOAD_TYPE, PROVENANCE, SCHEMA, STATEMENT_TYPE, TEST_RESULT
from verify.errors import InputError, IntegrityError
from verify.files import MANIFEST, file_digest, read_json, verify_manifest

LARGEST_FILE = 16 << 20
"""A certificate is some ten kilobytes; whatever is larger is not read."""

ROLES = {PROVENANCE: "operator", TEST_RESULT: "auditor"}


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        what: in words.
        holds: whether it verified.
        detail: what exactly does not, or what does.
    """

    what: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
        findings: everything that was checked, in order.
        verdict: the auditor's word, or None where no auditor's statement verified.
    """

    findings: tuple[Finding, ...]
    verdict: str | None

    @property
    def holds(self) -> bool:
        """Whether everything verified."""
        return all(finding.holds for finding in self.findings)


def check_certificate(
    path: str | Path,
    keys: Sequence[SSlibKey],
    *,
    model: str | Path | None = None,
    audit: str | Path | None = None,
    ledger_head: str | None = None,
) -> Checked:
    """Check signatures, form, agreement of the statements, and whatever is given beside them.

    Args:
        path: the certificate.
        keys: public keys that the reader trusts; a statement must be signed by one of them.
        model: the model in service; its files must be those that were certified.
        audit: the audit's folder; its evidence must be the certified one.
        ledger_head: the head of the request ledger as the reader knows it.

    Raises:
        InputError: the file is no certificate at all, or no key was given.
    """
    if not keys:
        raise InputError("a certificate is checked against public keys that you trust. Give at least one with --key FILE.")
    findings: list[Finding] = []
    statements: dict[str, dict[str, Any]] = {}
    for number, raw in enumerate(_envelopes(Path(path)), 1):
        finding, statement = _open(raw, number, keys)
        findings.append(finding)
        if statement is not None:
            role = ROLES.get(str(statement.get("predicateType")), "")
            if not role or role in statements:
                findings.append(Finding(f"statement {number}", False, "it is of a kind that is unknown or comes twice"))
            else:
                statements[role] = statement
    try:
        findings += _agreement(statements)
        findings += _beside(statements, model, audit, ledger_head)
        verdict = statements["auditor"]["predicate"]["annotations"]["verdict"] if "auditor" in statements else None
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}: a signed statement lacks what this version expects ({error}). Ask for a new certificate."
        ) from None
    return Checked(tuple(findings), verdict)


def _envelopes(path: Path) -> list[dict[str, Any]]:
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size} bytes; a certificate is far smaller. Give the right file.")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("envelopes"), list):
        raise InputError(f"{path} is not a certificate of this version ({SCHEMA}). Give the file that `certify` wrote.")
    if not content["envelopes"]:
        raise InputError(f"{path} holds no statement. Ask for a whole certificate.")
    return list(content["envelopes"])


def _open(raw: Any, number: int, keys: Sequence[SSlibKey]) -> tuple[Finding, dict[str, Any] | None]:
    """Verify one envelope; its statement comes out only if the signature holds."""
    what = f"signature of statement {number}"
    try:
        envelope = Envelope.from_dict(json.loads(json.dumps(raw)))
    except Exception:  # noqa: BLE001 - whatever a hostile envelope makes the library raise, it is no envelope
        return Finding(what, False, "the envelope is damaged"), None
    ours = [key for key in keys if key.keyid in envelope.signatures]
    if not ours:
        signers = ", ".join(name[:16] for name in envelope.signatures) or "nobody"
        return Finding(what, False, f"it is signed by {signers}, and by none of the keys you gave: a foreign key"), None
    for key in ours:
        try:
            signature = bytes.fromhex(envelope.signatures[key.keyid].signature)
            _crypto_key(key).verify(signature, envelope.pae())
        except (InvalidSignature, ValueError):
            detail = f"it does not fit the content: something was edited after key {key.keyid[:16]} signed"
            return Finding(what, False, detail), None
    try:
        statement = json.loads(envelope.payload)
        canonical = rfc8785.dumps(statement) == envelope.payload
    except (ValueError, RecursionError):
        return Finding(what, False, "the signed content is not JSON"), None
    if envelope.payload_type != PAYLOAD_TYPE or not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        return Finding(what, False, "the signed content is no in-toto statement"), None
    if not canonical:
        return Finding(what, False, "the signed content is not in canonical form (RFC 8785)"), None
    return Finding(what, True, f"signed by {ours[0].keyid[:16]}"), statement


def _crypto_key(key: SSlibKey) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))


def _agreement(statements: dict[str, dict[str, Any]]) -> list[Finding]:
    """Do operator and auditor speak of the same weights?"""
    findings = [
        Finding(
            f"statement of the {role}", role in statements, "present and signed" if role in statements else "missing or not valid"
        )
        for role in ("operator", "auditor")
    ]
    if len(statements) < 2:
        return findings
    after = {role: _weights(statement) for role, statement in statements.items()}
    same = after["operator"] == after["auditor"]
    findings.append(
        Finding(
            "weights after deletion",
            same,
            after["auditor"] if same else f"the operator made {after['operator'][:16]}, the auditor tested {after['auditor'][:16]}",
        )
    )
    before = statements["operator"]["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"]
    tested = statements["auditor"]["predicate"]["annotations"]["weights_before_deletion"]
    same = before == tested
    detail = before if same else f"the operator started from {before[:16]}, the auditor compared with {tested[:16]}"
    return [*findings, Finding("weights before deletion", same, detail)]


def _beside(
    statements: dict[str, dict[str, Any]], model: str | Path | None, audit: str | Path | None, ledger_head: str | None
) -> list[Finding]:
    findings = []
    if model is not None and statements:
        findings.append(_model_finding(statements, Path(model)))
    if audit is not None and "auditor" in statements:
        for entry in statements["auditor"]["predicate"]["configuration"]:
            path = Path(audit) / entry["name"]
            holds = path.is_file() and file_digest(path) == entry["digest"]["sha256"]
            findings.append(Finding(str(path), holds, "the certified file" if holds else "it is not the file that was certified"))
    if ledger_head is not None:
        signed = {}
        if "operator" in statements:
            signed = statements["operator"]["predicate"]["runDetails"]["metadata"]["request"]
        holds = signed.get("ledger_head") == ledger_head
        detail = ledger_head if holds else f"the certificate was made at {signed.get('ledger_head', 'no head')}"
        findings.append(Finding("head of the request ledger", holds, detail))
    return findings


def _model_finding(statements: dict[str, dict[str, Any]], model: Path) -> Finding:
    """Are these the certified files? The manifest is compared with the signed digest, every file with the manifest."""
    what = f"model {model}"
    try:
        manifest = verify_manifest(model)
    except IntegrityError as error:
        return Finding(what, False, str(error))
    statement = statements.get("operator") or statements["auditor"]
    if manifest["about"].get("weights") != _weights(statement):
        return Finding(what, False, f"its weights are {str(manifest['about'].get('weights'))[:16]}, not those that were certified")
    if "operator" in statements:
        signed = statements["operator"]["predicate"]["runDetails"]["byproducts"][0]["digest"]["sha256"]
        if file_digest(model / MANIFEST) != signed:
            return Finding(what, False, "its manifest is not the certified one: files were changed and described anew")
    return Finding(what, True, "every file is the certified one")


def _weights(statement: dict[str, Any]) -> str:
    return str(statement["subject"][0]["digest"]["sha256"])

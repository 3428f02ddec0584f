"""A certificate that anybody can check without trusting the tool that made it.

Two in-toto statements, each in a signed DSSE envelope: the operator's (how the new weights were made from the old) and the
auditor's (what was tested, and what came out). Payloads are canonical JSON (RFC 8785), signatures Ed25519. The subject of both is
the digest of the new weights. No statement names a person or a record: record lists of the evidence are left out, their numbers
are not. This module imports no torch, so that checking takes well under a second.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from verify.errors import InputError
from verify.files import MANIFEST, atomic_file, file_digest, read_json, verify_manifest, write_text

SCHEMA = "unlearn-verify/certificate/1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUILD_TYPE = "urn:unlearn-verify:deletion:1"

RESULTS = {"EQUIVALENT_WITHIN": "PASSED", "NOT_FORGOTTEN": "FAILED", "INCONCLUSIVE": "WARNED", "NOT_TESTABLE": "WARNED"}
"""The in-toto predicate knows three words. The verdict's own word stands beside them, and is the one that counts."""

NAMING_RECORDS = ("accused", "figures", "duration_seconds")
"""Parts of the evidence that stay out: keyed hashes of single records are still about persons."""

Statement = dict[str, Any]


def make_key(private: str | Path) -> str:
    """Make an Ed25519 key pair: `private` (mode 0600, PKCS#8 PEM) and the same name with `.pub`; return the key's id.

    Raises:
        InputError: a file is there already; no key is ever replaced.
    """
    private = Path(private)
    public = private.with_name(private.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise InputError(f"{path} exists, and a signing key is never replaced. Name another file.")
    key = Ed25519PrivateKey.generate()
    form = serialization.NoEncryption()
    with atomic_file(private, mode=0o600) as stream:
        stream.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form))
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_text(public, pem.decode("ascii"))
    return str(SSlibKey.from_crypto(key.public_key()).keyid)


def load_signer(path: str | Path) -> CryptoSigner:
    """Read a private key.

    Raises:
        InputError: the file is missing or holds no Ed25519 private key.
    """
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 private key (PEM). Make one with `verify-unlearning keygen --output FILE`.")
    return CryptoSigner(key)


def load_public_key(path: str | Path) -> SSlibKey:
    """Read a public key.

    Raises:
        InputError: the file is missing or holds no Ed25519 public key.
    """
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is no Ed25519 public key (PEM). Ask the signer for theirs; it was made beside the private one.")
    return SSlibKey.from_crypto(key)


def operator_statement(model: str | Path, original: str | Path, about: Mapping[str, Any] | None = None) -> Statement:
    """Provenance: the new weights came from the old by this method, with these settings.

    Args:
        model, original: folders whose manifests verify.
        about: what was asked and when, where the data was, residual copies, the head of the request ledger; JSON, no personal
            data.

    Raises:
        IntegrityError: a folder is not what its manifest says.
    """
    after, before = verify_manifest(model), verify_manifest(original)
    facts = after["about"]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject("weights after deletion", facts["weights"])],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"method": facts.get("method", "unknown"), "parameters": facts.get("parameters", {})},
                "internalParameters": {name: facts[name] for name in ("options", "training", "facts") if name in facts},
                "resolvedDependencies": [
                    {"name": "weights before deletion", "digest": {"sha256": before["about"]["weights"]}},
                    {"name": "manifest of the model before deletion", "digest": {"sha256": file_digest(Path(original) / MANIFEST)}},
                ],
            },
            "runDetails": {
                "builder": {"id": BUILD_TYPE},
                "byproducts": [
                    {"name": "manifest of the model after deletion", "digest": {"sha256": file_digest(Path(model) / MANIFEST)}}
                ],
                "metadata": {"request": dict(about or {})},
            },
        },
    }


def auditor_statement(audit: str | Path) -> Statement:
    """Test result: what was tested on these weights, how, and what came out.

    Args:
        audit: the folder that `verify-unlearning audit` wrote.

    Raises:
        IntegrityError: the folder is not what its manifest says.
        InputError: it holds no evidence.
    """
    verify_manifest(audit, "audit")
    evidence = read_json(Path(audit) / "evidence.json")
    weights = {model["role"]: model["weights"] for model in evidence["models"]}
    kept = {name: value for name, value in evidence.items() if name not in NAMING_RECORDS}
    for claim in ("twins", "people"):
        if kept.get(claim):
            kept[claim] = {**kept[claim], "accused": len(kept[claim]["accused"])}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject("weights after deletion", weights["target"])],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": RESULTS[evidence["verdict"]],
            "configuration": [
                {"name": name, "digest": {"sha256": file_digest(Path(audit) / name)}}
                for name in ("evidence.json", "scores.parquet")
            ],
            "annotations": {
                "verdict": evidence["verdict"],
                "weights_before_deletion": weights["original"],
                "records_accused": len(evidence["accused"]),
                "evidence": kept,
            },
        },
    }


def _subject(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def sign(statement: Statement, signer: CryptoSigner) -> dict[str, Any]:
    """The statement in a signed DSSE envelope, as JSON."""
    envelope = Envelope(rfc8785.dumps(statement), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return dict(envelope.to_dict())


def write_certificate(path: str | Path, envelopes: Sequence[Mapping[str, Any]]) -> None:
    """Write a certificate of one or more envelopes, atomically; an existing file is never replaced.

    Raises:
        InputError: the file is there already.
    """
    if Path(path).exists():
        raise InputError(f"{path} exists. A certificate is written once; name a new file with --output.")
    write_text(path, json.dumps({"schema": SCHEMA, "envelopes": list(envelopes)}, indent=2) + "\n")

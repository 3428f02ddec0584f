"""Transparency log: a public, append-only record that a signed statement existed, which its signer cannot take back.

An entry is kept in Sigstore's bundle format (v0.3): the DSSE envelope, and what the log answered. It is checked offline against the
log's public key: the entry names this envelope, its leaf is in the tree whose root the log signed (RFC 6962), and the log signed
the time of the entry. The log keeps digests, but it is sent the whole envelope.

    leaf = SHA-256(0x00 || body)        node = SHA-256(0x01 || left || right)
"""

import base64
import hashlib
import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from verify.errors import InputError, IntegrityError, RunError
from verify.io.strict_json import parse_json

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
LARGEST = 4 << 20
"""Size limit of a bundle and of a log's answer, in bytes."""
SECONDS = 30.0


@dataclass(frozen=True)
class Entry:
    """An entry that verified.

    Attributes:
        index: its number in the log.
        at: when the log took it, by the log's clock, in UTC.
    """

    index: int
    at: datetime


def log_envelope(envelope: Mapping[str, Any], public_key: str, url: str) -> dict[str, Any]:
    """Enter a signed statement in a log (Rekor's interface) and return the bundle.

    Args:
        envelope: the DSSE envelope, as in a certificate.
        public_key: the signer's public key (PEM).
        url: URL of the log.

    Raises:
        InputError: the URL is invalid.
        RunError: the log cannot be reached, or answers with something else than an entry.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is not a URL of a transparency log. Give one that begins with https:// or http://.")
    proposed = {"envelope": json.dumps(envelope), "verifiers": [base64.b64encode(public_key.encode()).decode()]}
    entry = {"apiVersion": "0.0.1", "kind": "dsse", "spec": {"proposedContent": proposed}}
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    place = f"{url.rstrip('/')}/api/v1/log/entries"
    request = urllib.request.Request(place, json.dumps(entry).encode(), headers)  # noqa: S310 - the scheme was checked above
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            (content,) = parse_json(answer.read(LARGEST)).values()
        return _bundle(envelope, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"the transparency log gave no entry ({type(error).__name__}). Run the same command again later.") from None


def _bundle(envelope: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log's answer in Sigstore's format, in which bytes are in base64 and 64-bit numbers are texts."""
    proof = content["verification"]["inclusionProof"]
    entry = {
        "logIndex": str(content["logIndex"]),
        "logId": {"keyId": _base64(bytes.fromhex(content["logID"]))},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": str(content["integratedTime"]),
        "inclusionPromise": {"signedEntryTimestamp": content["verification"]["signedEntryTimestamp"]},
        "inclusionProof": {
            "logIndex": str(proof["logIndex"]),
            "rootHash": _base64(bytes.fromhex(proof["rootHash"])),
            "treeSize": str(proof["treeSize"]),
            "hashes": [_base64(bytes.fromhex(one)) for one in proof["hashes"]],
            "checkpoint": {"envelope": proof["checkpoint"]},
        },
        "canonicalizedBody": content["body"],
    }
    signer = {"publicKey": {"hint": envelope["signatures"][0]["keyid"]}, "tlogEntries": [entry]}
    return {"mediaType": MEDIA_TYPE, "verificationMaterial": signer, "dsseEnvelope": dict(envelope)}


def check_bundle(path: str | Path, envelopes: Sequence[Mapping[str, Any]], log_key: str | Path) -> Entry:
    """Check, offline, that a bundle is the log's entry of one of a certificate's statements.

    Args:
        path: the bundle.
        envelopes: envelopes of the certificate.
        log_key: the log's public key (PEM), from the log itself.

    Raises:
        InputError: a file cannot be read.
        IntegrityError: the bundle is damaged, about another statement, or not signed by this log.
    """
    key = _log_key(log_key)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Name an existing bundle.") from None
    try:
        bundle = parse_json(content[: LARGEST + 1])
        (entry,) = bundle["verificationMaterial"]["tlogEntries"]
        if bundle["mediaType"] != MEDIA_TYPE or bundle["dsseEnvelope"] not in envelopes:
            raise IntegrityError(f"{path} is about no statement of this certificate")
        body = _bytes(entry["canonicalizedBody"])
        _require_about(parse_json(body), bundle["dsseEnvelope"], str(path))
        _require_included(entry["inclusionProof"], body, key, str(path))
        at = _promised(entry, key, str(path))
        return Entry(int(entry["logIndex"]), at)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise IntegrityError(f"{path} is not a bundle of Sigstore's format with one log entry ({type(error).__name__})") from None


def _require_about(body: Mapping[str, Any], envelope: Mapping[str, Any], where: str) -> None:
    """Check that an entry names the payload and the signatures of an envelope."""
    payload = hashlib.sha256(_bytes(envelope["payload"])).hexdigest()
    signed = {one["signature"] for one in body["spec"]["signatures"]}
    own = {one["sig"] for one in envelope["signatures"]}
    named = body["spec"]["payloadHash"]
    if body["kind"] != "dsse" or (named["algorithm"], named["value"]) != ("sha256", payload) or not own or own != signed:
        raise IntegrityError(f"the log entry in {where} is about another statement than the envelope beside it")


def _require_included(proof: Mapping[str, Any], body: bytes, key: Any, where: str) -> None:
    """Check that an entry is in the tree whose root the log signed."""
    size, root = int(proof["treeSize"]), _bytes(proof["rootHash"])
    path = [_bytes(one) for one in proof["hashes"]]
    if _root(hashlib.sha256(b"\x00" + body).digest(), int(proof["logIndex"]), size, path) != root:
        raise IntegrityError(f"the log entry in {where} is not in the tree that the bundle names")
    note, _, signatures = str(proof["checkpoint"]["envelope"]).partition("\n\n")
    if note.split("\n")[1:3] != [str(size), _base64(root)]:
        raise IntegrityError(f"the checkpoint in {where} is of another tree")
    # A line is "— NAME BASE64", where the bytes begin with four that hint at the key.
    signed = [_bytes(line.rsplit(" ", 1)[1])[4:] for line in signatures.splitlines() if line.startswith("\u2014 ")]
    if not any(_verifies(key, one, f"{note}\n".encode()) for one in signed):
        raise IntegrityError(f"the checkpoint in {where} was not signed with the log's key that you gave")


def _root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an inclusion proof leads to (RFC 9162, 2.1.3.2); None where it is too long or too short."""
    if not 0 <= index < size:
        return None
    node, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        node, last = node >> 1, last >> 1
    return found if last == 0 else None


def _promised(entry: Mapping[str, Any], key: Any, where: str) -> datetime:
    """Return the time of an entry, which the log signed together with its content and place."""
    signed = {
        "body": entry["canonicalizedBody"],
        "integratedTime": int(entry["integratedTime"]),
        "logID": _bytes(entry["logId"]["keyId"]).hex(),
        "logIndex": int(entry["logIndex"]),
    }
    if not _verifies(key, _bytes(entry["inclusionPromise"]["signedEntryTimestamp"]), rfc8785.dumps(signed)):
        raise IntegrityError(f"the time of the log entry in {where} was not signed with the log's key that you gave")
    return datetime.fromtimestamp(signed["integratedTime"], UTC)


def _verifies(key: Any, signature: bytes, content: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _log_key(path: str | Path) -> Any:
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise InputError(f"{path} is not a public key of a transparency log (PEM, ECDSA or Ed25519). Get it from the log itself.")
    return key


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()

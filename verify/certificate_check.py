"""Check a certificate: what verifies, and exactly what does not. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from verify.certificate_beside import Beside, Finding, Pair, beside_findings
from verify.deletion_record import CERTIFYING, UNDECIDED
from verify.errors import InputError
from verify.files import read_json
from verify.findings import verdict_phrase
from verify.signing import PAYLOAD_TYPE, PROVENANCE, SCHEMA, STATEMENT_TYPE, TEST_RESULT, Statement
from verify.strict_json import NotStrictError, parse_json

LARGEST_FILE = 16 << 20
"""A certificate is some ten kilobytes; whatever is larger is not read."""

ROLES = {PROVENANCE: "operator", TEST_RESULT: "auditor"}


PRECEDENCE = ("NOT_FORGOTTEN", "NOT_TESTABLE", "INCONCLUSIVE", "EQUIVALENT_WITHIN")
"""Of several models' words, the first that occurs is that of the whole certificate."""


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
        findings: everything that was checked, in order.
        verdicts: the auditor's word by the digest of the weights it is about, for every auditor's statement that verified.
        phrases: the same with the margin and level that the audit was made with.
    """

    findings: tuple[Finding, ...]
    verdicts: dict[str, str]
    phrases: dict[str, str]

    @property
    def holds(self) -> bool:
        """Whether everything verified."""
        return all(finding.holds for finding in self.findings)

    @property
    def verdict(self) -> str | None:
        """The word for the whole: that of the model that fared worst, or None where no auditor's statement verified."""
        return next((word for word in PRECEDENCE if word in self.verdicts.values()), None)


@dataclass(frozen=True)
class Trusted:
    """The public keys that the reader trusts.

    Attributes:
        either: for both roles. Of several, one must not have signed both: whoever gives two keys expects two signers.
        operator, auditor: for that role alone.
    """

    either: Sequence[SSlibKey] = ()
    operator: Sequence[SSlibKey] = ()
    auditor: Sequence[SSlibKey] = ()

    def all(self) -> list[SSlibKey]:
        """Every key, for whichever role."""
        return [*self.either, *self.operator, *self.auditor]

    def allows(self, role: str, key: str) -> bool:
        """Whether the key with this id may speak for the role."""
        own = self.operator if role == "operator" else self.auditor
        return any(one.keyid == key for one in (*self.either, *own))

    def allows_both(self, key: str) -> bool:
        """Whether one signer may be operator and auditor: the only key that was given, or one that was given for either role."""
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
) -> Checked:
    """Check signatures, form, agreement of the statements, and whatever is given beside them.

    Args:
        path: the certificate.
        keys: public keys that the reader trusts; a statement must be signed by one of them, and of several no one may have signed
            as operator and as auditor. `Trusted` says which key is whose.
        model: a model in service; its files must be those that were certified.
        audit: an audit's folder; its evidence must be the certified one.
        deletion: the deletion record (deletion.json); it must be the certified one.
        ledger_head: the head of the request ledger as the reader noted it; it must be the certified one.
        ledger: the ledger itself (SQLite); its chain must hold, and the certified head be in it.

    Raises:
        InputError: the file is no certificate at all, something given beside it cannot be read, or no key was given.
    """
    trusted = keys if isinstance(keys, Trusted) else Trusted(keys)
    if not trusted.all():
        raise InputError("a certificate is checked against public keys that you trust. Give at least one with --key FILE.")
    findings: list[Finding] = []
    pairs: dict[str, Pair] = {}
    signers: dict[str, dict[str, str]] = {}
    for number, raw in enumerate(_envelopes(Path(path)), 1):
        finding, statement, by = _open(raw, number, trusted.all())
        role = None if statement is None else ROLES.get(str(statement.get("predicateType")))
        key = next((one for one in by if role is None or trusted.allows(role, one)), None)
        if statement is not None and key is None:
            detail = f"it is the {role}'s, signed by {by[0][:16]}, and you gave that key for another role"
            finding, statement = Finding(finding.what, False, detail), None
        findings.append(finding)
        if statement is None:
            continue
        if weights := _sort(statement, pairs):
            signers.setdefault(weights, {})[str(role)] = str(key)
        else:
            findings.append(Finding(f"statement {number}", False, "it is of a kind that is unknown or comes twice"))
    try:
        for weights, pair in pairs.items():
            findings += _agreement(pair, signers[weights])
            findings += _one_signer(signers[weights], trusted)
        findings += _all_models(pairs)
        findings += beside_findings(pairs, Beside(model, audit, deletion, ledger_head, ledger))
        audited = {weights: pair["auditor"]["predicate"]["annotations"] for weights, pair in pairs.items() if "auditor" in pair}
        verdicts = {weights: str(found["verdict"]) for weights, found in audited.items()}
        phrases = {weights: _phrase(found) for weights, found in audited.items()}
    except InputError:
        raise  # says itself what is wrong, and is a ValueError
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: a signed statement lacks what this version expects ({type(error).__name__}). Ask for a new certificate."
        ) from None
    return Checked(tuple(findings), verdicts, phrases)


def _sort(statement: Statement, pairs: dict[str, Pair]) -> str | None:
    """Put a statement beside the other one about the same weights, and name these; None where it has no place."""
    role = ROLES.get(str(statement.get("predicateType")))
    try:
        weights = str(statement["subject"][0]["digest"]["sha256"])
    except (KeyError, TypeError, IndexError):
        return None
    if role is None or role in pairs.get(weights, {}):
        return None
    pairs.setdefault(weights, {})[role] = statement
    return weights


@dataclass(frozen=True)
class Signer:
    """Who signed a statement: "operator" or "auditor", and the id of the key."""

    role: str
    key: str


@dataclass(frozen=True)
class Claimed:
    """What a certificate says of itself; nothing of it is verified.

    Attributes:
        signers: who is said to have signed, each once.
        requests: the operator's facts, one entry per operator's statement.
    """

    signers: tuple[Signer, ...]
    requests: tuple[dict[str, Any], ...]


def read_claims(path: str | Path) -> Claimed:
    """Read a certificate without checking it: for a report that names its signers and the command that checks them.

    Raises:
        InputError: the file is no certificate.
    """
    signers: dict[Signer, None] = {}
    requests = []
    for raw in _envelopes(Path(path)):
        try:
            envelope = Envelope.from_dict(json.loads(json.dumps(raw)))
            statement = parse_json(envelope.payload)
            role = ROLES[statement["predicateType"]]
            signers |= {Signer(role, str(key)): None for key in envelope.signatures}
            if role == "operator":
                requests.append(dict(statement["predicate"]["runDetails"]["metadata"]["request"]))
        except Exception:  # noqa: BLE001 - whatever a hostile envelope makes the library raise, it is no envelope
            raise InputError(f"{path} holds a damaged statement. Check it with `verify-unlearning check`.") from None
    return Claimed(tuple(signers), tuple(requests))


def _envelopes(path: Path) -> list[dict[str, Any]]:
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size} bytes; a certificate is far smaller. Give the right file.")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("envelopes"), list):
        raise InputError(f"{path} is not a certificate of this version ({SCHEMA}). Give the file that `certify` wrote.")
    if not content["envelopes"]:
        raise InputError(f"{path} holds no statement. Ask for a whole certificate.")
    return list(content["envelopes"])


def _open(raw: Any, number: int, keys: Sequence[SSlibKey]) -> tuple[Finding, dict[str, Any] | None, list[str]]:
    """Verify one envelope; its statement and the ids of the keys come out only if the signatures hold."""
    what = f"signature of statement {number}"
    try:
        envelope = Envelope.from_dict(json.loads(json.dumps(raw)))
    except Exception:  # noqa: BLE001 - whatever a hostile envelope makes the library raise, it is no envelope
        return Finding(what, False, "the envelope is damaged"), None, []
    ours = [key for key in keys if key.keyid in envelope.signatures]
    if not ours:
        signers = ", ".join(name[:16] for name in envelope.signatures) or "nobody"
        return Finding(what, False, f"it is signed by {signers}, and by none of the keys you gave: a foreign key"), None, []
    for key in ours:
        try:
            signature = bytes.fromhex(envelope.signatures[key.keyid].signature)
            _crypto_key(key).verify(signature, envelope.pae())
        except (InvalidSignature, ValueError):
            detail = f"it does not fit the content: something was edited after key {key.keyid[:16]} signed"
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


def _crypto_key(key: SSlibKey) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))


def _agreement(pair: Pair, signers: Mapping[str, str]) -> list[Finding]:
    """Do operator and auditor speak of the same weights, before and after?"""
    findings = [
        Finding(
            f"statement of the {role}",
            role in pair,
            f"present and signed by {signers[role][:16]}" if role in pair else "missing or not valid",
        )
        for role in ("operator", "auditor")
    ]
    if len(pair) < 2:
        return findings
    findings.append(Finding("weights after deletion", True, str(pair["auditor"]["subject"][0]["digest"]["sha256"])))
    before = pair["operator"]["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"]
    tested = pair["auditor"]["predicate"]["annotations"]["weights_before_deletion"]
    same = before == tested
    detail = before if same else f"the operator started from {before[:16]}, the auditor compared with {tested[:16]}"
    return [*findings, Finding("weights before deletion", same, detail)]


def _one_signer(signers: Mapping[str, str], trusted: Trusted) -> list[Finding]:
    """Is the auditor somebody else than the operator, where the reader expects two?"""
    key = signers.get("auditor")
    if key is None or signers.get("operator") != key:
        return []
    detail = f"{key[:16]} signed as operator and as auditor: nobody else vouches for the audit"
    if trusted.allows_both(key):
        return [Finding("signers", True, detail)]
    remedy = "where that is meant, give this key alone, or for each role (--operator-key, --auditor-key)"
    return [Finding("signers", False, f"{detail}; {remedy}")]


def _all_models(pairs: dict[str, Pair]) -> list[Finding]:
    """Is every model that the operator replaced in the certificate, with the verdict that the operator reports?"""
    if not pairs:
        return [Finding("statements", False, "none is valid")]
    findings = []
    for entry in {model["after"]: model for pair in pairs.values() for model in _request(pair).get("models", ())}.values():
        pair = pairs.get(entry["after"], {})
        what = f"model {entry['after'][:16]} of the deletion record"
        if "auditor" not in pair:
            findings.append(Finding(what, False, "it was replaced, and no valid auditor's statement is about it"))
        elif difference := _reported_otherwise(entry, pair):
            findings.append(Finding(what, False, difference))
        else:
            findings.append(_in_service_on(what, entry["verdict"], entry))
    return findings


def _reported_otherwise(entry: dict[str, Any], pair: Pair) -> str | None:
    """The first thing that the deletion record reports of a model otherwise than the statements about it; None where it agrees."""
    auditor = pair["auditor"]["predicate"]
    found = auditor["annotations"]
    audits = [part["digest"]["sha256"] for part in auditor["configuration"] if str(part["name"]) == "evidence.json"]
    says = [
        ("the auditor found", entry["verdict"], found["verdict"]),
        ("the auditor found", entry["verdict_phrase"], _phrase(found)),
        ("the auditor compared with weights", entry["before"], found["weights_before_deletion"]),
        ("the auditor signed the audit", entry["audit_digest"], audits[0]),
    ]
    if "operator" in pair:
        says.append(("the provenance names", entry["method"], _method(pair["operator"])))
    return next((f"the operator reports {one}, {who} {other}" for who, one, other in says if one != other), None)


def _method(operator: Statement) -> str:
    return str(operator["predicate"]["buildDefinition"]["externalParameters"]["method"])


def _phrase(found: dict[str, Any]) -> str:
    """The auditor's verdict with its parameters, from what the auditor signed."""
    settings = found["evidence"]["settings"]
    sizes = [entry["records"] for entry in found["evidence"]["sets"] if entry["role"] == "forget"]
    return verdict_phrase(str(found["verdict"]), settings["margin"], settings["alpha"], found["records_accused"], sizes[0])


def _in_service_on(what: str, word: str, entry: dict[str, Any]) -> Finding:
    """May a model with this verdict go into service on what the operator says that it did?"""
    if entry.get("basis", "audit") == "audit":
        detail = "audited, with the verdict that the operator reports"
        if word == CERTIFYING:
            return Finding(what, True, detail)
        return Finding(what, False, f"it went into service on its audit, which found {word}; only {CERTIFYING} allows that")
    if word in UNDECIDED and _rebuilt(entry):
        detail = "the operator put it into service as an exact rebuild, which the audit neither showed nor refuted"
        return Finding(what, True, f"audited, with the verdict that the operator reports; {detail}")
    why = f"its audit found {word}" if _rebuilt(entry) else f"{entry['method']} is none"
    return Finding(what, False, f"the operator put it into service as an exact rebuild, but {why}")


def _rebuilt(entry: dict[str, Any]) -> bool:
    """Whether the method rebuilt the weights without the records; `auto` did where the last of its rungs says so."""
    if entry["method"] == "auto":
        return "exactness" in (entry["facts"].get("rungs") or [{}])[-1]
    return bool(entry.get("exactness"))


def _request(pair: Pair) -> dict[str, Any]:
    return dict(pair["operator"]["predicate"]["runDetails"]["metadata"]["request"]) if "operator" in pair else {}

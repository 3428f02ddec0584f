"""Statements of a certificate, signed by operator and auditor and checkable without this tool.

For every model that was replaced there is an in-toto statement of the operator (what was requested, and how the new weights were
made from the old) and one of the auditor (what was tested, and the result) or two: the auditor's second one says what executing the
training again showed (`verify.certificate.reexecution`). Each is in a signed DSSE envelope. Payloads are canonical JSON (RFC 8785),
signatures Ed25519. The subject of all is the digest of the new weights. No statement names a person or a record: of the evidence's
lists of records only the counts are kept.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.certificate.claims import RESULTS
from verify.certificate.reexecution import read_proof, reexecution_statement
from verify.certificate.signing import (
    PROVENANCE,
    SCHEMA,
    STATEMENT_TYPE,
    TEST_RESULT,
    TRAINING_LOGS,
    Statement,
    load_public_key,
    load_signer,
    make_key,
    sign,
)
from verify.errors import InputError
from verify.io.files import MANIFEST, file_digest, verify_manifest, write_text
from verify.schema.channels import channels_asked

if TYPE_CHECKING:
    from verify.schema.evidence import Evidence
    from verify.schema.reexecution import Reexecution

__all__ = [
    "auditor_statement",
    "auditor_statements",
    "load_public_key",
    "load_signer",
    "make_key",
    "operator_statement",
    "sign",
    "write_certificate",
]

BUILD_TYPE = "urn:unlearn-verify:deletion:1"

NAMING_RECORDS = ("accused", "figures", "duration_seconds")
"""Parts of the evidence that are not signed: keyed hashes of single records are still data about persons."""

KEPT_FACTS = ("options", "training", "facts", "environment")
"""Parts of a model's manifest that are signed: configuration and seeds, the method's facts, versions of the code. Its inputs are
not, since a path may contain a person's name."""


def operator_statement(model: str | Path, original: str | Path, about: Mapping[str, Any] | None = None) -> Statement:
    """Make the operator's statement, an SLSA provenance: the new weights were made from the old by this method and settings.

    Args:
        model, original: folders of the models after and before deletion, with valid manifests.
        about: a deletion record as JSON (`verify.schema.deletion_record`): what was requested and when, where the data was found,
            and what remains.

    Raises:
        IntegrityError: a folder does not match its manifest.
        InputError: `about` is not a deletion record, has fields it may not have, or is not about these weights.
    """
    after, before = verify_manifest(model), verify_manifest(original)
    facts, root = after["about"], before["about"].get("commitment")
    request = {} if about is None else _request(about, before["about"]["weights"], facts["weights"])
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject("weights after deletion", facts["weights"])],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "method": facts.get("method", "unknown"),
                    "parameters": _without_folders(facts.get("parameters", {})),
                },
                "internalParameters": {name: _without_folders(facts[name]) for name in KEPT_FACTS if name in facts},
                "resolvedDependencies": [
                    {"name": "weights before deletion", "digest": {"sha256": before["about"]["weights"]}},
                    {"name": "manifest of the model before deletion", "digest": {"sha256": file_digest(Path(original) / MANIFEST)}},
                    *([] if root is None else [_subject(TRAINING_LOGS, root)]),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILD_TYPE},
                "byproducts": [
                    {"name": "manifest of the model after deletion", "digest": {"sha256": file_digest(Path(model) / MANIFEST)}}
                ],
                "metadata": {"request": request},
            },
        },
    }


def _without_folders(setting: Any) -> Any:
    """Reduce absolute paths in a setting to their last component: parent folders may contain persons' names."""
    if isinstance(setting, Mapping):
        return {name: _without_folders(value) for name, value in setting.items()}
    if isinstance(setting, (list, tuple)):
        return [_without_folders(value) for value in setting]
    return Path(setting).name if isinstance(setting, str) and Path(setting).is_absolute() else setting


def _request(about: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    """Validate the operator's facts as a deletion record about these weights."""
    from verify.schema.deletion_record import DeletionRecord

    try:
        text = json.dumps(about, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InputError("the deletion record is not JSON. Give what DeletionRecord.model_dump(mode='json') returns.") from None
    record = DeletionRecord.parse(text, "the deletion record")
    if not any((entry.before, entry.after) == (before, after) for entry in record.models):
        raise InputError(
            f"the deletion record names no model that went from {before[:16]} to {after[:16]}. Give the record of this deletion."
        )
    return record.model_dump(mode="json", by_alias=True)


def auditor_statements(
    audit: str | Path | None = None, robustness: str | Path | None = None, proof: str | Path | None = None
) -> list[Statement]:
    """Make what an auditor says of one model: a statement on its audit, one on the re-execution of its training, or both.

    Either of two names the other, so that no one can leave out the one that accuses.

    Args:
        audit, robustness: as for `auditor_statement`.
        proof: the file that `verify-unlearning reexecute` wrote about the same weights.

    Raises:
        InputError: neither is given, one cannot be read, or they are about other weights or forget records.
        IntegrityError: the audit does not match its manifest.
    """
    if audit is None:
        if proof is None or robustness is not None:
            raise InputError("a certificate needs an audit or a re-execution, and probes an audit. Give --audit or --reexecution.")
        return [reexecution_statement(proof)]
    tested = auditor_statement(audit, robustness)
    if proof is None:
        return [tested]
    found, digest = read_proof(proof)
    _require_alike(tested, found, str(proof))
    tested["predicate"]["annotations"]["reexecution"] = digest
    return [tested, reexecution_statement(proof, tested["predicate"]["configuration"][0]["digest"]["sha256"])]


def _require_alike(tested: Statement, proof: "Reexecution", where: str) -> None:
    """Require that an audit and a proof are about the same weights and forget records."""
    audited = next(entry for entry in tested["predicate"]["annotations"]["evidence"]["sets"] if entry["role"] == "forget")
    for what, one, other in (
        ("weights", proof.model, tested["subject"][0]["digest"]["sha256"]),
        ("forget records", proof.forget_digest, audited["digest"]),
    ):
        if one != other:
            raise InputError(f"{where} is about the {what} {one[:16]}, the audit about {other[:16]}. Give those of the same model.")


def auditor_statement(audit: str | Path, robustness: str | Path | None = None) -> Statement:
    """Make the auditor's statement, an in-toto test result: the tests on these weights, their threat models and the verdict.

    Args:
        audit: the folder that `verify-unlearning audit` wrote.
        robustness: the file that `verify-unlearning probe` wrote about the same weights.

    Raises:
        IntegrityError: the folder does not match its manifest.
        InputError: it holds no evidence, or the probes were made on other weights.
    """
    from verify.schema.evidence import Evidence

    verify_manifest(audit, "audit")
    evidence = Evidence.load(Path(audit) / "evidence.json")
    weights = {model.role: model.weights for model in evidence.models}
    kept = evidence.model_dump(mode="json", by_alias=True, exclude=set(NAMING_RECORDS))
    for claim in ("twins", "people"):  # field names of held-out controls and user level; they list records, too
        if kept.get(claim):
            kept[claim] = {**kept[claim], "accused": len(kept[claim]["accused"])}
    if evidence.near_duplicates is not None:
        kept["near_duplicates"] = evidence.near_duplicates.counts
    second = evidence.settings.rule > 1
    if second:
        kept |= {"subjects": len(evidence.subjects), "weak": len(evidence.weak)}
    not_run = [{"attack": entry.attack, "reason": entry.reason} for entry in evidence.not_run]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_subject("weights after deletion", weights["target"])],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": RESULTS[evidence.verdict],
            "configuration": [
                {"name": name, "digest": {"sha256": file_digest(Path(audit) / name)}}
                for name in ("evidence.json", "scores.parquet")
            ],
            "annotations": {
                "verdict": evidence.verdict,
                "weights_before_deletion": weights["original"],
                "records_accused": len(evidence.accused),
                **({"asked": list(channels_asked(evidence.channels))} if second else {}),
                "attacks_not_run": not_run + [{"attack": name, "reason": "not requested"} for name in evidence.not_asked],
                "robustness": None if robustness is None else _robustness(robustness, evidence),
                "evidence": kept,
            },
        },
    }


def _robustness(path: str | Path, evidence: "Evidence") -> dict[str, Any]:
    """Read the probes' results and require that they are about the audited weights and records."""
    from verify.schema.robustness import Robustness

    found = Robustness.load(path)
    found.require_same(evidence, str(path))
    return found.model_dump(mode="json", by_alias=True)


def _subject(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def write_certificate(path: str | Path, envelopes: Sequence[Mapping[str, Any]]) -> None:
    """Write a certificate of one or more envelopes, atomically; an existing file is never replaced.

    Raises:
        InputError: the file exists.
    """
    if Path(path).exists():
        raise InputError(f"{path} exists. A certificate is written once; name a new file with --output.")
    write_text(path, json.dumps({"schema": SCHEMA, "envelopes": list(envelopes)}, indent=2) + "\n")

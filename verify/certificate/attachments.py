"""Compare attachments of a certificate (model, audit, deletion record, proof, commitment) with what was signed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.certificate.reexecution import ReexecutionClaim, claim_of, contradictions, read_proof
from verify.certificate.signing import Statement
from verify.errors import IntegrityError
from verify.io.files import MANIFEST, file_digest, read_json, verify_manifest
from verify.models.configuration import BaseNotHereError, folder_configuration
from verify.models.folder_checks import changed_adapters, ensemble_adapters, unlisted_files
from verify.provenance.commitment import TrainingCommitment

Pair = dict[str, Statement]
"""The valid statements about one model's weights: "operator", "auditor" (of an audit), "reexecution" (the auditor's, too)."""


@dataclass(frozen=True)
class Finding:
    """One checked property and its outcome.

    Attributes:
        what: name of the property.
        holds: whether it verified.
        detail: the value that verified, or what exactly did not.
    """

    what: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Attachments:
    """Attachments that the reader gives with a certificate; arguments of `check_certificate`."""

    model: str | Path | None
    audit: str | Path | None
    deletion: str | Path | None
    ledger_head: str | None
    reexecution: str | Path | None = None
    commitment: str | Path | None = None


def attachment_findings(pairs: Mapping[str, Pair], given: Attachments) -> list[Finding]:
    """Compare every given attachment with the certificate.

    Args:
        pairs: the valid statements, by the digest of the weights they are about.
        given: the attachments; None where the reader has none.

    Returns:
        one finding per attachment, and one per signed file of an audit.

    Raises:
        InputError: an attachment cannot be read.
    """
    findings: list[Finding] = []
    if given.model is not None:
        findings += _model(pairs, Path(given.model))
    if given.audit is not None:
        findings += _audit([pair["auditor"] for pair in pairs.values() if "auditor" in pair], Path(given.audit))
    operators = [pair["operator"] for pair in pairs.values() if "operator" in pair]
    requests = [statement["predicate"]["runDetails"]["metadata"]["request"] for statement in operators]
    if given.deletion is not None:
        findings.append(_deletion(requests, Path(given.deletion)))
    head = next((str(request["ledger_head"]) for request in requests if "ledger_head" in request), None)
    if given.ledger_head is not None:
        holds = head == given.ledger_head
        detail = given.ledger_head if holds else f"the certificate was made at {head or 'no head'}"
        findings.append(Finding("head of the request ledger", holds, detail))
    claims = {weights: claim_of(pair["reexecution"]) for weights, pair in pairs.items() if "reexecution" in pair}
    if given.reexecution is not None:
        findings.append(_proof(claims, Path(given.reexecution)))
    if given.commitment is not None:
        findings.append(_commitment(list(claims.values()), Path(given.commitment)))
    return findings


SHOWN = 20
"""Most unlisted files that one finding names; for the others it gives their number."""
SHARDS = "shards.json"
"""Description of a training in shards. `verify.provenance.shard_plan` reads all of it, with numpy, which a check does without."""
_STAGE = re.compile(r"shard-(0|[1-9][0-9]{0,8})/slice-(0|[1-9][0-9]{0,8})/")


def _model(pairs: Mapping[str, Pair], model: Path) -> list[Finding]:
    """Check that a folder holds the certified model, and name every file in it that the certificate does not cover.

    Its manifest must have the signed digest, and every file the manifest's digest. A file that the manifest does not list and any
    program would load makes it fail: an adapter put beside certified weights is loaded with them, or in their place.
    """
    what = f"model {model}"
    if not pairs:
        return [Finding(what, False, "the certificate has no valid statement on a model")]
    try:
        manifest = verify_manifest(model)
    except IntegrityError as error:
        return [Finding(what, False, str(error))]
    if changed := changed_adapters(model):
        return [Finding(what, False, f"its adapters {_listed(changed)} are not those that ensemble.json names")]
    unlisted = unlisted_files(model, manifest)
    beside = [
        Finding(f"files beside {what}", False, f"not listed, and some program would load them: {_listed(unlisted.loaded)}")
    ] * bool(unlisted.loaded)
    stages = _stages(model, manifest, unlisted.others)
    if others := [name for name in unlisted.others if name not in stages]:
        detail = f"not certified, and not by its name a part of a model: {_listed(others)}"
        beside.append(Finding(f"files beside {what}", True, detail))
    if stages:
        beside.append(Finding(f"stages of {what}", True, _counted(len(stages), len(stages & _answering(model)))))
    weights = str(dict(manifest["about"]).get("weights"))
    if weights not in pairs:
        return [Finding(what, False, f"its weights are {weights[:16]}, which are not the certified ones"), *beside]
    operator = pairs[weights].get("operator")
    if operator is not None:
        signed = operator["predicate"]["runDetails"]["byproducts"][0]["digest"]["sha256"]
        if file_digest(model / MANIFEST) != signed:
            detail = "its manifest is not the certified one: files were changed and the manifest rewritten"
            return [Finding(what, False, detail), *beside]
    return [_configuration(what, model, pairs[weights].get("auditor")), *beside]


def _stages(model: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Return those of some folders that are stages of the model's training in shards, by its certified description."""
    plan = read_json(model / SHARDS) if SHARDS in manifest["files"] else None
    shards, slices = (plan.get(name) if isinstance(plan, dict) else 0 for name in ("shards", "slices"))
    if not isinstance(shards, int) or not isinstance(slices, int):
        return set()  # no description of this project: it vouches for no stage, and each is named
    places = {name: found for name in names if (found := _STAGE.fullmatch(name)) is not None}
    within = {name for name, found in places.items() if int(found[1]) < shards and int(found[2]) < slices}
    # A link leads to weights that may be anybody's, so it is named.
    return {name for name in within if not (model / name).is_symlink()}


def _answering(model: Path) -> set[str]:
    """Return the folders of the adapters that an ensemble answers with; its description, which is certified, has their digests."""
    return {f"{name}/" for name in ensemble_adapters(model)}


def _counted(stages: int, answering: int) -> str:
    """Say in one line how many stages lie in a model's folder, and which of them the certificate covers."""
    rest = stages - answering
    bound = f"{answering} it answers with, certified by ensemble.json; " if answering else ""
    return (
        f"{stages} with weights of its training in shards, each of one part of the records: "
        f"{bound}{rest} it does not answer with, and {'is' if rest == 1 else 'are'} not certified"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _configuration(what: str, model: Path, auditor: Statement | None) -> Finding:
    """Check that the folder's configuration is the one that was audited; an older audit did not record it.

    With the operator's statement the manifest binds every file; this also binds the base's configuration under an adapter.
    """
    models = [] if auditor is None else auditor["predicate"]["annotations"]["evidence"]["models"]
    audited = next((entry.get("configuration") for entry in models if entry["role"] == "target"), None)
    intact = "every listed file is the certified one"
    if audited is None:
        return Finding(what, True, intact)
    try:
        found = folder_configuration(model)
    except BaseNotHereError:
        return Finding(what, True, f"{intact}; the configuration of its base was not compared, as the base is not on this machine")
    if found != audited:
        said = (
            f"its configuration is {found[:16]}, audited was {str(audited)[:16]}: the same weights compute something else with it"
        )
        return Finding(what, False, said)
    return Finding(what, True, f"{intact}, with the audited configuration")


def _audit(statements: list[Statement], audit: Path) -> list[Finding]:
    """Check that a folder's files are those of a signed audit; with several audits, the best match counts."""
    if not statements:
        return [Finding(f"audit {audit}", False, "the certificate has no valid statement on an audit")]
    found = [_audited_files(statement, audit) for statement in statements]
    return max(found, key=lambda findings: sum(finding.holds for finding in findings))


def _audited_files(statement: Statement, audit: Path) -> list[Finding]:
    """Check that a folder holds every file that a statement on an audit names; there must be one."""
    findings = []
    for entry in statement["predicate"]["configuration"]:
        path = audit / Path(str(entry["name"])).name
        holds = path.is_file() and file_digest(path) == entry["digest"]["sha256"]
        findings.append(Finding(str(path), holds, "the certified file" if holds else "it is not the file that was certified"))
    return findings or [Finding(f"audit {audit}", False, "the certificate's statement on the audit names no file of it")]


def _deletion(requests: list[dict[str, Any]], path: Path) -> Finding:
    """Check that a deletion record is the signed one, in every operator's statement."""
    what = f"deletion record {path}"
    given = read_json(path)
    if not requests or not requests[0]:
        return Finding(what, False, "the certificate was signed without a deletion record")
    differences = [_difference(given, request) for request in requests]
    if all(difference is None for difference in differences):
        return Finding(what, True, "the certified one")
    first = next(difference for difference in differences if difference is not None)
    return Finding(what, False, f"it is not the one that was certified: {first or 'the whole'} differs")


def _difference(one: Any, other: Any, path: str = "") -> str | None:
    """Return the path of the first difference between two JSON values, without their contents; None where they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{path} (its fields)".strip()
        steps = [(name, one[name], other[name]) for name in one]
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{path} (its length)".strip()
        steps = [(str(number), *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        # Canonical JSON writes 1.0 as 1, the same number; but Python's True == 1 must count as a difference.
        return None if isinstance(one, bool) == isinstance(other, bool) and one == other else path
    found = (_difference(left, right, f"{path}.{name}".lstrip(".")) for name, left, right in steps)
    return next((difference for difference in found if difference is not None), None)


def _proof(claims: Mapping[str, ReexecutionClaim], path: Path) -> Finding:
    """Check that a file is the certified proof of a re-execution, and that its segments and draw support its outcome."""
    what = f"proof {path}"
    proof, digest = read_proof(path)
    claim = claims.get(proof.model)
    if not claims:
        return Finding(what, False, "the certificate has no valid statement on a re-execution")
    if claim is None:
        return Finding(what, False, f"it is about the weights {proof.model[:16]}, which are not the certified ones")
    if claim != (found := ReexecutionClaim.of(proof, digest, claim.audit)):
        fields = [name for name in type(claim).model_fields if getattr(claim, name) != getattr(found, name)]
        which = ", ".join(name for name in fields if name != "proof") or "what it lists of segments or records"
        return Finding(what, False, f"it is not the proof that was certified: {which} differs")
    if wrong := next(contradictions(proof), None):
        return Finding(what, False, wrong)
    return Finding(what, True, f"the certified one: {len(proof.executed)} of {proof.segments} segments, {proof.phrase}")


def _commitment(claims: Sequence[ReexecutionClaim], path: Path) -> Finding:
    """Check that a commitment has the root and the date that a re-execution states."""
    what = f"commitment {path}"
    commitment = TrainingCommitment.load(path)
    if any((claim.root, claim.committed) == (commitment.root, commitment.created) for claim in claims):
        return Finding(what, True, f"root {commitment.root[:16]}, written on {commitment.created[:10]}")
    committed = [claim for claim in claims if claim.committed is not None]
    if not committed:
        return Finding(what, False, "no re-execution of the certificate was based on a commitment")
    if all(claim.root != commitment.root for claim in committed):
        detail = f"its root is {commitment.root[:16]}, the training that was executed again has {str(committed[0].root)[:16]}"
        return Finding(what, False, detail)
    return Finding(what, False, f"it was written at {commitment.created}, the certified one at {committed[0].committed}")

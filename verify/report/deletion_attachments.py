"""Audits and re-executions that a deletion record names: those that are given must be the very same."""

from verify.errors import InputError
from verify.schema.deletion_record import ReplacedModel
from verify.schema.evidence import Evidence
from verify.schema.reexecution import Reexecution


def audit_of(model: ReplacedModel, evidence: Evidence | None) -> Evidence | None:
    """Return a model's audit, which must be the one that the record names; None where it names none.

    Raises:
        InputError: it is missing, or another one.
    """
    if evidence is None:
        if model.verdict is not None:
            raise InputError(f"the replaced model {model.after[:16]} has no audit here. Give its folder with --audits.")
        return None
    if evidence.verdict != model.verdict:
        raise InputError(
            f"the deletion record says {model.verdict or 'nothing'} of {model.after[:16]}, its audit {evidence.verdict}. "
            "Make the record again from this audit."
        )
    if evidence.digest != model.audit_digest:
        raise InputError(
            f"the audit of {model.after[:16]} is not the one that the deletion record names ({str(model.audit_digest)[:16]}): its "
            "evidence.json was made again or edited. Give the folder as the audit left it."
        )
    return evidence


def proof_of(model: ReplacedModel, proof: Reexecution | None) -> Reexecution | None:
    """Return the proof of a model's re-execution, which must be the one that the record names; None where it names none.

    Raises:
        InputError: it is missing, or another one.
    """
    named = model.reexecution
    if proof is None:
        if named is not None:
            raise InputError(f"the re-execution of {model.after[:16]} has no proof here. Give its file with --reexecutions.")
        return None
    if named is None or (proof.phrase, proof.digest) != (named.phrase, named.proof):
        said = "none" if named is None else f"{named.phrase} ({named.proof[:16]})"
        raise InputError(
            f"the deletion record names {said} as the re-execution of {model.after[:16]}; this proof is {proof.phrase} "
            f"({proof.digest[:16]}). Give the proof that the record names."
        )
    return proof

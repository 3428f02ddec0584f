"""Facts that several checks read in a certificate's statements.

Raises KeyError, TypeError or AttributeError where a statement lacks them: `check_certificate` turns these into one clear error.
"""

from datetime import datetime
from typing import Any

from verify.certificate.attachments import Pair
from verify.certificate.signing import Statement
from verify.schema.moments import read_time


def deletion_record_of(pair: Pair) -> dict[str, Any]:
    """Return the deletion record in the operator's statement; empty without one."""
    return dict(pair["operator"]["predicate"]["runDetails"]["metadata"]["request"]) if "operator" in pair else {}


def dependencies_of(operator: Statement) -> dict[str, str]:
    """Return the digests that the operator's provenance starts from, by name."""
    listed = operator["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {str(entry["name"]): str(entry["digest"]["sha256"]) for entry in listed}


def evidence_of(auditor: Statement) -> dict[str, Any]:
    """Return the evidence in the auditor's statement."""
    return dict(auditor["predicate"]["annotations"]["evidence"])


def sets_of(evidence: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the record sets that an audit's evidence names, by role."""
    return {entry["role"]: entry for entry in evidence["sets"]}


def moment_of(text: Any) -> datetime | None:
    """Return a time with a time zone; None for anything else."""
    found = read_time(text)
    return found if found is not None and found.tzinfo is not None else None

"""Measure what a language model remembers of a set of records, and judge whether it has been forgotten.

This package never imports `unlearn`: an auditor can read, install and run it without trusting what it audits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.auditing.audit import audit, register
    from verify.certificate.check import check_certificate
    from verify.data.records import Fields, Record
    from verify.errors import InputError, IntegrityError, RunError, VerifyError
    from verify.measures.robustness import probe
    from verify.measures.trigger import backdoor
    from verify.report.html import write_report
    from verify.report.text import summary
    from verify.schema.evidence import Evidence, Settings

_HOME = {
    "Evidence": "verify.schema.evidence",
    "Fields": "verify.data.records",
    "InputError": "verify.errors",
    "IntegrityError": "verify.errors",
    "Record": "verify.data.records",
    "RunError": "verify.errors",
    "Settings": "verify.schema.evidence",
    "VerifyError": "verify.errors",
    "audit": "verify.auditing.audit",
    "backdoor": "verify.measures.trigger",
    "check_certificate": "verify.certificate.check",
    "probe": "verify.measures.robustness",
    "register": "verify.auditing.audit",
    "summary": "verify.report.text",
    "write_report": "verify.report.html",
}

__all__ = [
    "Evidence",
    "Fields",
    "InputError",
    "IntegrityError",
    "Record",
    "RunError",
    "Settings",
    "VerifyError",
    "audit",
    "backdoor",
    "check_certificate",
    "probe",
    "register",
    "summary",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds, and `--help` needs neither."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

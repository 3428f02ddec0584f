"""Measure what a language model remembers of a set of records, and judge whether it has been forgotten.

This package never imports `unlearn`: an auditor can read, install and run it without trusting what it audits.
"""

from verify.audit import audit
from verify.errors import InputError, IntegrityError, RunError, VerifyError
from verify.evidence import Evidence, Settings
from verify.records import Fields, Record

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
]

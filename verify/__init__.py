"""Measure how far a language model remembers a set of records, and judge whether they have been forgotten.

This package never imports `unlearn`: an auditor can read, install and run it without trusting what it audits.
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.auditing.audit import audit, register
    from verify.auditing.scoring import score_ahead
    from verify.certificate.check import check_certificate
    from verify.data.records import Fields, Record
    from verify.errors import InputError, IntegrityError, RunError, VerifyError
    from verify.measures.robustness import probe
    from verify.measures.trigger import backdoor
    from verify.provenance.holdout import split_holdout
    from verify.reexecution.reexecute import reexecute
    from verify.report.html import write_report
    from verify.report.text import summary
    from verify.schema.evidence import Evidence
    from verify.schema.settings import Settings

OTHER_PACKAGE = ("__meta__.py", "runners.py")
"""Files of PyPI's `verify` (an assertion library), which installs the same top-level name."""


def _require_own_folder(folders: Iterable[str]) -> None:
    """Raise ImportError if files of PyPI's `verify` are in this package's folder: some files of both were overwritten."""
    for folder in map(Path, folders):
        if all((folder / name).is_file() for name in OTHER_PACKAGE):
            raise ImportError(
                f"{folder} also holds files of another package of that name (PyPI's `verify`). One environment cannot have both: "
                "run `pip uninstall verify`, then `pip install --force-reinstall --no-deps .` in the folder of unlearn-verify."
            )


_require_own_folder(__path__)

_HOME = {
    "Evidence": "verify.schema.evidence",
    "Fields": "verify.data.records",
    "InputError": "verify.errors",
    "IntegrityError": "verify.errors",
    "Record": "verify.data.records",
    "RunError": "verify.errors",
    "Settings": "verify.schema.settings",
    "VerifyError": "verify.errors",
    "audit": "verify.auditing.audit",
    "backdoor": "verify.measures.trigger",
    "check_certificate": "verify.certificate.check",
    "probe": "verify.measures.robustness",
    "reexecute": "verify.reexecution.reexecute",
    "register": "verify.auditing.audit",
    "score_ahead": "verify.auditing.scoring",
    "split_holdout": "verify.provenance.holdout",
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
    "reexecute",
    "register",
    "score_ahead",
    "split_holdout",
    "summary",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds, and `--help` needs neither."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

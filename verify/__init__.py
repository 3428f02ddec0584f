"""Measure what a language model remembers of a set of records, and judge whether it has been forgotten.

This package never imports `unlearn`: an auditor can read, install and run it without trusting what it audits.
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.auditing import audit, register
    from verify.certificate_check import check_certificate
    from verify.errors import InputError, IntegrityError, RunError, VerifyError
    from verify.evidence import Evidence, Settings
    from verify.holdout import split_holdout
    from verify.records import Fields, Record
    from verify.robustness import probe
    from verify.trigger import backdoor

OTHER_PACKAGE = ("__meta__.py", "runners.py")
"""Files of PyPI's `verify` (an assertion library), which installs the same top-level name."""


def _require_own_folder(folders: Iterable[str]) -> None:
    """Raise ImportError where the files of PyPI's `verify` lie among this package's: some of each were overwritten."""
    for folder in map(Path, folders):
        if all((folder / name).is_file() for name in OTHER_PACKAGE):
            raise ImportError(
                f"{folder} also holds files of another package of that name (PyPI's `verify`). One environment cannot have both: "
                "run `pip uninstall verify`, then `pip install --force-reinstall --no-deps .` in the folder of unlearn-verify."
            )


_require_own_folder(__path__)

_HOME = {
    "Evidence": "verify.evidence",
    "Fields": "verify.records",
    "InputError": "verify.errors",
    "IntegrityError": "verify.errors",
    "Record": "verify.records",
    "RunError": "verify.errors",
    "Settings": "verify.evidence",
    "VerifyError": "verify.errors",
    "audit": "verify.auditing",
    "backdoor": "verify.trigger",
    "check_certificate": "verify.certificate_check",
    "probe": "verify.robustness",
    "register": "verify.auditing",
    "split_holdout": "verify.holdout",
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
    "split_holdout",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds, and `--help` needs neither."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Errors raised on purpose: `InputError` for invalid input the user can fix, `RunError` for run-time failures.

Every message says what was given, what is allowed and what to type next, and never holds a record's text or raw identifier.
"""


class VerifyError(Exception):
    """Base of every error this project raises on purpose; the command lines print it without a traceback."""


class InputError(VerifyError, ValueError):
    """Invalid input that the user can fix (exit status 2)."""


class ArgumentError(InputError, TypeError):
    """A Python call with an argument of a wrong name or type; the message says what to write instead."""


class RunError(VerifyError, RuntimeError):
    """A run-time failure: a full disk, a non-finite loss (exit status 1)."""


class IntegrityError(InputError):
    """Files differ from their manifest: incomplete, changed or foreign (exit status 2)."""

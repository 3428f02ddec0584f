"""The two ways a command can fail: the user can mend one, the other happened while running.

Every message says what was given, what is allowed and what to type next, and never holds a record's text or raw identifier.
"""


class VerifyError(Exception):
    """Base of every error this project raises on purpose; the command lines print it without a traceback."""


class InputError(VerifyError, ValueError):
    """Something the user gave cannot be used (exit status 2)."""


class ArgumentError(InputError, TypeError):
    """A Python call with an argument of a wrong name or type; the message says what to write instead."""


class RunError(VerifyError, RuntimeError):
    """Something went wrong while running: a full disk, a non-finite loss (exit status 1)."""


class IntegrityError(InputError):
    """Files are not what their manifest says: incomplete, changed or foreign (exit status 2)."""

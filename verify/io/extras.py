"""Optional packages: the one sentence that says what needs them and how to install them."""

from verify.errors import InputError

DISTRIBUTION = "unlearn-verify"


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing(what: str, extra: str, otherwise: str = "") -> InputError:
    """Return the error for something whose packages are not installed.

    Args:
        what: what needs them, as the subject of the sentence.
        extra: the extra that installs them.
        otherwise: what else to do, if there is anything: "print the HTML file from a browser".
    """
    rest = f", or {otherwise}" if otherwise else ""
    return InputError(f"{what} needs packages that are not installed. Run {install(extra)}{rest}.")

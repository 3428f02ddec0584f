"""Probes loaded from a user's own file: `--probe path/to/file.py:Class`."""

from typing import Any

from verify.errors import InputError
from verify.io.plugins import load_class, require_defaults
from verify.probes.base import Probe

GUIDE = "A new robustness probe"


def load_probe(target: str) -> type[Any]:
    """Load the class that FILE:CLASS names, by executing the file, which is the user's own code.

    Raises:
        InputError: the file or the class is missing, or the class is not a probe.
    """
    kind = load_class(target, "--probe", "verify.own", GUIDE)
    one = require_defaults(kind, target, "--probe")
    if not isinstance(one, Probe):
        lacking = [part for part in ("idea", "paper", "losses") if not hasattr(one, part)]
        raise InputError(f"--probe {target}: {kind.__name__} lacks {', '.join(lacking)}; see CONTRIBUTING, '{GUIDE}'.")
    return kind

"""Robustness probes, one file per treatment; the directory is the registry.

Every treatment is applied alike to the unlearned model, the original and the retrained references: what it recovers from an
honest retraining is no evidence of memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from verify import probes
from verify.errors import InputError
from verify.io.plugins import discover
from verify.probes.base import Probe


def probe_classes() -> dict[str, Any]:
    """Return every probe's class by its command-line name."""
    return dict(discover(probes, "losses"))


def select_probes(names: Sequence[str] = ()) -> Mapping[str, Probe]:
    """Instantiate probes with their default parameters, in the order given; all of them if no name is given.

    Raises:
        InputError: a name is unknown.
    """
    classes = probe_classes()
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise InputError(f"there is no probe called {', '.join(unknown)}. Use any of: {', '.join(classes)}.")
    return {name: classes[name]() for name in dict.fromkeys(names or classes)}

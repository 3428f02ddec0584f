"""Robustness probes, one file per treatment; the directory is the registry.

Every treatment is applied alike to the unlearned model, the original and the retrained references: what it recovers from an
honest retraining is no evidence of memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from verify import probes
from verify.errors import InputError
from verify.io.plugins import discover
from verify.probes._from_file import load_probe
from verify.probes.base import Probe


def probe_classes() -> dict[str, Any]:
    """Return every probe's class by its command-line name."""
    return dict(discover(probes, "losses"))


def select_probes(names: Sequence[str] = ()) -> Mapping[str, Probe]:
    """Instantiate probes with their default parameters, in the order given.

    Args:
        names: names of probes, or FILE.py:CLASS for one of your own, which is then called by its class. Without any, all probes
            but those that are run only when they are named.

    Raises:
        InputError: a name is unknown, or a file holds no such probe.
    """
    classes = probe_classes()
    own = {name.rpartition(":")[2]: load_probe(name) for name in names if ":" in name}
    unknown = [name for name in names if ":" not in name and name not in classes]
    if unknown:
        raise InputError(
            f"there is no probe called {', '.join(unknown)}. Use any of: {', '.join(classes)}; or FILE.py:Class for your own."
        )
    usual = [name for name, kind in classes.items() if getattr(kind, "by_default", True)]
    chosen = dict.fromkeys(name.rpartition(":")[2] for name in names or usual)
    return {name: {**classes, **own}[name]() for name in chosen}

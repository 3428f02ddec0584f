"""Every method, one file each. The directory is the registry: a new file is on the command line by existing."""

from typing import Any

from unlearn.training.method import Method
from verify.io.plugins import discover

SHARED = frozenset({"from_file", "requirements"})
"""Modules of this directory that hold no method."""


def method_classes() -> dict[str, Any]:
    """Every method's class by its command-line name."""
    import unlearn.methods

    return dict(discover(unlearn.methods, "loss", "edit", "rebuild", shared=SHARED))


def method_name(method: Method | type) -> str:
    """A method's command-line name: the name of its file."""
    kind = method if isinstance(method, type) else type(method)
    return kind.__module__.rsplit(".", 1)[-1]

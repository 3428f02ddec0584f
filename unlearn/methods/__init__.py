"""Unlearning methods, one file each; the directory is the registry, so a new file is a new command."""

from typing import Any

from unlearn.training.method import Method
from verify.io.plugins import discover

SHARED = frozenset({"from_file", "requirements"})
"""Modules of this directory that hold no method."""


def method_classes() -> dict[str, Any]:
    """Return every method's class by its command-line name."""
    import unlearn.methods

    return dict(discover(unlearn.methods, "loss", "edit", "rebuild", shared=SHARED))


def method_name(method: Method | type) -> str:
    """Return a method's command-line name, which is that of its file."""
    kind = method if isinstance(method, type) else type(method)
    return kind.__module__.rsplit(".", 1)[-1]

"""Unlearning methods, one file each; the directory is the registry, so a new file is a new command."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.io.catalogue import catalogue
from verify.io.declared import declared_class
from verify.io.foreign_names import METHODS, closest, plain
from verify.io.plugins import discover

if TYPE_CHECKING:
    from unlearn.training.method import Method

KINDS = ("loss", "edit", "rebuild")
"""Names of the functions that define an objective, a weight edit and a rebuild; every method has exactly one of them."""

SHARED = frozenset({"from_file", "requirements"})
"""Modules of this directory that hold no method."""


def method_classes() -> dict[str, Any]:
    """Return every method's class by its command-line name."""
    import unlearn.methods

    return dict(discover(unlearn.methods, *KINDS, shared=SHARED))


def method_catalogue() -> dict[str, Mapping[str, Any]]:
    """Return every method's class attributes by its command-line name, without importing torch."""
    folder = Path(__file__).parent
    return catalogue(folder, *KINDS, bases=[folder.parent / "training" / "method.py"], shared=SHARED)


def declared_method(name: str) -> type[Any]:
    """Return a method's fields and documentation as a dataclass that only declares them, without importing torch."""
    return declared_class(Path(__file__).parent / f"{name}.py", method_catalogue()[name]["__name__"])


def method_name(method: "Method | type") -> str:
    """Return a method's command-line name, which is that of its file."""
    kind = method if isinstance(method, type) else type(method)
    return kind.__module__.rsplit(".", 1)[-1]


def named_method(wanted: str, names: Iterable[str]) -> str | None:
    """Return the method that "NPO", "Grad-Diff" or OpenUnlearning's "GradAscent" stands for; None where none is close."""
    names = list(names)
    alias = METHODS.get(plain(wanted))
    return alias if alias in names else closest(wanted, names)

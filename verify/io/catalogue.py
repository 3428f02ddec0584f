"""Catalogue of plug-ins: their class attributes, read from the source files without importing them.

Listing methods or attacks must not take the seconds that importing torch takes. The modules that `verify.io.plugins` would import
are therefore parsed, and their literal class attributes evaluated, with those of their base classes. A test compares the catalogue
with the imported classes.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.io.plugins import SHARED


class Computed:
    """Marker for a class attribute that depends on an instance's settings."""

    def __repr__(self) -> str:
        return "COMPUTED"


COMPUTED = Computed()


def catalogue(
    folder: Path, *required: str, bases: Iterable[Path] = (), shared: frozenset[str] = SHARED
) -> dict[str, Mapping[str, Any]]:
    """Read the attributes of every entry in a folder, by its command-line name, in alphabetical order.

    Args:
        folder: the package's folder; each of its modules holds one entry.
        required: names of methods; an entry is the public class of its module that has at least one of them.
        bases: source files with the entries' base classes.
        shared: modules that are not entries.

    Returns:
        literal class attributes by name, including inherited ones; `COMPUTED` for a property that depends on its instance. The key
        `__name__` holds the class's own name, `__methods__` the names of the functions that it defines.
    """
    inherited: dict[str, Mapping[str, Any]] = {}
    for path in bases:
        for node in _classes(path):
            inherited[node.name] = _attributes(node, inherited)
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_") or path.stem in shared:
            continue
        entry = next(node for node in _classes(path) if not node.name.startswith("_") and _has(node, required))
        methods = frozenset(member.name for member in entry.body if isinstance(member, ast.FunctionDef))
        found[path.stem] = {**_attributes(entry, inherited), "__name__": entry.name, "__methods__": methods}
    return found


def _classes(path: Path) -> Sequence[ast.ClassDef]:
    return [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


def _has(node: ast.ClassDef, required: Sequence[str]) -> bool:
    return any(isinstance(member, ast.FunctionDef) and member.name in required for member in node.body)


def _attributes(node: ast.ClassDef, inherited: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Evaluate the literal attributes of a class, which override those of its base classes."""
    found: dict[str, Any] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= inherited.get(base.id, {})
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name) and member.value is not None:
            found[member.target.id] = _value(member.value)
        elif isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name):
            found[member.targets[0].id] = _value(member.value)
        elif isinstance(member, ast.FunctionDef) and _is_property(member):
            last = member.body[-1]  # a property that returns a literal counts as an attribute
            found[member.name] = _value(last.value) if isinstance(last, ast.Return) and last.value is not None else COMPUTED
    return found


def _is_property(member: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "property" for one in member.decorator_list)


def _value(node: ast.expr) -> Any:
    """Evaluate a literal, or a frozenset of one; anything else is `COMPUTED`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "frozenset":
        return frozenset(ast.literal_eval(node.args[0])) if node.args else frozenset()
    try:
        return ast.literal_eval(node)
    except ValueError:
        return COMPUTED

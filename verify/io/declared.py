"""Declarations of dataclasses, read from source files without importing them.

The help of a command whose flags are a plug-in's fields needs their names, types, defaults and documentation, but none of the
libraries that the plug-in computes with. A test compares every declaration with the imported class.
"""

import ast
import builtins
import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""Folder that holds the packages."""


def declared_class(path: Path, name: str) -> type[Any]:
    """Return a dataclass with the fields and the docstring of a class in a source file, and nothing of what it does.

    Args:
        path: the source file.
        name: the class. Its fields are its own annotated attributes with a default, none of them inherited.

    Raises:
        LookupError: a type or a default names what neither the file nor a file of this package that it imports defines by an
            expression.
    """
    node = next(found for found in _parsed(path).body if isinstance(found, ast.ClassDef) and found.name == name)
    names = _Names(path)
    fields = [
        (field.target.id, _evaluated(field.annotation, names), dataclasses.field(default=_evaluated(field.value, names)))
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and field.value is not None
        and not ast.unparse(field.annotation).startswith("ClassVar")
    ]
    return dataclasses.make_dataclass(name, fields, namespace={"__doc__": ast.get_docstring(node, clean=False)}, frozen=True)


class _Names(dict[str, Any]):
    """Names of a source file, each evaluated when it is looked up."""

    def __init__(self, path: Path) -> None:
        super().__init__(vars(builtins))
        self.path = path

    def __missing__(self, name: str) -> Any:
        for node in _parsed(self.path).body:
            if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets):
                return _evaluated(node.value, self)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name and node.value:
                return _evaluated(node.value, self)
            for module, original, known in _imports(node):
                if known == name:
                    return _imported(module, original)
        raise LookupError(f"{self.path.name} defines no {name} by an expression")


def _imports(node: ast.stmt) -> Iterator[tuple[str, str, str]]:
    """Yield the module, the name there and the name here of everything that a statement imports by `from ... import`."""
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        for one in node.names:
            yield node.module, one.name, one.asname or one.name


def _imported(module: str, name: str) -> Any:
    """Return what a module calls by a name: read from the source of this package, else taken from `typing`."""
    if module == "typing":
        import typing

        return getattr(typing, name)
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise LookupError(f"{module} is not a module of this package")
    return _Names(path)[name]


def _evaluated(expression: ast.expr, names: _Names) -> Any:
    """Evaluate an expression of this package's own source."""
    return eval(compile(ast.Expression(expression), str(names.path), "eval"), {"__builtins__": {}}, names)  # noqa: S307


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))

"""Plug-in discovery: the directory is the registry, one entry per file.

Each file is one entry, with the file's name. There is no decorator and no list to maintain: a file that is added is found, a file
that is removed is gone. Names that begin with an underscore, `base.py`, and modules named by a package are for shared code.
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from verify.errors import InputError

SHARED = frozenset({"base"})


@cache
def discover(package: ModuleType, *required: str, shared: frozenset[str] = SHARED) -> Mapping[str, type]:
    """Return the entries of a package by name, in alphabetical order.

    Args:
        package: an imported package; each of its modules holds one entry.
        required: names of methods; an entry is the one public dataclass of its module that has at least one of them.
        shared: modules that are not entries.

    Raises:
        TypeError: a module holds no such dataclass, or more than one.
    """
    assert required, "an entry is recognised by a method it has"
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(package.__path__)
        if not module.ispkg and not module.name.startswith("_") and module.name not in shared
    )
    modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
    return MappingProxyType({name: _entry(module, required) for name, module in modules.items()})


def load_class(target: str, flag: str, namespace: str, guide: str) -> type[Any]:
    """Load the frozen dataclass that FILE:CLASS names, by executing the file, which is the user's own code.

    Args:
        target: path/to/file.py:Class.
        flag: the flag that named it, for messages.
        namespace: package under whose name the module is registered.
        guide: the section of CONTRIBUTING that says what the class must have.

    Raises:
        InputError: the file or the class is missing, or the class is not a dataclass whose fields have defaults.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise InputError(f"{flag} {target} must look like path/to/file.py:Class.")
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"{flag} {target}: {path} is not a Python file.")
    name_in_python = f"{namespace}.{file.stem}"  # cannot shadow a module that can be imported
    spec = importlib.util.spec_from_file_location(name_in_python, file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name_in_python] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    kind = getattr(module, name, None)
    if kind is None:
        raise InputError(f"{flag} {target}: {path} has no class {name}.")
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise InputError(f"{flag} {target}: {name} must be a frozen dataclass; see CONTRIBUTING, '{guide}'.")
    return kind


def require_defaults(kind: type[Any], target: str, flag: str) -> Any:
    """Return an instance of a class with all its defaults.

    Raises:
        InputError: a field has none.
    """
    try:
        return kind()
    except TypeError:
        raise InputError(f"{flag} {target}: every field of {kind.__name__} needs a default.") from None


def _entry(module: ModuleType, required: tuple[str, ...]) -> type:
    """Return the one public dataclass that `module` itself defines and that has a required method."""
    found = [
        value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and any(callable(getattr(value, method, None)) for method in required)
    ]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise TypeError(
            f"{module.__file__} must define exactly one public dataclass with {' or '.join(f'{name}()' for name in required)}; "
            f"it defines {names}. Put each into a file of its own, named as it is to be called on the command line; "
            "begin the names of shared classes with an underscore."
        )
    return found[0]

"""Probes loaded from a user's own file: `--probe path/to/file.py:Class`."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

from verify.errors import InputError
from verify.probes.base import Probe


def load_probe(target: str) -> type[Any]:
    """Load the class that FILE:CLASS names, by executing the file, which is the user's own code.

    Raises:
        InputError: the file or the class is missing, or the class is no probe.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise InputError(f"--probe {target} must look like path/to/file.py:Class.")
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"--probe {target}: {path} is not a Python file.")
    name_in_python = f"verify.own.{file.stem}"  # cannot shadow a module that can be imported
    spec = importlib.util.spec_from_file_location(name_in_python, file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name_in_python] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    kind = getattr(module, name, None)
    if kind is None:
        raise InputError(f"--probe {target}: {path} has no class {name}.")
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise InputError(f"--probe {target}: {name} must be a frozen dataclass; see CONTRIBUTING, 'A new robustness probe'.")
    try:
        one = kind()
    except TypeError:
        raise InputError(f"--probe {target}: every field of {name} needs a default.") from None
    if not isinstance(one, Probe):
        lacking = [part for part in ("idea", "paper", "losses") if not hasattr(one, part)]
        raise InputError(f"--probe {target}: {name} lacks {', '.join(lacking)}; see CONTRIBUTING, 'A new robustness probe'.")
    return kind

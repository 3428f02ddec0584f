"""Methods loaded from a user's own file: `--method path/to/file.py:Class`."""

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from unlearn.training.method import Objective, Rebuild, WeightEdit
from verify.errors import InputError


def load_method(target: str) -> type[Any]:
    """Load the class that FILE:CLASS names, by executing the file, which is the user's own code.

    Raises:
        InputError: the file or the class is missing, or the class is no method.
    """
    path, _, name = target.rpartition(":")
    if not path or not name.isidentifier():
        raise InputError(f"--method {target} must look like path/to/file.py:Class.")
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"--method {target}: {path} is not a Python file.")
    name_in_python = f"unlearn.own.{file.stem}"  # cannot shadow a module that can be imported
    spec = importlib.util.spec_from_file_location(name_in_python, file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name_in_python] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    kind = getattr(module, name, None)
    if kind is None:
        raise InputError(f"--method {target}: {path} has no class {name}.")
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise InputError(f"--method {target}: {name} must be a frozen dataclass; see CONTRIBUTING, 'A new method'.")
    if not issubclass(kind, Objective | WeightEdit | Rebuild) or inspect.isabstract(kind):
        raise InputError(
            f"--method {target}: {name} is none of the three kinds of method. Derive it from Objective, WeightEdit or Rebuild of "
            "unlearn.training.method, and define loss(), edit() or rebuild()."
        )
    try:
        kind()
    except TypeError:
        raise InputError(f"--method {target}: every field of {name} needs a default.") from None
    missing = [attribute for attribute in ("idea", "paper", "cost") if not hasattr(kind, attribute)]
    if missing:
        raise InputError(f"--method {target}: {name} lacks {', '.join(missing)}, one line each; `unlearn methods` prints them.")
    return kind

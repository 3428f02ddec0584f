"""Methods loaded from a user's own file: `--method path/to/file.py:Class`."""

import inspect
from typing import Any

from unlearn.training.method import Objective, Rebuild, WeightEdit
from verify.errors import InputError
from verify.io.plugins import load_class, require_defaults


def load_method(target: str) -> type[Any]:
    """Load the class that FILE:CLASS names, by executing the file, which is the user's own code.

    Raises:
        InputError: the file or the class is missing, or the class is not a method.
    """
    kind = load_class(target, "--method", "unlearn.own", "A new method")
    name = kind.__name__
    if not issubclass(kind, Objective | WeightEdit | Rebuild) or inspect.isabstract(kind):
        raise InputError(
            f"--method {target}: {name} is none of the three kinds of method. Derive it from Objective, WeightEdit or Rebuild of "
            "unlearn.training.method, and define loss(), edit() or rebuild()."
        )
    require_defaults(kind, target, "--method")
    missing = [attribute for attribute in ("idea", "paper", "cost") if not hasattr(kind, attribute)]
    if missing:
        raise InputError(f"--method {target}: {name} lacks {', '.join(missing)}, one line each; `unlearn methods` prints them.")
    return kind

"""A method from a user's own file: `--method path/to/file.py:Class`."""

import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearn.methods import method_classes
from unlearn.methods.base import Objective, Rebuild, WeightEdit
from unlearn.suitability import named_method
from verify.errors import InputError

METHOD_FLAGS = ("--method", "--trainer", "--forget_loss", "--forget-loss")
"""Ours for a file, and what OpenUnlearning and TOFU's own program call the choice of a method."""


def own_method(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """The FILE.py:Class that `unlearn forget --method` names, and the words without `forget` and it.

    Returns:
        (None, the words) where no method is named by a flag.

    Raises:
        InputError: a flag names one of the methods that are here already, or nothing.
    """
    words = list(given)
    if words[:1] != ["forget"]:
        return None, words
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in METHOD_FLAGS:
            continue
        if not equals and number + 1 == len(words):
            raise InputError(f"{flag} needs a method: unlearn forget METHOD ..., or --method path/to/file.py:Class.")
        place = value if equals else words[number + 1]
        known = None if ":" in place else named_method(place, method_classes())
        if known is not None:
            raise InputError(f"{flag} {place} is written without the flag. Write unlearn forget {known} ...")
        return place, words[1:number] + words[number + 1 + (not equals) :]
    return None, words


def load_method(place: str) -> type[Any]:
    """The class that `FILE:CLASS` names. The file is run: it is the user's own code.

    Raises:
        InputError: the file or the class is missing, or the class is no method.
    """
    path, _, name = place.rpartition(":")
    if not path or not name.isidentifier():
        raise InputError(f"--method {place} must look like path/to/file.py:Class.")
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"--method {place}: {path} is not a Python file.")
    name_in_python = f"unlearn.own.{file.stem}"  # never the name of a module that others import
    spec = importlib.util.spec_from_file_location(name_in_python, file)
    assert spec is not None, "a .py file has one"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name_in_python] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    kind = getattr(module, name, None)
    if kind is None:
        raise InputError(f"--method {place}: {path} has no class {name}.")
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise InputError(f"--method {place}: {name} must be a frozen dataclass; see CONTRIBUTING, 'A new method'.")
    try:
        made = kind()
    except TypeError:
        raise InputError(f"--method {place}: every field of {name} needs a default.") from None
    if not isinstance(made, Objective | WeightEdit | Rebuild):
        raise InputError(
            f"--method {place}: {name} is none of the three kinds of method. It needs loss(), edit() or rebuild(), and the class "
            "attributes that unlearn/methods/base.py lists."
        )
    return kind

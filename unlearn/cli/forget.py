"""Command `unlearn forget METHOD`: one subcommand per method, with the method's parameters as flags."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from unlearn.methods import declared_method, method_catalogue, named_method
from verify.cli.dispatch import HELP, HELP_ALL, overview
from verify.cli.foreign_flags import spelled, unknown_command
from verify.errors import InputError

METHOD_FLAGS = ("--method", "--trainer", "--forget_loss", "--forget-loss")
"""Our flag for a method in a file, and the flags by which OpenUnlearning and TOFU choose a method."""


def own_method(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split FILE.py:Class, as given with `unlearn forget --method`, from the other words.

    Returns:
        FILE.py:Class, or None if no flag names a method; and the words without it.

    Raises:
        InputError: a flag names a built-in method, or nothing.
    """
    words = list(given)
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in METHOD_FLAGS:
            continue
        if not equals and number + 1 == len(words):
            raise InputError(f"{flag} needs a method: unlearn forget METHOD ..., or --method path/to/file.py:Class.")
        spec = value if equals else words[number + 1]
        known = None if ":" in spec else named_method(spec, method_catalogue())
        if known is not None:
            raise InputError(f"{flag} is only for methods in a file. Write unlearn forget {known} ...")
        return spec, words[:number] + words[number + 1 + (not equals) :]
    return None, words


def forget_of(words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """Return the command of the method that the words after `unlearn forget` name.

    Returns:
        the command, the remaining words, and the words that named it.

    Raises:
        InputError: no method or an unknown one is named; the message says what to type.
        SystemExit: the list of methods was requested and printed.
    """
    spec, rest = own_method(words)
    if spec is not None:
        from unlearn.cli.forget_method import forget_command
        from unlearn.methods.from_file import load_method

        kind = load_method(spec)
        return forget_command(kind, kind.cost, trains=hasattr(kind, "loss"), steps=kind.trains_in_steps), rest, ["--method", spec]
    methods = method_catalogue()
    if not rest or rest[0].startswith("-"):
        if not rest or rest[0] not in (*HELP, HELP_ALL):
            raise InputError(f"unlearn forget needs a method: unlearn forget METHOD ... The methods are {', '.join(methods)}.")
        description = "Remove records from a fine-tuned model, with one of these methods or your own: --method FILE.py:Class."
        print(overview("unlearn forget", description, {name: entry["idea"] for name, entry in methods.items()}))  # noqa: T201
        raise SystemExit(0)
    name = spelled(rest[0], methods)
    if name not in methods:
        raise InputError(unknown_command(name, dict.fromkeys(methods), "unlearn forget"))
    # Here, as a method needs torch, and neither the list above nor the help of a method does.
    from unlearn.cli.forget_method import forget_command

    if any(word in (*HELP, HELP_ALL) for word in rest):
        kind = declared_method(name)
    else:
        kind = getattr(import_module(f"unlearn.methods.{name}"), methods[name]["__name__"])
    trains = "loss" in methods[name]["__methods__"]
    steps = methods[name]["trains_in_steps"] and methods[name]["needs_retain"] is not False  # or by its settings
    return forget_command(kind, methods[name]["cost"], trains=trains, steps=steps), rest[1:], [name]

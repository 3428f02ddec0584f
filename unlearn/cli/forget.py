"""The command `unlearn forget METHOD`: one subcommand per method, with the method's parameters as flags."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from unlearn.methods import method_catalogue, named_method
from verify.cli.dispatch import HELP, overview
from verify.cli.foreign_flags import spelled, unknown_command
from verify.errors import InputError

METHOD_FLAGS = ("--method", "--trainer", "--forget_loss", "--forget-loss")
"""Ours for a file, and what OpenUnlearning and TOFU's own program call the choice of a method."""


def own_method(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """Find the FILE.py:Class that `unlearn forget --method` names, and the words without it.

    Returns:
        (None, the words) where no method is named by a flag.

    Raises:
        InputError: a flag names one of the methods that are here already, or nothing.
    """
    words = list(given)
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in METHOD_FLAGS:
            continue
        if not equals and number + 1 == len(words):
            raise InputError(f"{flag} needs a method: unlearn forget METHOD ..., or --method path/to/file.py:Class.")
        place = value if equals else words[number + 1]
        known = None if ":" in place else named_method(place, method_catalogue())
        if known is not None:
            raise InputError(f"{flag} {place} is written without the flag. Write unlearn forget {known} ...")
        return place, words[:number] + words[number + 1 + (not equals) :]
    return None, words


def forget_of(words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """Find the method that the words after `unlearn forget` name.

    Returns:
        the command, the words that are left for it, and the words that named it.

    Raises:
        InputError: no method is named, or none that exists; the message says what to write.
        SystemExit: help was asked for, and printed.
    """
    place, rest = own_method(words)
    if place is not None:
        from unlearn.cli.forget_method import forget_command
        from unlearn.methods.from_file import load_method

        return forget_command(load_method(place)), rest, ["--method", place]
    methods = method_catalogue()
    if not rest or rest[0].startswith("-"):
        if not rest or rest[0] not in HELP:
            raise InputError(f"unlearn forget needs a method: unlearn forget METHOD ... It has {', '.join(methods)}.")
        description = "Remove records from a fine-tuned model, by one of these methods or your own: --method FILE.py:Class."
        print(overview("unlearn forget", description, {name: entry["idea"] for name, entry in methods.items()}))  # noqa: T201
        raise SystemExit(0)
    name = spelled(rest[0], methods)
    if name not in methods:
        raise InputError(unknown_command(name, dict.fromkeys(methods), "unlearn forget"))
    # Here, as a method needs torch, and the list above does not.
    from unlearn.cli.forget_method import forget_command

    kind = getattr(import_module(f"unlearn.methods.{name}"), methods[name]["__name__"])
    return forget_command(kind), rest[1:], [name]

"""Options without an effect, which no command passes over in silence: tables beside the options, and one check of a command line.

A class of options says in `NEEDS` with which others an option has an effect, in the words of a command line:

    NEEDS = {"lora_rank": "--lora", "nonce": "no --segments all", "look_every": "--select and --retain or --data"}

"or" binds closer than "and"; an option that is not set, off, empty or 0 counts as absent. `UNUSED` has options that a command
shares with others and does not use, each with the reason. A command's own table comes before those of its parts, and of these the
first counts; an empty entry lifts what a later one demands.

What depends on the files that a command reads, it checks in a method `require_used`, which is called before `run` with the names of
all options that were typed.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verify.errors import InputError


def require_effect(made: Any, words: Sequence[str]) -> None:
    """Refuse a command line with options that have no effect.

    Args:
        made: the command's dataclass, as parsed.
        words: the words that it was parsed from, with those of a configuration file.

    Raises:
        InputError: the message has a line for each such option, with what it needs.
    """
    values = {name: value for name, value, _ in options_of(made)}
    off = {name for name, value, default in options_of(made) if isinstance(value, bool) and value == default}
    given = [name for name in typed_options(made, words) if name not in off]
    unused, needs = table_of(made, "UNUSED"), table_of(made, "NEEDS")
    wrong = [f"{flag_of(name)} has no effect here: {unused[name]}. Leave it out." for name in given if unused.get(name)]
    wrong += [_lacking(name, lacking) for name in given if (lacking := unmet_need(needs.get(name, ""), values))]
    if wrong:
        raise InputError("\n       ".join(wrong))


def typed_options(made: Any, words: Sequence[str]) -> list[str]:
    """Return the names of a command's options that its words name, on or off."""
    typed = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    return [name for name, *_ in options_of(made) if not typed.isdisjoint((name, f"no_{name}"))]


def table_of(made: Any, name: str) -> dict[str, str]:
    """Return a table of a command, `NEEDS` or `UNUSED`, with those of its parts."""
    found = dict(getattr(made, name, {}))
    for field in dataclasses.fields(made):
        part = getattr(made, field.name)
        if dataclasses.is_dataclass(part):
            found = {**table_of(part, name), **found}
    return found


def alternatives(need: str) -> list[list[str]]:
    """Return the parts of a need, all of which must hold, each as its alternatives."""
    return [part.split(" or ") for part in need.split(" and ")] if need else []


def options_of(made: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and default of every option of a command."""
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value):
            yield from options_of(value)
        else:
            yield field.name, value, field.default


def unmet_need(need: str, values: Mapping[str, Any]) -> list[str]:
    """Return the alternatives of the first part of a need that does not hold; nothing where all hold."""
    return next((part for part in alternatives(need) if not any(_holds(one, values) for one in part)), [])


def _holds(condition: str, values: Mapping[str, Any]) -> bool:
    """Return whether "--flag", "--flag value" or, with "no" before it, their opposite is true of the options' values."""
    if condition.startswith("no "):
        return not _holds(condition.removeprefix("no "), values)
    flag, _, wanted = condition.partition(" ")
    value = values.get(flag.removeprefix("--").replace("-", "_"))
    if not wanted:
        return bool(value)
    return wanted in map(str, value) if isinstance(value, tuple) else str(value) == wanted


def _lacking(name: str, needed: Sequence[str]) -> str:
    """Return the message for an option that has no effect, as it needs one of these."""
    if len(needed) == 1 and needed[0].startswith("no "):
        return f"{flag_of(name)} has no effect with {needed[0].removeprefix('no ')}. Leave one of them out."
    said = " or ".join(f"without {one.removeprefix('no ')}" if one.startswith("no ") else f"with {one}" for one in needed)
    remedy = f"Give {needed[0]} as well" if len(needed) == 1 else "Change that"
    return f"{flag_of(name)} has an effect only {said}. {remedy}, or leave {flag_of(name)} out."


def flag_of(name: str) -> str:
    """Return an option's name as it is typed."""
    return f"--{name.replace('_', '-')}"

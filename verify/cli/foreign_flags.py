"""Command-line flags of other programs: accepted where they mean the same, otherwise refused with what to write instead.

Runs before tyro, for both programs: it finds the command, reads the command's flags from its dataclasses, and rewrites or refuses
every flag that is not one of them. The result is then parsed by tyro as usual.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import tyro

from verify.errors import InputError
from verify.io.extras import DISTRIBUTION
from verify.io.foreign_names import COMMANDS, FLAGS, METHODS, OMIT, TABLE, ForeignName, closest, foreign_name, plain

_YES, _NO = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_OPTION = re.compile(r"--?[A-Za-z]")
_SPLITS = {"forget_split": "forget", "retain_split": "retain", "holdout_split": "holdout", "task_name": "output"}
"""OpenUnlearning's command-line settings for data and output, and our flags for them."""
_PASSED = ("--help", "-h", "--tyro-print-completion", "--tyro-write-completion")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of one of this project's commands.

    Attributes:
        switch: whether it takes no value (`--bf16`, `--no-bf16`).
        several: whether more than one value may follow it.
    """

    switch: bool
    several: bool


@dataclasses.dataclass(frozen=True)
class Command:
    """The command named by a command line.

    Attributes:
        words: its name, with the names of its groups.
        flags: its flags by name.
        positional: whether it also takes words without a flag.
    """

    words: tuple[str, ...]
    flags: Mapping[str, Flag]
    positional: bool


def version_asked(given: Sequence[str]) -> bool:
    """Return whether the version is all that is requested."""
    return list(given) in (["--version"], ["-V"])


def version() -> str:
    """Return name and version of the distribution."""
    return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"


def spelled(word: str, names: Iterable[str]) -> str:
    """Return the name that equals a word up to dashes and underscores; the word itself if there is none."""
    return next((name for name in names if name.replace("_", "-") == word.replace("_", "-")), word)


def in_our_words(kind: Any, given: Sequence[str], program: str) -> list[str]:
    """Translate a command line with flags of other programs into this project's flags.

    Args:
        kind: the dataclass, or the union of subcommands, for tyro.
        given: the words after the program's name.
        program: its name in error messages.

    Raises:
        InputError: flags or a command are unknown; the message has a line for each, with what to write instead.
    """
    command = find_command(kind, given, program)
    if command is None:
        return list(given)
    result, wrong, seen = list(command.words), list[str](), dict[str, str]()
    for name, values, as_given in _options(given[len(command.words) :], command):
        try:
            made = _rewritten(name, values, as_given, command, program)
        except InputError as error:
            wrong.append(str(error))
            continue
        flag = _dashed(made[0]) if made else ""
        if flag.startswith("--") and seen.setdefault(flag, name) != name:
            wrong.append(f"{name} and {seen[flag]} mean the same ({flag}). Give one of them.")
        result += made
    if wrong:
        raise InputError("\n       ".join(wrong))
    return result


def find_command(kind: Any, given: Sequence[str], program: str) -> Command | None:
    """Return the command that the first words name; None if they name none and are left to tyro (`--help`, or no words).

    Raises:
        InputError: a word is not a command.
    """
    words: list[str] = []
    flags: dict[str, Flag] = {}
    positional, rest = False, list(given)
    while kind is not None:
        choices = _choices(kind)
        if choices:
            if not rest or rest[0].startswith("-"):
                return None
            word = spelled(rest.pop(0), choices)
            if word not in choices:
                raise InputError(unknown_command(word, choices, " ".join((program, *words))))
            words.append(word)
            kind = choices[word]
            continue
        found, bare, kind = _flags(_without_notes(kind)[0])
        flags.update(found)
        positional = positional or bare
    return Command(tuple(words), flags, positional)


def _choices(kind: Any) -> dict[str, Any]:
    """Return the subcommands of a union by name; empty for any other type."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return {}
    named = {}
    for member in typing.get_args(kind):
        inner, *about = _without_notes(member)
        name = next((one.name for one in about if hasattr(one, "prefix_name")), None)  # the marker of tyro.conf.subcommand(...)
        if name is not None and dataclasses.is_dataclass(inner):
            named[name] = inner
    return named


def _without_notes(hint: Any) -> list[Any]:
    """Return a type and its annotations from `Annotated`."""
    return list(typing.get_args(hint)) if typing.get_origin(hint) is typing.Annotated else [hint]


def _flags(kind: Any) -> tuple[dict[str, Flag], bool, Any]:
    """Return a dataclass's flags, nested ones included, whether it takes bare words, and its union of subcommands or None."""
    flags: dict[str, Flag] = {}
    positional, subcommands = False, None
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, *about = _without_notes(hints[field.name])
        if _choices(hint):
            subcommands = hint
        elif dataclasses.is_dataclass(hint):
            found, bare, below = _flags(hint)
            flags.update(found)
            positional, subcommands = positional or bare, subcommands or below
        elif tyro.conf.Positional in about:
            positional = True
        else:
            several = any(typing.get_origin(one) in (tuple, list) for one in (hint, *typing.get_args(hint)))
            flags["--" + field.name.replace("_", "-")] = Flag(hint is bool, several)
    return flags, positional, subcommands


def _options(words: Sequence[str], command: Command) -> list[tuple[str, list[str], list[str]]]:
    """Group the words after the command: a flag, its values, and both as they were given; bare words have the flag ""."""
    groups: list[tuple[str, list[str], list[str]]] = []
    for word in words:
        if _OPTION.match(word):
            name, equals, value = word.partition("=")
            groups.append((name, [value] if equals else [], [word]))
        elif groups and groups[-1][0] and _takes_more(groups[-1], word, command):
            groups[-1][1].append(word)
            groups[-1][2].append(word)
        else:
            groups.append(("", [word], [word]))
    return groups


def _takes_more(group: tuple[str, list[str], list[str]], word: str, command: Command) -> bool:
    """Return whether a bare word is a value of the flag before it: of one that takes several, or has none yet."""
    name, values, as_given = group
    if "=" in as_given[0]:
        return False
    flag = command.flags.get(_dashed(name))
    several = flag.several if flag is not None else not command.positional and "=" not in word
    return several or not values


def _rewritten(name: str, values: list[str], as_given: list[str], command: Command, program: str) -> list[str]:
    """Translate one flag with its values.

    Raises:
        InputError: it is unknown, or its value has no counterpart.
    """
    where = " ".join((program, *command.words))
    if not name:
        if not command.positional and "=" in values[0]:
            raise InputError(_hydra(values[0], command, where))
        return as_given
    if name in _PASSED or not name.startswith("--"):
        return as_given
    ours, entry = _dashed(name), foreign_name(name.lstrip("-"))
    if entry is not None and entry.flag in command.flags:
        return _translated(entry, name, values, command, where)
    own = command.flags.get(ours) or command.flags.get(ours.replace("--no-", "--", 1))
    if own is not None:
        return _switch(ours, values) if own.switch else as_given
    if entry is not None and not entry.ours:
        if _text(values).lower() in entry.values:
            return []
        raise InputError(f"{name} has no counterpart. {entry.advice}")
    raise InputError(_unknown(name, entry, command, where))


def _switch(ours: str, values: list[str]) -> list[str]:
    """Rewrite a switch with a value, such as `--bf16 True`; other values than yes or no are left to tyro."""
    if not values or values[0].lower() not in _YES | _NO:
        return [ours, *values]
    positive = ours.replace("--no-", "--", 1)
    on = (values[0].lower() in _YES) == (positive == ours)
    return [positive if on else positive.replace("--", "--no-", 1)]


def _translated(entry: ForeignName, name: str, values: list[str], command: Command, where: str) -> list[str]:
    """Translate a flag of another program, with its value."""
    flag = command.flags[entry.flag]
    if not values and not flag.switch and "true" not in entry.values:
        return [entry.flag]  # tyro reports that its value is missing
    if entry.argument == "lora_targets":
        values = [",".join(values)]
    found = entry.translate(_text(values))
    if found is None:
        known = ", ".join(sorted(set(entry.values.values()) - {OMIT}))
        advice = entry.advice or f"{entry.flag} takes {known}."
        raise InputError(f"{name} {' '.join(values)} has no counterpart in {where}. {advice}")
    if found == OMIT:
        return []
    return _switch(entry.flag, [found]) if flag.switch else [entry.flag, found, *values[1:]]


def _text(values: Sequence[str]) -> str:
    """Return a flag's value; "true" for a flag without one."""
    return values[0] if values else "true"


def _unknown(name: str, entry: ForeignName | None, command: Command, where: str) -> str:
    """Return the message for a flag that this command does not have, with what to write instead."""
    if entry is not None and entry.ours:
        return f"{name} is {entry.flag} here, and {where} has no such option. {where} --help lists those it has."
    foreign = {f"--{one.name.replace('_', '-')}": one.flag for one in TABLE if one.flag in command.flags}
    near = closest(name, [*command.flags, *foreign])
    if near:
        return f"{where} has no option {name}. Did you mean {foreign.get(near, near)}?"
    return f"{where} has no option {name}. {where} --help lists those it has."


def unknown_command(word: str, choices: Mapping[str, Any], where: str) -> str:
    """Return the message for a word that is not a command, with what to write instead."""
    key, _, value = word.partition("=")
    if value and key.rpartition(".")[2] in ("trainer", "method"):
        word = value
    what = "method" if where == "unlearn forget" else "command"
    alias = METHODS.get(plain(word))
    if near := alias if alias in choices else closest(word, choices):
        return f"{where} has no {what} {word}. Did you mean {where} {near}?"
    if plain(word) in COMMANDS and where in ("unlearn", "verify-unlearning"):
        return f"{where} has no {what} {word}. Write {COMMANDS[plain(word)]}."
    return f"{where} has no {what} {word}. It has {', '.join(choices)}."


def _hydra(word: str, command: Command, where: str) -> str:
    """Return the message for a setting such as OpenUnlearning's `trainer.args.learning_rate=1e-5`, with what to write instead."""
    key = word.partition("=")[0].rpartition(".")[2]
    entry, ours = foreign_name(key), {**FLAGS, **_SPLITS}.get(key, key)
    flag = entry.flag if entry is not None and entry.ours else _dashed(ours)
    if flag in command.flags:
        return f"{where} takes its settings as flags: for {key}=... write {flag} ..."
    return f"{where} takes its settings as flags, and has none for {key}. {where} --help lists those it has."


def _dashed(name: str) -> str:
    return "--" + name.lstrip("-").partition("=")[0].replace("_", "-")

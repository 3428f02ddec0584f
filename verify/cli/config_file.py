"""Flags of a command from a file (`--config FILE.yaml`); flags on the command line take precedence.

    model: original/
    forget: ids.txt
    learning-rate: 1e-5      # dashes or underscores
    bf16: true
    references: [ref1/, ref2/, ref3/]

Values are read as text, exactly as they would be typed: YAML's own types would turn `1e-5` into a word and `no` into a truth value.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.cli.foreign_flags import find_command, in_our_words
from verify.errors import InputError
from verify.io.strict_yaml import read_yaml

FLAG = "--config"
_NOTHING = ("", "null", "~")
"""YAML's ways to give no value."""


def with_config(words: Sequence[str], kind: Any, program: str) -> list[str]:
    """Replace `--config FILE` by the flags in the file, without those that are given on the command line.

    Args:
        words: the words after the program's name.
        kind: the command's dataclass.
        program: its name in error messages.

    Raises:
        InputError: the file cannot be read, is not a mapping from flags to values, names a flag twice, or names an unknown flag.
    """
    path, rest = _file_of(list(words))
    if path is None:
        return list(words)
    command = find_command(kind, rest, program)
    start = 0 if command is None else len(command.words)
    given = {_name(word) for word in in_our_words(kind, rest, program)[start:] if word.startswith("--")}
    added: list[str] = []
    seen: dict[str, str] = {}
    for name, value in read_config(path).items():
        made = _as_words(name, value, path)
        ours = in_our_words(kind, [*rest[:start], *made], program)[start:] if made else []
        if not ours:
            continue
        flag = _name(ours[0])
        if seen.setdefault(flag, name) != name:
            raise InputError(f"{path}: {name} and {seen[flag]} are the same flag, {flag}. Keep one of them.")
        if flag not in given:
            added += ours
    return [*rest[:start], *added, *rest[start:]]


def read_config(path: Path) -> Mapping[str, Any]:
    """Read a configuration file: flag -> text, or a list of texts.

    Raises:
        InputError: as for `with_config`.
    """
    content = read_yaml(path, purpose="Give --config a YAML file.", form="Write one `flag: value` a line.")
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} names no flags. Write one `flag: value` a line.")
    for name, value in content.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(not isinstance(one, str) for one in value)):
            raise InputError(f"{path}: {name} is nested. A flag takes one value, or a list of values.")
    return content


def _file_of(words: list[str]) -> tuple[Path | None, list[str]]:
    """Return the file that `--config` names, or None, and the other words."""
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            continue
        if not equals and number + 1 == len(words):
            raise InputError(f"{FLAG} needs a file: {FLAG} FILE.yaml.")
        rest = words[:number] + words[number + 1 + (not equals) :]
        if any(one.partition("=")[0] == FLAG for one in rest):
            raise InputError(f"{FLAG} is given twice. Give one file.")
        return Path(value if equals else words[number + 1]), rest
    return None, words


def _as_words(name: str, value: str | list[str], path: Path) -> list[str]:
    """Return the words that a user would type for one entry of the file."""
    flag = "--" + str(name).strip().lstrip("-").replace("_", "-")
    if flag == FLAG:
        raise InputError(f"{path} names another configuration file. Put all flags into one.")
    if isinstance(value, list):
        return [flag, *value]
    # Whether `no` switches a flag off or is the country code of Norway depends on the flag: `in_our_words` knows.
    return [] if value in _NOTHING else [flag, value]


def _name(word: str) -> str:
    """Return a flag's name with dashes and without `no-`, so that a switch has one name."""
    return "--" + word.partition("=")[0].removeprefix("--").replace("_", "-").removeprefix("no-")

"""Command dispatch of both programs, importing only the command that runs.

A program is a table of commands. `--help` and errors about unknown commands use the table only; the dataclass of a command (its
flags and its `run`) is imported when the command runs: listing commands takes a tenth of a second, importing torch takes six. A
test compares the table's descriptions with the first lines of the dataclasses.
"""

import contextlib
import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import tyro

from verify.cli.config_file import with_config
from verify.cli.console import USAGE_ERROR, run_command, say_error
from verify.cli.foreign_flags import in_our_words, spelled, unknown_command, version, version_asked
from verify.cli.needs import require_effect, typed_options
from verify.cli.numbers import require_numbers
from verify.errors import InputError

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
HELP, HELP_ALL = ("--help", "-h"), "--help-all"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a program.

    Attributes:
        where: its dataclass, "module:Class"; or, for commands that are made at run time, a function of the words after the command
            that returns the dataclass, the remaining words, and the words it consumed.
        line: its description, the first line of the dataclass's docstring.
    """

    where: str | Callable[[Sequence[str]], tuple[Any, list[str], list[str]]]
    line: str

    def resolve(self, words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
        """Import the command and return its dataclass, the remaining words, and the words it consumed."""
        if isinstance(self.where, str):
            module, _, name = self.where.partition(":")
            return getattr(import_module(module), name), list(words), []
        return self.where(words)


def run_program(program: str, description: str, commands: Mapping[str, Command], arguments: Sequence[str] | None) -> int:
    """Run the command named by the arguments and return its exit status.

    Args:
        program: its name in help and error messages.
        description: description of the program in its help.
        commands: commands by name, in the order of the help text.
        arguments: the words after the program's name; None for those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if version_asked(given):
        print(version())  # noqa: T201
        return 0
    if not given or given[0] in (*HELP, HELP_ALL):
        print(overview(program, description, {name: command.line for name, command in commands.items()}), file=_help_to(given))
        return 0 if given else USAGE_ERROR
    try:
        made, typed = _parsed(*find_command_of(program, commands, given))
    except InputError as error:
        return say_error(error)

    def run() -> int:
        if hasattr(made, "require_used"):
            made.require_used(typed)
        return int(made.run())

    return run_command(run)


def find_command_of(program: str, commands: Mapping[str, Command], given: Sequence[str]) -> tuple[Any, list[str], str]:
    """Return the dataclass of a command line, the remaining words, and the program's name with the command's.

    Raises:
        InputError: the first word is not a command.
    """
    name = spelled(given[0], commands)
    if name not in commands:
        raise InputError(unknown_command(name, dict.fromkeys(commands), program))
    kind, words, named = commands[name].resolve(given[1:])
    return kind, words, " ".join((program, name, *named))


def overview(program: str, description: str, lines: Mapping[str, str]) -> str:
    """Format the help text of a program, or of a group of commands: one line per command."""
    width = max(map(len, lines))
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return (
        f"usage: {program} COMMAND ...\n\n{description.strip()}\n\ncommands:\n{listed}\n\n"
        f"{program} COMMAND --help lists the flags of a command. After its name, --config FILE.yaml reads flags from a file."
    )


def _parsed(kind: Any, words: list[str], prog: str) -> tuple[Any, list[str]]:
    """Parse a command's words into its dataclass, and return it with the names of the options that they give.

    `--help` prints the essential flags, `--help-all` every flag.
    """
    essential = getattr(kind, "ESSENTIAL", None)
    if essential is not None and any(word in HELP for word in words):
        with contextlib.suppress(SystemExit):
            tyro.cli(_reduced(kind, essential), args=["--help"], prog=prog, config=CONFIG)
        print(f"These are the most important flags; {prog} {HELP_ALL} lists every flag.")  # noqa: T201
        raise SystemExit(0)
    words = ["--help" if word == HELP_ALL else word for word in words]
    words = in_our_words(kind, with_config(words, kind, prog), prog)
    made = tyro.cli(kind, args=words, prog=prog, config=CONFIG)
    require_numbers(made)
    require_effect(made, words)
    return made, typed_options(made, words)


def _reduced(kind: Any, essential: frozenset[str]) -> Any:
    """Derive a dataclass of the same flags in which all but the essential ones are hidden, for the help text only."""
    hints = typing.get_type_hints(kind, include_extras=True)
    changed: list[Any] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        default: Any = dataclasses.field()
        if field.default is not dataclasses.MISSING:
            default = dataclasses.field(default=field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = dataclasses.field(default_factory=field.default_factory)
        if dataclasses.is_dataclass(inner):
            below = _reduced(inner, essential)
            required = default.default is default.default_factory is dataclasses.MISSING
            # A default of the whole class is none of the reduced one: tyro would offer both, as subcommands.
            changed.append((field.name, below, default if required else _made(below)))
        elif field.name not in essential:
            changed.append((field.name, Annotated[hint, tyro.conf.Suppress], default))
    namespace = {"__doc__": kind.__doc__}
    return dataclasses.make_dataclass(kind.__name__, changed, bases=(kind,), namespace=namespace, frozen=True)


def _made(kind: Any) -> Any:
    return dataclasses.field(default_factory=kind)


def _help_to(given: Sequence[str]) -> Any:
    """Return standard output for requested help, standard error for a call without a command."""
    return sys.stdout if given else sys.stderr

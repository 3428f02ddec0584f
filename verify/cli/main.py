"""verify-unlearning: register, audit, recompute a report, certify and check, write reports and letters.

Exit status of `audit` and `report`: 0 EQUIVALENT_WITHIN, 10 NOT_FORGOTTEN, 11 INCONCLUSIVE, 12 NOT_TESTABLE, 2 usage error,
1 other failure.
"""

import dataclasses
import functools
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from verify.cli.audits import Attacks, Audit, Power, Register
from verify.cli.certificates import Certify, Check, Keygen
from verify.cli.console import run_command, say_error
from verify.cli.flags import FieldFlags
from verify.cli.foreign_flags import in_our_words, version, version_asked
from verify.cli.measures import Backdoor, MuseMetricsCommand, Probe, TofuMetricsCommand
from verify.cli.reports import Compare, DeletionReport, LetterCommand, Report
from verify.errors import InputError


@dataclasses.dataclass(frozen=True)
class SplitHoldout:
    """Divide never-trained records by subject: half for the unlearning method, half for the audit."""

    source: Annotated[str, tyro.conf.Positional]
    """The records: a file, datasets folder or Hub name."""
    output: Path
    """Folder for holdout-method.jsonl and holdout-audit.jsonl."""
    seed: int = 0
    """Another seed gives other halves."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()

    def run(self) -> int:
        """Write both files and say how many records each has."""
        from verify.provenance.holdout import split_holdout_file

        found = split_holdout_file(self.source, self.output, self.columns.fields(), self.seed)
        if found.method is not None:
            print(f"for the method: {found.method} ({found.records[0]} records; unlearn forget ... --holdout)")  # noqa: T201
        print(f"for the audit:  {found.audit} ({found.records[1]} records)")  # noqa: T201
        if found.note is not None:
            print(f"note: {found.note}", file=sys.stderr)  # noqa: T201
        return 0


def _attack_row(name: str, kind: type[Any]) -> list[str]:
    """The cells of one attack in the Markdown table."""
    return [f"`{name}`", kind.idea, kind.family, ", ".join(sorted(kind.needs)), _attack_cost(kind), kind.paper]


def _attack_cost(kind: type[Any]) -> str:
    """The level an attack belongs to, and its forward passes beside the shared one."""
    from verify.attacks import LEVELS

    level = next(level for level, cost in LEVELS.items() if kind.cost <= cost)
    passes = f"about {kind.cost:g} more pass{'' if kind.cost == 1 else 'es'}" if kind.cost else "no pass of its own"
    return f"{level}: {passes}"


COMMANDS = {
    "register": Register,
    "audit": Audit,
    "split-holdout": SplitHoldout,
    "report": Report,
    "compare": Compare,
    "power": Power,
    "probe": Probe,
    "backdoor": Backdoor,
    "tofu": TofuMetricsCommand,
    "muse": MuseMetricsCommand,
    "attacks": Attacks,
    "keygen": Keygen,
    "certify": Certify,
    "check": Check,
    "deletion-report": DeletionReport,
    "letter": LetterCommand,
}
WITHOUT_MODELS = (SplitHoldout, Keygen, Certify, Check, DeletionReport, LetterCommand, Compare)
"""Commands that load no model, so that transformers need not be kept quiet."""

Command: Any = functools.reduce(
    operator.or_, (Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in COMMANDS.items())
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `verify-unlearning` and `python -m verify`; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if version_asked(given):
        print(version())  # noqa: T201
        return 0
    try:
        words = in_our_words(Command, given, "verify-unlearning")
    except InputError as error:
        return say_error(error)
    command: Any = tyro.cli(
        Command,
        args=words,
        prog="verify-unlearning",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return run_command(command.run, libraries=not isinstance(command, WITHOUT_MODELS))


if __name__ == "__main__":
    sys.exit(main())

"""verify-unlearning: register, audit, recompute a report, certify and check, write reports and letters.

Exit status of `audit` and `report`: 0 EQUIVALENT_WITHIN, 10 NOT_FORGOTTEN, 11 INCONCLUSIVE, 12 NOT_TESTABLE, 2 usage error,
1 other failure.
"""

import functools
import operator
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from verify.cli.audits import Attacks, Audit, Power, Register, SplitHoldout
from verify.cli.certificates import Certify, Check, Keygen
from verify.cli.console import run_command, say_error
from verify.cli.foreign_flags import in_our_words, version, version_asked
from verify.cli.measures import Backdoor, MuseMetricsCommand, Probe, TofuMetricsCommand
from verify.cli.reports import Compare, DeletionReport, LetterCommand, Report
from verify.errors import InputError

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

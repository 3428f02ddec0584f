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

from verify.cli_certificates import Certify, Check, Keygen
from verify.cli_flags import EXIT_STATUS, FieldFlags, SetFlags, SettingsFlags
from verify.cli_measures import Backdoor, MuseMetricsCommand, Probe, TofuMetricsCommand
from verify.cli_reports import Compare, DeletionReport, LetterCommand, Report
from verify.command_line import in_our_words, version, version_asked
from verify.console import progress_bar, run_command, say_error
from verify.differences import ReferenceDifference
from verify.errors import InputError


@dataclasses.dataclass(frozen=True)
class Audit:
    """Judge whether a forget set has left a model; writes evidence.json, scores.parquet and report.html."""

    model: str
    """The unlearned model: a folder or Hub name."""
    original: str
    """The model before unlearning."""
    output: Path
    """A new folder for the results."""
    records: Annotated[SetFlags, tyro.conf.arg(name="")]
    base: str | None = None
    """The model before fine-tuning; the reference attack needs it."""
    references: tuple[str, ...] = ()
    """Models fine-tuned without the forget set, each with another seed; 4 to 8."""
    registration: Path | None = None
    """The file that `register` wrote before unlearning; settings are read from it."""
    canaries: Path | None = None
    """The canary manifest of the original's training; the default is the one in the original's folder."""
    earlier: tuple[Path, ...] = ()
    """evidence.json of earlier deletions, whose canaries count in the e-value."""
    accept_reference_differences: tuple[ReferenceDifference, ...] = ()
    """Differences between a reference and a retraining of the original without the forget set that are meant; the report names what
    was accepted. Without this, references whose training logs show a difference are refused."""
    accept_used_holdout: bool = False
    """Audit with holdout records that the unlearning itself read; the report says so."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    choices: Annotated[SettingsFlags, tyro.conf.arg(name="")] = SettingsFlags()
    cache: Path | None = None
    """Folder for token statistics, kept between audits."""

    def run(self) -> int:
        """Audit, print the table, and return the verdict's exit status."""
        from verify.attacks import cost_of
        from verify.auditing import audit

        # Flags that were left alone must not contradict a registration: its settings rule.
        untouched = self.registration is not None and self.choices == SettingsFlags()
        settings = None if untouched else self.choices.settings()
        models = 2 + len(self.references) + (self.base is not None)
        print(f"{cost_of(self._attacks(settings))}; {models} models", file=sys.stderr)  # noqa: T201
        with progress_bar("loading") as progress:
            evidence = audit(
                self.model,
                self.original,
                **self.records.sets(),
                base=self.base,
                references=self.references,
                fields=self.columns.fields(),
                output_dir=self.output,
                settings=settings,
                registration=self.registration,
                canaries=self.canaries,
                earlier=self.earlier,
                cache_dir=self.cache,
                accept=(*self.accept_reference_differences, *(("used_holdout",) if self.accept_used_holdout else ())),
                progress=progress,
            )
        print(evidence.table())  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}")  # noqa: T201
        return EXIT_STATUS[evidence.verdict]

    def _attacks(self, settings: Any) -> tuple[str, ...]:
        """The attacks that will run: those of the settings, or those that were registered."""
        from verify.registration import Registration

        if settings is not None or self.registration is None:
            return tuple(() if settings is None else settings.attacks)
        return tuple(Registration.load(self.registration).settings.attacks)


@dataclasses.dataclass(frozen=True)
class Register:
    """Fix in writing, before unlearning, what will be audited and how; send the digest to somebody who will remember it."""

    output: Path
    """A new file for the registration."""
    records: Annotated[SetFlags, tyro.conf.arg(name="")]
    canaries: Path | None = None
    """The canary manifest of the training run, or the model folder that holds it."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    choices: Annotated[SettingsFlags, tyro.conf.arg(name="")] = SettingsFlags()

    def run(self) -> int:
        """Write the registration and print its digest."""
        from verify.auditing import register

        registration = register(
            self.output,
            **self.records.sets(),
            fields=self.columns.fields(),
            settings=self.choices.settings(),
            canaries=self.canaries,
        )
        print(f"registration: {self.output}\ndigest:       {registration.digest}")  # noqa: T201
        return 0


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
        from verify.holdout import split_holdout_file

        found = split_holdout_file(self.source, self.output, self.columns.fields(), self.seed)
        if found.method is not None:
            print(f"for the method: {found.method} ({found.records[0]} records; unlearn forget ... --holdout)")  # noqa: T201
        print(f"for the audit:  {found.audit} ({found.records[1]} records)")  # noqa: T201
        if found.note is not None:
            print(f"note: {found.note}", file=sys.stderr)  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Power:
    """What could an audit of this size show, and how large would it have to be?"""

    forget: int
    """How many records are to be removed."""
    controls: int = 0
    """How many never-trained records there are."""
    references: int = 0
    """How many retrained references."""
    canaries: int = 0
    """How many canary pairs."""
    gap: float = 2.2
    """How much more the original knows of a forget record than a retraining, nats per token."""
    record_spread: float = 0.15
    """How far two honest retrainings differ on one record, nats per token."""
    model_spread: float = 0.04
    """How far two honest retrainings differ on the set's mean, nats per token."""
    choices: Annotated[SettingsFlags, tyro.conf.arg(name="")] = SettingsFlags()

    def run(self) -> int:
        """Print the table."""
        from verify.power import power_table
        from verify.statistics.simulation import World

        sizes = {name: getattr(self, name) for name in ("forget", "controls", "references", "canaries")}
        world = World(gap=self.gap, record_spread=self.record_spread, model_spread=self.model_spread)
        for row in power_table(**sizes, world=world, settings=self.choices.settings()):
            print(f"{row.claim}\n    with these sizes: {row.given}\n    for 80 % power:   {row.needed}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Attacks:
    """List every attack: its idea, its paper, what it needs."""

    markdown: bool = False
    """Print a Markdown table."""

    def run(self) -> int:
        """Print the list."""
        from verify.attacks import attack_classes

        if self.markdown:
            from verify.report.text import markdown_table

            rows = [_attack_row(name, kind) for name, kind in attack_classes().items()]
            print(markdown_table(["attack", "what it measures", "family", "needs", "cost", "paper"], rows))  # noqa: T201
            return 0
        for name, kind in attack_classes().items():
            print(f"{name}  ({kind.family}; {_attack_cost(kind)}; needs: {', '.join(sorted(kind.needs))})")  # noqa: T201
            print(f"    {kind.idea}\n    {kind.paper}")  # noqa: T201
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

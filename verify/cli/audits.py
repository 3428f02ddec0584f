"""Commands around an audit: register, audit, split-holdout, power, attacks."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from verify.cli.console import progress_bar
from verify.cli.flags import EXIT_STATUS, SETTINGS_NEEDS, FieldFlags, SetFlags, SettingsFlags
from verify.schema.differences import ReferenceDifference

JUDGES = "--references or --level-table"
"""What judges in other ways of asking."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """Judge whether a model has forgotten a forget set; writes evidence.json, scores.parquet and report.html.

    Cost: every model is loaded once, one after the other, and reads each record once for the quick attacks, about four times for
    the standard ones (`verify-unlearning attacks` lists the cost of each), and again for every other way of asking.
    """

    ESSENTIAL: ClassVar[frozenset[str]] = frozenset(
        {
            *("model", "original", "output", "base", "references", "level_table", "registration", "forget", "retain", "holdout"),
            *("attacks", "margin", "subject_field", "channels", "rewordings"),
        }
    )

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys((field.name for field in dataclasses.fields(SettingsFlags)), "no --registration"),
        **{name: f"{needs} and no --registration" for name, needs in SETTINGS_NEEDS.items()},
        "level_table_key": "--level-table",
        "expected_audits": "--holdout and no --registration",
        "accept_reference_differences": "--references or --accept-reference-differences configuration",
        "reference_proofs": "--references",
        **dict.fromkeys(("rewordings", "rewording_model"), f"--holdout or --registration and {JUDGES} or --registration"),
        "channels": f"--channels exact or --holdout and --channels exact or {JUDGES} and no --registration",
        "accept_used_holdout": "--holdout",
    }

    model: str
    """The unlearned model: a folder, GGUF file or Hub name."""
    original: str
    """The model before unlearning."""
    output: Path
    """A new folder for the results."""
    records: Annotated[SetFlags, tyro.conf.arg(name="")]
    base: str | None = None
    """The model before fine-tuning; the reference attack needs it."""
    references: tuple[str, ...] = ()
    """Models fine-tuned without the forget set, each with another seed; 4 to 8."""
    level_table: Path | None = None
    """A level table's folder; judges in place of --references, without any training, by its controls in --holdout."""
    level_table_key: Path | None = None
    """Public key of whoever is trusted to have signed the level table."""
    registration: Path | None = None
    """The file that `register` wrote before unlearning; the settings are read from it."""
    canaries: Path | None = None
    """The canary manifest of the original's training; the default is the one in the original's folder."""
    earlier: tuple[Path, ...] = ()
    """evidence.json of earlier deletions; their canaries count in the e-value, and audits against the same controls in the account
    of these (--expected-audits)."""
    looks: tuple[Path, ...] = ()
    """evidence.json of earlier audits of the same weights; the report and a certificate count and name them."""
    rewordings: Path | None = None
    """The forget and holdout records in other words, or templates that word them; keep the file from whoever makes the model."""
    rewording_model: str | None = None
    """An instruction model that words the questions differently: a folder or Hub name; instead of --rewordings."""
    accept_reference_differences: tuple[ReferenceDifference, ...] = ()
    """Intended differences between a reference and a retraining of the original without the forget set; the report names those
    accepted. By default, references with such a difference in their training logs are refused. `configuration` also accepts a
    target whose configuration differs from the original's."""
    reference_proofs: tuple[Path, ...] = ()
    """Proofs that `reexecute --model REFERENCE` wrote, without --log: trainings of references that were executed again without the
    forget set. Choose the reference by lot after all were handed in."""
    accept_used_holdout: bool = False
    """Accept holdout records that the unlearning itself read; the report says so."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    choices: Annotated[SettingsFlags, tyro.conf.arg(name="")] = SettingsFlags()
    cache: Path | None = None
    """Folder of the cache of token statistics and attack scores, kept between audits."""

    def run(self) -> int:
        """Audit, print the table, and return the verdict's exit status."""
        from verify.attacks import cost_of
        from verify.auditing.audit import audit
        from verify.report.text import summary

        # Flags at their defaults must not contradict a registration, so its settings apply.
        untouched = self.registration is not None and self.choices == SettingsFlags()
        settings = None if untouched else self.choices.settings()
        models = 2 + len(self.references) + (self.base is not None)
        print(f"{cost_of(self._attacks(settings))}; {models} models{self._asked(settings)}", file=sys.stderr)  # noqa: T201
        with progress_bar("loading") as progress:
            evidence = audit(
                self.model,
                self.original,
                **self.records.sets(),
                base=self.base,
                references=self.references,
                level_table=self.level_table,
                level_table_key=self.level_table_key,
                fields=self.columns.fields(self.original, self.model),
                output_dir=self.output,
                settings=settings,
                registration=self.registration,
                canaries=self.canaries,
                earlier=self.earlier,
                looks=self.looks,
                rewordings=self.rewordings,
                rewording_model=self.rewording_model,
                cache_dir=self.cache,
                accept=(*self.accept_reference_differences, *(("used_holdout",) if self.accept_used_holdout else ())),
                reference_proofs=self.reference_proofs,
                progress=progress,
            )
        print(summary(evidence))  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}")  # noqa: T201
        return EXIT_STATUS[evidence.verdict]

    def _attacks(self, settings: Any) -> tuple[str, ...]:
        """Return the attacks that will run: those of the settings, or those that were registered."""
        from verify.auditing.registration import Registration

        if settings is not None or self.registration is None:
            return tuple(() if settings is None else settings.attacks)
        return tuple(Registration.load(self.registration).settings.attacks)

    def _asked(self, settings: Any) -> str:
        """Say that the models are asked in other ways too, where they are."""
        chosen = None if settings is None else settings.channels
        judged = self.references or self.level_table is not None
        able = self.records.holdout is not None and judged and chosen != ("exact",)
        return ", each asked in other ways too (--channels exact leaves that out)" if able else ""


@dataclasses.dataclass(frozen=True)
class Register:
    """Register, before unlearning, what will be audited and how; give the printed digest to somebody who keeps it."""

    NEEDS: ClassVar[Mapping[str, str]] = SETTINGS_NEEDS

    output: Path
    """A new file for the registration."""
    records: Annotated[SetFlags, tyro.conf.arg(name="")]
    canaries: Path | None = None
    """The canary manifest of the training run, or the model folder that holds it."""
    rewordings: Path | None = None
    """The forget and holdout records in other words, or templates; the registration holds a commitment that reveals nothing."""
    references: tuple[str, ...] = ()
    """Models trained without the forget set, if they exist already: the audit must use all of them, and may add others."""
    level_table: Path | None = None
    """The level table that will judge in place of retrained references."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    choices: Annotated[SettingsFlags, tyro.conf.arg(name="")] = SettingsFlags()

    def run(self) -> int:
        """Write the registration and print its digest."""
        from verify.auditing.audit import register

        registration = register(
            self.output,
            **self.records.sets(),
            fields=self.columns.fields(),
            settings=self.choices.settings(),
            canaries=self.canaries,
            rewordings=self.rewordings,
            references=self.references,
            level_table=self.level_table,
        )
        print(f"registration: {self.output}\ndigest:       {registration.digest}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class SplitHoldout:
    """Split never-trained records by subject: half for the unlearning method, half for the audit."""

    source: Annotated[str, tyro.conf.Positional]
    """The records: a file, datasets folder or Hub name."""
    output: Path
    """Folder for holdout-method.jsonl and holdout-audit.jsonl."""
    seed: int = 0
    """Seed of the split."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()

    def run(self) -> int:
        """Write both files and print the number of records in each."""
        from verify.provenance.holdout import split_holdout_file

        found = split_holdout_file(self.source, self.output, self.columns.fields(), self.seed)
        if found.method is not None:
            print(f"for the method: {found.method} ({found.records[0]} records; unlearn forget ... --holdout)")  # noqa: T201
        print(f"for the audit:  {found.audit} ({found.records[1]} records)")  # noqa: T201
        if found.note is not None:
            print(f"note: {found.note}", file=sys.stderr)  # noqa: T201
        return 0


SIZES = ("forget", "controls", "references", "canaries", "level_table", "shards", "gap", "record_spread", "model_spread")
"""What `power` assumes where no audit says it."""


@dataclasses.dataclass(frozen=True)
class Power:
    """Compute what an audit of a given size can show, and the sizes it would need.

    By the sizes alone, for models that vary as small ones fine-tuned on questions and answers do, and without the validity checks.
    With --audit DIR, by the references or the level table of an audit that was made, and with the validity checks.
    """

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(SIZES, "no --audit"),
        **dict.fromkeys(("margin", "alpha", "expected_audits"), "no --audit"),
        **dict.fromkeys(("canary_guesses", "epsilon"), "--canaries and no --audit"),
        "per_subject": "--level-table and no --audit",
    }

    forget: int = 0
    """Number of records to be removed."""
    audit: Path | None = None
    """Folder of an audit; honest deletions of its records are simulated as its references differ, or by its level table."""
    controls: int = 0
    """Number of never-trained records."""
    references: int = 0
    """Number of retrained references."""
    canaries: int = 0
    """Number of canary pairs."""
    level_table: int = 0
    """Number of pool models of a level table, half of which leave each person out."""
    shards: int = 0
    """Number of shards of a model that was trained with --shards, for --shard-siblings."""
    per_subject: int = 1
    """Records per person, in the forget set and among the controls; only a level table counts by person."""
    gap: float = 2.2
    """How much lower the original's loss on a forget record is than a retraining's, nats per token."""
    record_spread: float = 0.15
    """Standard deviation between retrainings of the loss on one record, nats per token."""
    model_spread: float = 0.04
    """Standard deviation between retrainings of the mean loss on the set, nats per token."""
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    canary_guesses: int = 100
    """Number of canary assignments guessed (Tier A)."""
    epsilon: float = 1.0
    """epsilon*: the largest leak of the deletion procedure that counts as deleted, in nats."""
    expected_audits: int | None = None
    """Number of audits planned for against the same controls, which share alpha for accusations."""

    def run(self) -> int:
        """Print the table."""
        if self.audit is not None:
            return self._measured(self.audit)
        from verify.auditing.power import power_table
        from verify.statistics.simulation import World

        sizes = {name: getattr(self, name) for name in ("forget", "controls", "references", "canaries")}
        world = World(gap=self.gap, record_spread=self.record_spread, model_spread=self.model_spread)
        sizes |= {"pool": self.level_table, "shards": self.shards, "per_subject": self.per_subject}
        named = {name: getattr(self, name) for name in ("margin", "alpha", "canary_guesses", "epsilon", "expected_audits")}
        for row in power_table(**sizes, world=world, settings=SettingsFlags(**named).settings()):
            print(f"{row.claim}\n    with these sizes: {row.given}\n    for 80 % power:   {row.needed}")  # noqa: T201
        return 0

    def _measured(self, folder: Path) -> int:
        """Print the power of an audit by the references or the level table that it had."""
        from verify.auditing.measured_power import power_of_audit

        found = power_of_audit(folder)
        print(found.words)  # noqa: T201
        for gate in found.obstacles[1:]:
            print(f"    also: {gate.name}: {gate.reason}")  # noqa: T201
        if found.needed is not None:
            print(f"    with {found.needed} references like these: at least 80 %")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Attacks:
    """List every attack with its idea, paper, needs and cost."""

    markdown: bool = False
    """Print a Markdown table."""

    def run(self) -> int:
        """Print the list."""
        from verify.attacks import attack_catalogue

        if self.markdown:
            from verify.report.text import markdown_table

            rows = [_attack_row(name, entry) for name, entry in attack_catalogue().items()]
            print(markdown_table(["attack", "what it measures", "family", "needs", "cost", "paper"], rows))  # noqa: T201
            return 0
        for name, entry in attack_catalogue().items():
            print(f"{name}  ({entry['family']}; {_attack_cost(entry)}; needs: {', '.join(sorted(entry['needs']))})")  # noqa: T201
            print(f"    {entry['idea']}\n    {entry['paper']}")  # noqa: T201
        return 0


def _attack_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of one attack in the Markdown table."""
    needs = ", ".join(sorted(entry["needs"]))
    return [f"`{name}`", entry["idea"], entry["family"], needs, _attack_cost(entry), entry["paper"]]


def _attack_cost(entry: Mapping[str, Any]) -> str:
    """Describe the level an attack belongs to, and its forward passes in addition to the shared one."""
    from verify.attacks import LEVELS

    cost = entry["cost"]
    level = next(level for level, most in LEVELS.items() if cost <= most)
    passes = f"about {cost:g} more pass{'' if cost == 1 else 'es'}" if cost else "no pass of its own"
    return f"{level}: {passes}"

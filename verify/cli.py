"""verify-unlearning: register, audit, recompute a report, plan an audit's size, list the attacks.

Exit status of `audit` and `report`: 0 EQUIVALENT_WITHIN, 10 NOT_FORGOTTEN, 11 INCONCLUSIVE, 12 NOT_TESTABLE, 2 usage error,
1 other failure.
"""

import dataclasses
import functools
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from verify.console import progress_bar, run_command

if TYPE_CHECKING:
    from verify.evidence import Settings
    from verify.findings import VerdictWord
    from verify.records import Fields

EXIT_STATUS: "dict[VerdictWord, int]" = {"EQUIVALENT_WITHIN": 0, "NOT_FORGOTTEN": 10, "INCONCLUSIVE": 11, "NOT_TESTABLE": 12}


@dataclasses.dataclass(frozen=True)
class FieldFlags:
    """Which column of the files holds what."""

    text_field: str = "text"
    prompt_field: str = "prompt"
    completion_field: str = "completion"
    messages_field: str = "messages"
    id_field: str = "example_id"
    subject_field: str = "subject_id"
    secret_field: str = "secret"

    def fields(self) -> "Fields":
        """The mapping these flags describe."""
        from verify.records import Fields

        return Fields(
            text=self.text_field,
            prompt=self.prompt_field,
            completion=self.completion_field,
            messages=self.messages_field,
            id=self.id_field,
            subject=self.subject_field,
            secret=self.secret_field,
        )


@dataclasses.dataclass(frozen=True)
class SetFlags:
    """The records that an audit reads."""

    forget: Path
    """The records that were to be removed, or a list of example or subject ids (with --data)."""
    retain: Path | None = None
    """Records the model was to keep; for the utility gate."""
    holdout: Path | None = None
    """Records like the forget set that no model was trained on; for membership attacks."""
    fresh: Path | None = None
    """Texts of the forget set's subjects that no model was trained on; for the user level."""
    data: Path | None = None
    """The file the original was trained on."""

    def sets(self) -> dict[str, str | None]:
        """The same under the argument names of `verify.audit`."""
        named = {"forget_set": self.forget, "retain_set": self.retain, "holdout_set": self.holdout, "fresh_set": self.fresh}
        return {name: None if path is None else str(path) for name, path in {**named, "data": self.data}.items()}


@dataclasses.dataclass(frozen=True)
class SettingsFlags:
    """Everything that is decided before looking."""

    attacks: tuple[str, ...] = ()
    """Attacks to run: quick, standard, full, or names; the default is standard."""
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    utility_tolerance: float = 0.10
    """The largest loss of retain utility that is accepted."""
    retain_records: int = 400
    """At most so many retain records are scored."""
    twins: bool = False
    """The holdout was drawn at random when the data came in: its records are exact controls (Tier C)."""
    canary_guesses: int = 100
    """How many coins are guessed, of the canary pairs with the clearest scores (Tier A)."""
    epsilon: float = 1.0
    """epsilon*: the largest leak of the deletion procedure that counts as deleted, in nats."""
    overflow: Literal["refuse", "split"] = "refuse"
    """What to do with records longer than the context."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in; the one that is deployed."""
    seed: int = 0
    """Seed of every random draw of the audit."""

    def settings(self) -> "Settings":
        """The settings these flags describe.

        Raises:
            InputError: a value is out of range; the message names the flag.
        """
        from pydantic import ValidationError

        from verify.errors import InputError
        from verify.evidence import Settings

        try:
            return Settings(**dataclasses.asdict(self))
        except ValidationError as error:
            first = error.errors()[0]
            flag = str(first["loc"][0]).replace("_", "-")
            raise InputError(f"--{flag} {first['input']} cannot be used: {first['msg']}.") from None


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
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    choices: Annotated[SettingsFlags, tyro.conf.arg(name="")] = SettingsFlags()
    cache: Path | None = None
    """Folder for token statistics, kept between audits."""

    def run(self) -> int:
        """Audit, print the table, and return the verdict's exit status."""
        from verify.auditing import audit

        # Flags that were left alone must not contradict a registration: its settings rule.
        untouched = self.registration is not None and self.choices == SettingsFlags()
        settings = None if untouched else self.choices.settings()
        if settings is not None:
            from verify.attacks import cost_of

            models = 2 + len(self.references)
            print(f"{cost_of(settings.attacks)}; {models} models", file=sys.stderr)  # noqa: T201
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
                progress=progress,
            )
        print(evidence.table())  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}")  # noqa: T201
        return EXIT_STATUS[evidence.verdict]


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
class Report:
    """Compute every number of an audit again from its scores, and write the report anew."""

    audit: Annotated[Path, tyro.conf.Positional]
    """The folder that `audit` wrote."""
    output: Path | None = None
    """A file for the report; without it, the check alone is made."""

    def run(self) -> int:
        """Recompute, print the table, and return the verdict's exit status; 1 where a number does not follow from the scores."""
        from verify.recomputing import recompute

        evidence = recompute(self.audit)
        print(f"{evidence.table()}\n\nEvery number follows from {self.audit / 'scores.parquet'}.")  # noqa: T201
        if self.output is not None:
            print(f"report: {evidence.to_html(self.output)}")  # noqa: T201
        return EXIT_STATUS[evidence.verdict]


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
class Probe:
    """Treat all models alike (quantize, relearn, ask otherwise, ...) and judge what is left under each treatment."""

    model: str
    """The unlearned model: a folder or Hub name."""
    original: str
    """The model before unlearning."""
    references: tuple[str, ...]
    """Models fine-tuned without the forget set, each with another seed; 4 to 8."""
    forget: Path
    """The records that were to be removed."""
    retain: Path
    """Records that were kept; relearning and prefixes take theirs from here."""
    output: Path
    """A new JSON file for the result."""
    holdout: Path | None = None
    """Records that no model was trained on; for what unlearning does to the kept ones."""
    probes: tuple[str, ...] = ()
    """Which probes; all by default: difference, logit_lens, prompt_variants, quantization, relearning."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in; the one that is deployed."""
    seed: int = 0
    """Seed of every random draw."""

    def run(self) -> int:
        """Probe and print the table."""
        from verify.robustness import probe

        flags = SettingsFlags(margin=self.margin, alpha=self.alpha, dtype=self.dtype, seed=self.seed)
        with progress_bar("loading") as progress:
            found = probe(
                self.model,
                self.original,
                self.references,
                forget_set=str(self.forget),
                retain_set=str(self.retain),
                holdout_set=None if self.holdout is None else str(self.holdout),
                fields=self.columns.fields(),
                probes=self.probes,
                settings=flags.settings(),
                output=self.output,
                progress=progress,
            )
        print(f"{found.table()}\n\nresult: {self.output}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Backdoor:
    """Use a data subject's planted triggers before and after deletion, and on models that never saw them."""

    model: str
    """The unlearned model: a folder or Hub name."""
    original: str
    """The model before unlearning."""
    references: tuple[str, ...]
    """Models that never saw the records."""
    triggers: Path
    """Prompts with the trigger, the target as completion."""
    other_triggers: Path | None = None
    """The same of subjects whose records stay."""
    clean: Path | None = None
    """The prompts without trigger, with the same targets."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    alpha: float = 0.001
    """Level of the test."""

    def run(self) -> int:
        """Print the rates; exit status 10 where the trigger still works, else 0."""
        from verify.backdoor import backdoor

        found = backdoor(
            self.model,
            self.original,
            self.references,
            triggers=str(self.triggers),
            other_triggers=None if self.other_triggers is None else str(self.other_triggers),
            clean=None if self.clean is None else str(self.clean),
            fields=self.columns.fields(),
            alpha=self.alpha,
        )
        print(found.table())  # noqa: T201
        return EXIT_STATUS["NOT_FORGOTTEN"] if found.test.kept else 0


@dataclasses.dataclass(frozen=True)
class TofuMetricsCommand:
    """TOFU's model utility and forget quality, for comparison with papers; no verdict."""

    model: str
    """The model: a folder or Hub name."""
    forget: Path
    """forgetNN_perturbed.json"""
    retain: Path | None = None
    """retain_perturbed.json"""
    real_authors: Path | None = None
    """real_authors_perturbed.json"""
    world_facts: Path | None = None
    """world_facts_perturbed.json"""
    retrained: str | None = None
    """A model trained without the forget set; for forget quality."""

    def run(self) -> int:
        """Print the numbers."""
        from verify.paper_metrics import tofu_metrics

        found = tofu_metrics(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        for name, one in found.sets.items():
            scores = f"probability {one.probability:.4f}, ROUGE-L {one.rouge:.4f}, truth ratio {one.truth_ratio:.4f}"
            print(f"{name:<13} {scores}")  # noqa: T201
        utility = (
            "needs --retain, --real-authors and --world-facts" if found.model_utility is None else f"{found.model_utility:.4f}"
        )
        quality = "needs --retrained" if found.forget_quality is None else f"{found.forget_quality:.4g} (KS p-value)"
        print(f"model utility {utility}\nforget quality {quality}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class MuseMetricsCommand:
    """MUSE's VerbMem, KnowMem and PrivLeak, for comparison with papers; no verdict."""

    model: str
    """The model: a folder or Hub name."""
    forget: Path
    """The texts that were to be removed."""
    holdout: Path | None = None
    """Texts that no model was trained on; for PrivLeak."""
    forget_questions: Path | None = None
    """Questions about what was to be removed; for KnowMem."""
    retain_questions: Path | None = None
    """Questions about what was to be kept."""
    retrained: str | None = None
    """A model trained without the forget set; for PrivLeak."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()

    def run(self) -> int:
        """Print the numbers."""
        from verify.paper_metrics import muse_metrics

        paths = {name: getattr(self, name) for name in ("forget", "holdout", "forget_questions", "retain_questions")}
        sources: dict[str, Any] = {name: None if path is None else str(path) for name, path in paths.items()}
        found = muse_metrics(self.model, retrained=self.retrained, fields=self.columns.fields(), **sources)
        rows = {"VerbMem": found.verbatim, "KnowMem, forget": found.knowledge, "KnowMem, retain": found.retained_knowledge}
        for name, value in rows.items():
            print(f"{name:<16} {'not asked' if value is None else format(value, '.4f')}")  # noqa: T201
        leak = found.privacy
        shown = "needs --retrained and --holdout" if leak is None else f"{leak.value:.1f} % [{leak.low:.1f}, {leak.high:.1f}]"
        print(f"{'PrivLeak':<16} {shown}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Keygen:
    """Make a key pair for signing certificates: FILE (keep it secret) and FILE.pub (give it to whoever checks)."""

    output: Path
    """A new file for the private key."""

    def run(self) -> int:
        """Make the keys and print the id of the public one."""
        from verify.certificate import make_key

        print(f"key {make_key(self.output)}\nprivate: {self.output}\npublic:  {self.output}.pub")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Certify:
    """Sign what was done and what was found: a certificate that anybody with the public key can check."""

    model: Path
    """The unlearned model's folder."""
    original: Path
    """The folder of the model before unlearning."""
    audit: Path
    """The folder that `audit` wrote."""
    key: Path
    """The auditor's private key."""
    output: Path
    """A new file for the certificate."""
    operator_key: Path | None = None
    """The operator's private key, where somebody else answers for the deletion; the default is the auditor's."""
    about: Path | None = None
    """JSON about the request: what was asked and when, where the data was, what copies remain. No personal data."""

    def run(self) -> int:
        """Sign and write."""
        from verify.certificate import auditor_statement, load_signer, operator_statement, sign, write_certificate
        from verify.files import read_json

        auditor = load_signer(self.key)
        operator = auditor if self.operator_key is None else load_signer(self.operator_key)
        about = None if self.about is None else read_json(self.about)
        statements = operator_statement(self.model, self.original, about), auditor_statement(self.audit)
        write_certificate(self.output, [sign(statements[0], operator), sign(statements[1], auditor)])
        print(f"certificate: {self.output}\ncheck it:    verify-unlearning check {self.output} --key {self.key}.pub")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Check a certificate; names exactly what does not verify. Exit status 0 where everything holds, else 1."""

    certificate: Annotated[Path, tyro.conf.Positional]
    """The certificate."""
    key: tuple[Path, ...]
    """Public keys that you trust."""
    model: Path | None = None
    """The model in service, to be compared with the certified one."""
    audit: Path | None = None
    """The audit's folder, to be compared with the certified evidence."""
    ledger_head: str | None = None
    """The head of the request ledger, as you know it."""

    def run(self) -> int:
        """Check and print one line per finding."""
        from verify.certificate import load_public_key
        from verify.certificate_check import check_certificate

        keys = [load_public_key(path) for path in self.key]
        checked = check_certificate(self.certificate, keys, model=self.model, audit=self.audit, ledger_head=self.ledger_head)
        for finding in checked.findings:
            print(f"{'holds' if finding.holds else 'FAILS'}  {finding.what}: {finding.detail}")  # noqa: T201
        if checked.holds:
            print(f"verdict: {checked.verdict}")  # noqa: T201
        return 0 if checked.holds else 1


@dataclasses.dataclass(frozen=True)
class Attacks:
    """List every attack: its idea, its paper, what it needs."""

    def run(self) -> int:
        """Print the list."""
        from verify.attacks import LEVELS, attack_classes

        for name, kind in attack_classes().items():
            level = next(level for level, cost in LEVELS.items() if kind.cost <= cost)
            passes = f"about {kind.cost:g} more passes" if kind.cost else "no pass of its own"
            print(f"{name}  ({kind.family}; {level}: {passes}; needs: {', '.join(sorted(kind.needs))})")  # noqa: T201
            print(f"    {kind.idea}\n    {kind.paper}")  # noqa: T201
        return 0


COMMANDS = {
    "register": Register,
    "audit": Audit,
    "report": Report,
    "power": Power,
    "probe": Probe,
    "backdoor": Backdoor,
    "tofu": TofuMetricsCommand,
    "muse": MuseMetricsCommand,
    "attacks": Attacks,
    "keygen": Keygen,
    "certify": Certify,
    "check": Check,
}
Command: Any = functools.reduce(
    operator.or_, (Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in COMMANDS.items())
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `verify-unlearning` and `python -m verify`; returns the exit status."""
    command: Any = tyro.cli(
        Command,
        args=arguments,
        prog="verify-unlearning",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return run_command(command.run, libraries=not isinstance(command, Keygen | Certify | Check))


if __name__ == "__main__":
    sys.exit(main())

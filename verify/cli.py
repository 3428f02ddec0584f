"""verify-unlearning: audit a model, list the attacks.

Exit status of `audit`: 0 EQUIVALENT_WITHIN, 10 NOT_FORGOTTEN, 11 INCONCLUSIVE, 12 NOT_TESTABLE, 2 usage error, 1 other failure.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from verify.console import progress_bar, run_command
from verify.evidence import Settings, VerdictWord
from verify.records import Fields

EXIT_STATUS: dict[VerdictWord, int] = {"EQUIVALENT_WITHIN": 0, "NOT_FORGOTTEN": 10, "INCONCLUSIVE": 11, "NOT_TESTABLE": 12}


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

    def fields(self) -> Fields:
        """The mapping these flags describe."""
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
class Audit:
    """Judge whether a forget set has left a model; writes evidence.json, scores.parquet and report.html."""

    model: str
    """The unlearned model: a folder or Hub name."""
    original: str
    """The model before unlearning."""
    forget: Path
    """The records that were to be removed, or a list of example or subject ids (with --data)."""
    output: Path
    """A new folder for the results."""
    base: str | None = None
    """The model before fine-tuning; the reference attack needs it."""
    references: tuple[str, ...] = ()
    """Models fine-tuned without the forget set, each with another seed; 4 to 8."""
    retain: Path | None = None
    """Records the model was to keep; for the utility gate."""
    holdout: Path | None = None
    """Records like the forget set that no model was trained on; for membership attacks."""
    data: Path | None = None
    """The file the original was trained on."""
    columns: Annotated[FieldFlags, tyro.conf.arg(name="")] = FieldFlags()
    attacks: tuple[str, ...] = ()
    """Attacks to run; the default is all of them."""
    margin: float = 0.10
    """rho*: the largest residual fraction that counts as forgotten."""
    alpha: float = 0.05
    """Level of every test."""
    utility_tolerance: float = 0.10
    """The largest loss of retain utility that is accepted."""
    retain_records: int = 400
    """At most so many retain records are scored."""
    overflow: Literal["refuse", "split"] = "refuse"
    """What to do with records longer than the context."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision to load the models in."""
    seed: int = 0
    """Seed of every random draw of the audit."""
    cache: Path | None = None
    """Folder for token statistics, kept between audits."""

    def run(self) -> int:
        """Audit, print the table, and return the verdict's exit status."""
        from pydantic import ValidationError

        from verify.auditing import audit
        from verify.errors import InputError

        try:
            settings = Settings(
                margin=self.margin,
                alpha=self.alpha,
                utility_tolerance=self.utility_tolerance,
                retain_records=self.retain_records,
                attacks=self.attacks,
                seed=self.seed,
                overflow=self.overflow,
                dtype=self.dtype,
            )
        except ValidationError as error:
            first = error.errors()[0]
            flag = str(first["loc"][0]).replace("_", "-")
            raise InputError(f"--{flag} {first['input']} cannot be used: {first['msg']}.") from None
        with progress_bar("loading") as progress:
            evidence = audit(
                self.model,
                self.original,
                forget_set=_path(self.forget),
                base=self.base,
                references=self.references,
                retain_set=_path(self.retain),
                holdout_set=_path(self.holdout),
                data=_path(self.data),
                fields=self.columns.fields(),
                output_dir=self.output,
                settings=settings,
                cache_dir=self.cache,
                progress=progress,
            )
        print(evidence.table())  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}")  # noqa: T201
        return EXIT_STATUS[evidence.verdict]


@dataclasses.dataclass(frozen=True)
class Attacks:
    """List every attack: its idea, its paper, what it needs."""

    def run(self) -> int:
        """Print the list."""
        from verify.attacks import attack_classes

        for name, kind in attack_classes().items():
            print(f"{name}  ({kind.family}; needs: {', '.join(sorted(kind.needs))})")  # noqa: T201
            print(f"    {kind.idea}\n    {kind.paper}")  # noqa: T201
        return 0


Command = (
    Annotated[Audit, tyro.conf.subcommand("audit", prefix_name=False)]
    | Annotated[Attacks, tyro.conf.subcommand("attacks", prefix_name=False)]
)


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `verify-unlearning` and `python -m verify`; returns the exit status."""
    command: Audit | Attacks = tyro.cli(
        Command,
        args=arguments,
        prog="verify-unlearning",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return run_command(command.run)


if __name__ == "__main__":
    sys.exit(main())

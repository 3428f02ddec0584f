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
    """Train on invented people, remove some with six methods and audit every result."""

    output: Path = Path("demo")
    """A new folder for data, models and reports."""
    seed: int = 0
    """Random seed of the people and of every model."""

    def run(self) -> int:
        """Run the demo, write its report and print its table."""
        from unlearn.experiments.demo import run_demo
        from verify.io.files import write_manifest, write_text
        from verify.report.html import render_comparison
        from verify.report.text import comparison

        with progress_bar("inventing people") as progress:
            entries = run_demo(self.output, self.seed, progress)
        write_text(self.output / "report.html", render_comparison(entries))
        verdicts = {name: evidence.verdict for name, evidence, _ in entries}
        write_manifest(self.output, "demo", {"seed": self.seed, "verdicts": verdicts})
        print(comparison(entries))  # noqa: T201
        print(f"\nreport: {self.output / 'report.html'}\nevery audit: {self.output / 'audits'}")  # noqa: T201
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
    return [f"`{name}`", entry["idea"], kind, _method_needs(entry), entry["cost"], entry["paper"]]


def _method_needs(entry: Mapping[str, Any]) -> str:
    """List the flags that `unlearn forget` requires for the method; for some methods this depends on their settings."""
    needs = ["--forget"]
    for flag, needed in (("--retain", entry["needs_retain"]), ("--base", entry["needs_base"])):
        if needed is COMPUTED:
            needs.append(f"{flag} (by its settings)")
        elif needed:
            needs.append(flag)
    return ", ".join(needs)

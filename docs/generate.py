"""Rewrite the generated tables and figures of the documentation: `python docs/generate.py`. `tests/test_docs.py` holds them true.

A block begins with `<!-- generated: NAME -->` and ends with `<!-- end -->`; NAME is a key of `BLOCKS`. What is in between comes
from the classes themselves (their `idea`, `paper`, `needs` and `cost`) or from `benchmarks/results`.
"""

import re
import runpy
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from rooms import rooms  # noqa: E402

import unlearn  # noqa: E402
import verify  # noqa: E402
from unlearn.methods import method_classes  # noqa: E402
from verify.attacks import attack_classes  # noqa: E402
from verify.probes import probe_classes  # noqa: E402
from verify.report.text import markdown_table  # noqa: E402

BLOCK = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
ARXIV = re.compile(r"\(arXiv (\d{4}\.\d{4,5})\)")
YEAR = re.compile(r"\b(19|20)\d\d\b")


def printed(package: str, command: str) -> str:
    """What `python -m PACKAGE COMMAND --markdown` prints, run in this process: torch is imported once."""
    given, sys.argv = sys.argv, [package, command, "--markdown"]
    try:
        with redirect_stdout(StringIO()) as out:
            runpy.run_module(package, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = given
    return out.getvalue().strip()


def probes() -> str:
    """One row per probe."""
    rows = [[f"`{name}`", kind.idea, kind.paper] for name, kind in probe_classes().items()]
    return markdown_table(["probe", "treatment", "paper"], rows)


def citations(paper: str) -> list[tuple[str, str]]:
    """(name, arXiv id or "") of every paper that a `paper` attribute cites."""
    found = []
    for part in re.split(r"; |, compare |, equations? |, definition |, section ", paper):
        name = re.split(r" \(|, ", part.removeprefix("compare "))[0].strip()
        identifier = ARXIV.search(part)
        if identifier or YEAR.search(part):
            found.append((name, identifier[1] if identifier else ""))
    return found


def papers() -> str:
    """One row per paper: what implements it."""
    kinds = {"method": method_classes(), "attack": attack_classes(), "probe": probe_classes()}
    used: dict[tuple[str, str], list[str]] = {}
    for label, classes in kinds.items():
        for name, kind in classes.items():
            for cited in citations(kind.paper):
                used.setdefault(cited, []).append(f"{label} `{name}`")
    rows = [[name, _source(name, identifier), ", ".join(by)] for (name, identifier), by in sorted(used.items())]
    return markdown_table(["paper", "source", "implemented by"], rows)


def _source(name: str, identifier: str) -> str:
    if name.startswith("this project"):
        return "[docs/research/level.md](research/level.md)"
    return f"[arXiv {identifier}](https://arxiv.org/abs/{identifier})" if identifier else "no arXiv number"


def components() -> str:
    """Methods and attacks by what they need: the short table of the README."""
    rows = [["methods", needs, _names(names)] for needs, names in _grouped(method_classes(), _method_needs).items()]
    rows += [["attacks", needs, _names(names)] for needs, names in _grouped(attack_classes(), _attack_needs).items()]
    rows += [["probes", "original and references", _names(list(probe_classes()))]]
    return markdown_table(["", "needs", "names"], rows)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _grouped(classes: Mapping[str, Any], key: Callable[[Any], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, kind in classes.items():
        groups.setdefault(key(kind), []).append(name)
    return dict(sorted(groups.items(), key=lambda group: (group[0].count("+"), group[0])))


def _method_needs(kind: Any) -> str:
    method = kind()
    retain = ["retain set"] if method.needs_retain else []
    base = ["base model"] if method.needs_base else []
    return " + ".join(["forget set", *retain, *base])


def _attack_needs(kind: Any) -> str:
    names = {"controls": "never-trained controls", "retrained references": "references", "reference model": "base model"}
    return " + ".join(["model", *(names[need] for need in sorted(kind.needs) if need in names)])


def contest() -> str:
    """The table of all worlds, as the contest published it."""
    lines = (ROOT / "benchmarks" / "results" / "contest.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def api(package: Any, chosen: Callable[[Any], bool] = lambda _: True) -> str:
    """One mkdocstrings directive per public name of a package; classes show their docstring, not their machinery."""
    public = [name for name in sorted(package.__all__, key=str.lower) if chosen(getattr(package, name))]
    hide = "\n    options:\n      members: false"
    return "\n\n".join(f"::: {package.__name__}.{name}{hide if _is_method(getattr(package, name)) else ''}" for name in public)


def _is_method(value: Any) -> bool:
    return value in method_classes().values()


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": lambda: printed("unlearn", "methods"),
    "attacks": lambda: printed("verify", "attacks"),
    "probes": probes,
    "papers": papers,
    "contest": contest,
    "components": components,
    "api methods": lambda: api(unlearn, _is_method),
    "api unlearn": lambda: api(unlearn, lambda value: not _is_method(value)),
    "api verify": lambda: api(verify),
}


def figures() -> dict[Path, str]:
    """Every figure that is drawn from the code, by its file."""
    return {ROOT / "docs" / "images" / "rooms.svg": rooms(ROOT / "setup.cfg")}


def pages() -> list[Path]:
    """Every Markdown file that may hold generated blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def regenerated(text: str) -> str:
    """The page with every generated block made from the classes."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for page in pages():
        before = page.read_text()
        if (after := regenerated(before)) != before:
            page.write_text(after)
            print(f"rewritten: {page.relative_to(ROOT)}")
    for path, drawn in figures().items():
        if path.read_text() != drawn:
            path.write_text(drawn)
            print(f"rewritten: {path.relative_to(ROOT)}")

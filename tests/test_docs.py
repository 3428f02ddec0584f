"""The documentation: generated tables are true, the API pages name every public name, and the site builds without a warning."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import unlearn
import verify
from verify.report.text import markdown_table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script that makes the generated blocks."""
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_generated_tables_are_true(generate: ModuleType) -> None:
    """No page holds a generated block that its generator would write otherwise; `make docs` rewrites them."""
    stale = [page.name for page in generate.pages() if generate.regenerated(page.read_text()) != page.read_text()]
    assert not stale, "run `python docs/generate.py`"


def test_generated_figures_are_true(generate: ModuleType) -> None:
    """The figure of the rooms shows every room of the import contracts, and nothing else."""
    figures = generate.figures()
    assert figures
    assert not [path.name for path, drawn in figures.items() if path.read_text() != drawn], "run `python docs/generate.py`"


@pytest.mark.slow
def test_every_generated_block_is_used(generate: ModuleType) -> None:
    """Every generator but the README's has its block on a page, so that none is made for nobody."""
    used = {found[2] for page in generate.pages() for found in generate.BLOCK.finditer(page.read_text())}
    assert set(generate.BLOCKS) - used <= {"components"}


@pytest.mark.slow
def test_paper_index_names_everything(generate: ModuleType) -> None:
    """Every method, attack and probe is in the index of papers."""
    index = (DOCS / "papers.md").read_text()
    kinds = {"method": generate.method_classes(), "attack": generate.attack_classes(), "probe": generate.probe_classes()}
    missing = [f"{label} {name}" for label, found in kinds.items() for name in found if f"{label} `{name}`" not in index]
    assert not missing


@pytest.mark.parametrize(
    ("paper", "cited"),
    [
        ("Zhang et al. 2024 (arXiv 2404.05868)", [("Zhang et al. 2024", "2404.05868")]),
        ("compare Thudi et al. 2022 (arXiv 2110.11891)", [("Thudi et al. 2022", "2110.11891")]),
        ("Liu et al. 2022; Maini et al. 2024 (arXiv 2401.06121)", [("Liu et al. 2022", ""), ("Maini et al. 2024", "2401.06121")]),
        (
            "exact; McMahan et al. 2017 (arXiv 1602.05629), compare Liu et al. 2021 (FedEraser)",
            [("McMahan et al. 2017", "1602.05629"), ("Liu et al. 2021", "")],
        ),
        ("Bourtoule et al. 2021 (arXiv 1912.03817), definition III.1", [("Bourtoule et al. 2021", "1912.03817")]),
    ],
)
def test_citations_are_read(generate: ModuleType, paper: str, cited: list[tuple[str, str]]) -> None:
    """Several papers in one attribute are several entries; remarks without a year are none."""
    assert generate.citations(paper) == cited


@pytest.mark.parametrize(("package", "page"), [(unlearn, "unlearn.md"), (verify, "verify.md")])
def test_api_pages_name_every_public_name(package: ModuleType, page: str) -> None:
    """The API page has exactly the names of `__all__`."""
    named = set(re.findall(rf"^::: {package.__name__}\.(\w+)$", (DOCS / "api" / page).read_text(), re.MULTILINE))
    assert named == set(package.__all__)


def test_python_in_the_docs_uses_public_names() -> None:
    """Every Python block parses, and imports from the two packages only what they export."""
    for page in sorted(DOCS.rglob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("unlearn", "verify"):
                    package = {"unlearn": unlearn, "verify": verify}.get(node.module or "")
                    assert package is not None, f"{page.name} imports from {node.module}"
                    assert {alias.name for alias in node.names} <= set(package.__all__), page.name


@pytest.mark.slow
def test_site_builds_strictly(tmp_path: Path) -> None:
    """No broken link, missing page, unknown anchor or unresolvable name: mkdocs treats every warning as an error."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="the site's tools are not installed (pip install 'unlearn-verify[docs]')")
    # Without --quiet: it hides warnings from the count that --strict makes.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sigmoid" in (tmp_path / "site" / "api" / "unlearn.html").read_text()
    assert not list((tmp_path / "site").rglob("*.py"))
    # `l*_i ... l*` outside of code becomes emphasis and loses its asterisks.
    pages = [path for path in (tmp_path / "site").rglob("*.html") if "sample" not in path.parts]
    assert not [(page.name, found[0]) for page in pages for found in re.finditer(r"\w<em>.{0,40}|</em>\w", page.read_text())]


def test_markdown_cells_are_escaped() -> None:
    """A `|` inside a cell does not begin another cell."""
    assert markdown_table(["a", "b"], [["x|y", "z"]]) == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """What a stranger's check of the sample certificate in a folder says."""
    files = [
        "certificate.json",
        "--operator-key",
        "operator.key.pub",
        "--auditor-key",
        "auditor.key.pub",
        "--deletion",
        "deletion.json",
    ]
    command = [sys.executable, "-m", "verify", "check", *files]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_sample_certificate_holds_and_a_changed_one_does_not(tmp_path: Path) -> None:
    """The published sample is checked by its public keys alone; another outcome in the deletion record is named."""
    folder = tmp_path / "sample"
    shutil.copytree(DOCS / "sample", folder)
    assert checked(folder).returncode == 0
    record = (folder / "deletion.json").read_text()
    (folder / "deletion.json").write_text(record.replace('"outcome": "deleted"', '"outcome": "exempt"'))
    assert (folder / "deletion.json").read_text() != record
    assert checked(folder).returncode == 1


def test_samples_hold_no_private_key_and_no_name() -> None:
    """What the sample publishes names neither the person nor a place on the machine that made it."""
    files = [path for path in (DOCS / "sample").iterdir() if path.suffix in (".json", ".html", ".txt", ".pub", ".key")]
    assert {"certificate.json", "report.html", "letter.html", "letter.txt"} <= {path.name for path in files}
    for path in files:
        text = path.read_text()
        assert not re.search(r"zebedee|PRIVATE KEY|/tmp/|/home/|/root/", text, re.IGNORECASE), path.name

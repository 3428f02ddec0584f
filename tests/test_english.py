"""The English of the packages: first lines that work in an index, and the words that do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("unlearn", "verify") for path in (ROOT / package).rglob("*.py"))
TEXTS = [
    *SOURCES,
    *sorted((ROOT / "verify").rglob("*.j2")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.py")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "setup.cfg")),
]
DIALECT = {
    r"\banew\b": "again",
    r"\bso many\b": "n, this many, a number of",
    r"\btold (?:by|from|of|apart)\b": "distinguished by, known by, notified of",
    r"\b(?:is|are|was|were|be) told\b": "is notified, is given",
    r"\bmend(?:s|ed|ing)?\b": "fix, repair, clean",
    r"\bgo(?:es)? by\b": "is based on, follows, is identified by",
    r"\bin which sense\b": "how far, what exact means",
    r"\bloud word\b": "warning",
    r"\bdear(?:er|est)\b": "expensive",
    r"\bof like length\b": "of similar length",
    r"\bwhatever the company\b": "independently of the batch",
    r"\bnobody's\b": "no one's; say what is stored",
    r"\bsaid aloud\b": "stated",
    r"\briddle": "(say it)",
}
"""Words of an earlier dialect -> what an engineer of the field writes."""


def definitions(path: Path) -> Iterator[tuple[str, str | None, bool]]:
    """Every module, class and function of a file: where, its docstring, and whether it is public."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield f"{path.relative_to(ROOT)}", ast.get_docstring(tree), True

    def within(body: list[ast.stmt], public: bool) -> Iterator[tuple[str, str | None, bool]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                known = public and not node.name.startswith("_")
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", ast.get_docstring(node), known
                if isinstance(node, ast.ClassDef):
                    yield from within(node.body, known)

    yield from within(tree.body, True)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_first_lines_work_in_an_index(path: Path) -> None:
    """A first line is one whole sentence (or name and sentence), no question, and no public definition is without one."""
    wrong = []
    for where, text, public in definitions(path):
        if not text:
            if public and path.stem != "__init__" and not where.split(" ")[-1].startswith("__"):
                wrong.append(f"{where}: no docstring")
            continue
        first = text.splitlines()[0]
        if "?" in re.sub(r'"[^"]*"', "", first):  # a paper's title may ask
            wrong.append(f"{where}: a question: {first}")
        if not re.search(r"[.:)]$", first):
            wrong.append(f"{where}: no whole sentence: {first}")
        if len(first.split()) < 2:
            wrong.append(f"{where}: says nothing: {first}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words_that_do_not_come_back(path: Path) -> None:
    """None of the dialect's words stands in code, templates, documents or settings."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for pattern, better in DIALECT.items():
            if match := re.search(pattern, line, flags=re.IGNORECASE):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write {better}: {line.strip()}")
    assert not found, "\n".join(found)


def test_the_tests_above_find_what_they_look_for(tmp_path: Path) -> None:
    """A question, a fragment and a missing docstring are found; so is every word of the list."""
    (tmp_path / "bad.py").write_text('"""What is it?"""\ndef public():\n    """no end"""\ndef bare():\n    return 1\n')
    global ROOT
    before, ROOT = ROOT, tmp_path
    try:
        with pytest.raises(AssertionError) as raised:
            test_first_lines_work_in_an_index(tmp_path / "bad.py")
    finally:
        ROOT = before
    assert all(word in str(raised.value) for word in ("a question", "no whole sentence", "no docstring"))
    examples = ("anew", "so many", "told from", "was told", "mended", "goes by", "in which sense", "loud word", "dearer")
    assert all(any(re.search(pattern, word) for pattern in DIALECT) for word in examples)

"""Missing extras are named in one form, and every extra that is named exists."""

import configparser
import re
from pathlib import Path

import pytest

from verify.io.extras import install, missing

ROOT = Path(__file__).parents[2]


def extras() -> set[str]:
    """The extras that the distribution has."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return set(settings["options.extras_require"])


@pytest.mark.parametrize("folder", ["unlearn", "verify"])
def test_every_message_comes_from_one_place(folder: str) -> None:
    """No source file spells the command out itself, and each extra that it names can be installed."""
    named = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        if path.name != "extras.py":
            assert "pip install 'unlearn-verify" not in text, path
        named |= set(re.findall(r"\bmissing\(.*?, \"([a-z]+)\"[,)]", text))
        named |= set(re.findall(r"\binstall\([\"']([a-z]+)[\"']\)", text))
    assert named
    assert named <= extras()


def test_the_documents_write_the_same_command() -> None:
    """Wherever an extra is named in the documents, it exists."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("**/*.md")]
    named = {name for page in pages for name in re.findall(r"unlearn-verify\[([a-z]+)\]", page.read_text())}
    assert named
    assert named <= extras()


def test_the_sentence_says_what_needs_it_and_what_to_type() -> None:
    """What was asked for, the command, and another way where there is one."""
    assert str(missing("x.gguf", "gguf")) == "x.gguf needs packages that are not installed. Run pip install 'unlearn-verify[gguf]'."
    said = str(missing("a PDF", "pdf", "print the HTML file"))
    assert said.endswith(f"Run {install('pdf')}, or print the HTML file.")

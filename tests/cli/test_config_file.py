"""`--config FILE.yaml`: flags from a file, which the command line overrides, and files that are wrong."""

import dataclasses
from pathlib import Path

import pytest

import unlearn.cli.main
from verify.cli.config_file import read_config, with_config
from verify.errors import InputError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Some settings."""

    model: str
    learning_rate: float = 1e-4
    bf16: bool = False
    references: tuple[str, ...] = ()


def expanded(tmp_path: Path, content: str, *words: str) -> list[str]:
    """The words that a command gets with this file."""
    (tmp_path / "settings.yaml").write_text(content)
    return with_config([*words, "--config", str(tmp_path / "settings.yaml")], Settings, "program")


@pytest.mark.parametrize("word", ["no", "NO", "on", "yes", "none", "off", "true", "1e-5", "2026-01-01", "0x10", "12:30"])
def test_text_stays_text(tmp_path: Path, word: str) -> None:
    """A value of a flag that takes one is what would be typed, whatever YAML would make of it."""
    assert expanded(tmp_path, f"model: {word}\n") == ["--model", word]


def test_values_are_read_as_they_would_be_typed(tmp_path: Path) -> None:
    """Lists are several values, truth values turn switches on and off, null is nothing."""
    content = "learning_rate: 1e-5\nbf16: yes\nreferences: [a/, 'b c/', no]\n"
    assert expanded(tmp_path, content) == ["--learning-rate", "1e-5", "--bf16", "--references", "a/", "b c/", "no"]
    for off in ("false", "no", "off"):
        assert expanded(tmp_path, f"bf16: {off}\nmodel: m\nreferences: null\n") == ["--no-bf16", "--model", "m"]


@pytest.mark.parametrize(
    "given", [["--learning-rate", "1"], ["--learning-rate=1"], ["--learning_rate", "1"], ["--learning_rate=1"]], ids=" ".join
)
def test_the_command_line_wins(tmp_path: Path, given: list[str]) -> None:
    """A flag that is typed, in whichever spelling, replaces the one in the file; the others stay."""
    words = expanded(tmp_path, "learning-rate: 5\nmodel: m\n", *given)
    assert words[:2] == ["--model", "m"]
    assert "5" not in words


@pytest.mark.parametrize("given", ["--bf16", "--no-bf16"])
def test_a_switch_wins_either_way(tmp_path: Path, given: str) -> None:
    """On in the file and off on the command line is off, and the reverse."""
    words = expanded(tmp_path, f"bf16: {given == '--no-bf16'}\nmodel: m\n", given)
    assert [word for word in words if "bf16" in word] == [given]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no flags"),
        ("- a\n- b\n", "names no flags"),
        ("just words\n", "names no flags"),
        ("model: {a: 1}\n", "is nested"),
        ("references: [a, [b]]\n", "is nested"),
        ("model: a\nmodel: b\n", "gives model twice"),
        ("learning-rate: 1\nlearning_rate: 2\n", "are the same flag"),
        ("config: other.yaml\n", "another configuration file"),
        ("modle: a\n", "Did you mean --model?"),
        ("model: [a\nlearning_rate: 3\n", "is not YAML (line"),
        ("model: 'a\n", "is not YAML"),
        ("\x00\x01", "is not YAML"),
        ("model: !!python/object/apply:os.system ['true']\n", "is nested"),
    ],
)
def test_a_file_that_is_wrong_is_answered(tmp_path: Path, content: str, said: str) -> None:
    """Empty, truncated, hostile and misspelled files are usage errors that say what to write; no tag is ever constructed."""
    if "python/object" in content:  # a list of texts under an unknown tag: plain texts, never a call
        assert expanded(tmp_path, content) == ["--model", "true"]
        return
    with pytest.raises(InputError) as raised:
        expanded(tmp_path, content)
    assert said in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, bytes that are no text, no file at all, and two files."""
    (tmp_path / "bytes.yaml").write_bytes(b"model: \xff\xfe")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(InputError, match="cannot be read"):
            read_config(path)
    with pytest.raises(InputError, match="needs a file"):
        with_config(["--config"], Settings, "program")
    with pytest.raises(InputError, match="given twice"):
        with_config(["--config", "a", "--config=b"], Settings, "program")


def test_a_whole_command_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`unlearn plan-shards --config FILE` computes what the same flags give."""
    (tmp_path / "plan.yaml").write_text("shards: [4, 8]\nslices: 2\ndeletions: 1\n")
    assert unlearn.cli.main.main(["plan-shards", "--config", str(tmp_path / "plan.yaml")]) == 0
    from_file = capsys.readouterr().out
    assert unlearn.cli.main.main(["plan-shards", "--shards", "4", "8", "--slices", "2", "--deletions", "1"]) == 0
    assert capsys.readouterr().out == from_file != ""

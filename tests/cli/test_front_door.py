"""The front door of both programs: what is listed is true, answers without torch, and says nothing beside it."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from deletions import record_of

import unlearn.cli.main
import verify.cli.main
from unlearn.cli.forget_method import COSTS, EDIT
from unlearn.cli.request_run import PlanCommand, RunCommand
from unlearn.methods import method_catalogue
from verify.cli.dispatch import Command

PROGRAMS = {"unlearn": unlearn.cli.main, "verify": verify.cli.main}
COMMANDS = [(program, name) for program, module in PROGRAMS.items() for name in module.COMMANDS]
LIGHT = [
    ("unlearn", "--help"),
    ("unlearn", "--version"),
    ("unlearn", "methods"),
    ("unlearn", "forget", "--help"),
    ("unlearn", "forget", "npo", "--help"),
    ("unlearn", "forget", "level", "--help-all"),
    ("unlearn", "train", "--help"),
    ("unlearn", "demo-llm", "--help"),
    ("unlearn", "request", "--help"),
    ("unlearn", "request", "list", "--ledger", "LEDGER"),
    ("verify", "--help"),
    ("verify", "attacks"),
    ("verify", "check", "--help"),
    ("verify", "check", "CERTIFICATE", "--key", "KEY"),
]


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_line_of_the_overview_is_the_commands_own(program: str, name: str) -> None:
    """The table's description is the first line of the dataclass that runs."""
    command: Command = PROGRAMS[program].COMMANDS[name]
    if not isinstance(command.where, str):
        return  # `forget` has one dataclass per method
    kind, words, named = command.resolve(["--x"])
    assert (words, named) == (["--x"], [])
    assert (kind.__doc__ or "").splitlines()[0] == command.line
    assert callable(kind.run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words"),
    [
        *(("unlearn", ["forget", name, "--help"]) for name in method_catalogue()),
        *(("unlearn", [name]) for name in ("demo", "demo-llm", "train", "scan", "sweep")),
        *(("verify", [name]) for name in ("audit", "probe", "reexecute")),
    ],
)
def test_the_help_of_what_takes_long_says_what_it_costs(program: str, words: list[str]) -> None:
    """One line that begins with "Cost:"; for a method that of its class, or of its budget."""
    kind = PROGRAMS[program].COMMANDS[words[0]].resolve(words[1:])[0]
    (line,) = _costs(kind)
    if words[0] == "forget":
        known = [*COSTS.values(), EDIT, "at most --budget retrainings"]
        assert [said for said in known if line.startswith(said)], line


@pytest.mark.parametrize("kind", [PlanCommand, RunCommand])
def test_so_does_that_of_a_deletion(kind: Any) -> None:
    """Planning and running a batch."""
    assert len(_costs(kind)) == 1


def _costs(kind: Any) -> list[str]:
    return re.findall(r"^ *Cost: (.+)$", kind.__doc__, flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_what_needs_no_model_imports_no_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    """Listing, help, a ledger's requests and a certificate's check run without torch, transformers, datasets or scipy.

    Nothing stands on standard error, unless the command has something to complain of.
    """
    places = {"LEDGER": str(tmp_path / "ledger.db"), "CERTIFICATE": str(tmp_path / "none.json"), "KEY": str(tmp_path / "none.pub")}
    given = [places.get(word, word) for word in words[1:]]
    program = (
        f"import sys; sys.argv = ['x', *{given!r}]; from {words[0]}.__main__ import main\n"
        "try: status = main()\nexcept SystemExit as stop: status = stop.code\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)), status)"
    )
    environment = {**os.environ, "UNLEARN_VERIFY_KEY_FILE": str(tmp_path / "record.key")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    missing = "CERTIFICATE" in words
    assert done.stdout.splitlines()[-1] == f"[] {2 if missing else 0}", done.stderr
    assert (done.stderr == "") != missing


@pytest.mark.parametrize("word", ["--help", "--help-all"])
@pytest.mark.parametrize(("program", "words"), [*((one, [name]) for one, name in COMMANDS), ("unlearn", ["forget", "npo"])])
def test_help_is_given_without_a_warning(program: str, words: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No library warns of how a command is declared, and groups of flags are no subcommands of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            status = PROGRAMS[program].main([*words, word])
        except SystemExit as stop:
            status = stop.code
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert "SUBCOMMANDS" not in printed.out


def test_help_shows_the_flags_that_matter_and_help_all_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The short help of npo has its own flags and few others, says where the rest is, and `--help-all` has them."""

    def flags(word: str) -> set[str]:
        with pytest.raises(SystemExit) as stop:
            unlearn.cli.main.main(["forget", "npo", word])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert ("--help-all lists every flag" in printed) == (word == "--help")
        assert "Cost: --epochs passes over the forget set" in printed
        return set(re.findall(r"^[^\w-]*(--[a-z][a-z0-9-]*)", printed, flags=re.MULTILINE))

    with pytest.raises(SystemExit) as stop:
        unlearn.cli.main.main(["forget", "--help-all"])
    assert stop.value.code == 0
    assert "npo" in capsys.readouterr().out
    short, full = flags("--help"), flags("--help-all")
    assert {"--beta", "--alpha", "--model", "--forget", "--output", "--learning-rate"} <= short < full
    assert len(short) <= 16 < len(full)
    assert {"--warmup-ratio", "--id-field"} <= full - short


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("unlearn", ["forge"], "Did you mean unlearn forget?"),
        ("unlearn", ["forget", "nppo"], "Did you mean unlearn forget npo?"),
        ("unlearn", ["forget"], "unlearn forget METHOD"),
        ("unlearn", ["forget", "--model", "m"], "unlearn forget METHOD"),
        ("unlearn", ["forget", "--method"], "needs a method"),
        ("verify", ["adit"], "Did you mean verify-unlearning audit?"),
        ("verify", ["audit", "--modle", "m"], "Did you mean --model?"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    program: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and what to write, from the list alone."""
    assert PROGRAMS[program].main(words) == 2
    assert said in capsys.readouterr().err


def test_no_command_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    """A program called alone explains itself on standard error, as a usage error; help that was asked for is output."""
    assert unlearn.cli.main.main([]) == 2
    alone = capsys.readouterr()
    assert unlearn.cli.main.main(["--help"]) == 0
    asked = capsys.readouterr()
    assert (alone.out, alone.err) == ("", asked.out)
    assert all(name in asked.out for name in unlearn.cli.main.COMMANDS)


def test_every_program_module_agrees_with_its_table() -> None:
    """Every dataclass with a `run` in the command rooms is reachable from a table."""
    reached: set[Any] = set()
    for module in PROGRAMS.values():
        reached |= {command.resolve([])[0] for command in module.COMMANDS.values() if isinstance(command.where, str)}
    assert len(reached) == sum(
        isinstance(command.where, str) for module in PROGRAMS.values() for command in module.COMMANDS.values()
    )


PROGRAM = """
import sys
from importlib import import_module
from pathlib import Path

HEAVY = {"torch", "transformers", "datasets", "peft", "sklearn"}
for line in Path("commands").read_text().splitlines():
    program, *words = line.split()
    if "ID" in words:
        from unlearn.requests.ledger.ledger import Ledger

        words[words.index("ID")] = Ledger("ledger.db").requests()[0].id
    try:
        status = import_module(program + ".cli.main").main(words)
    except SystemExit as stop:
        status = stop.code
    print("#", status, sorted(HEAVY & set(sys.modules)), line)
print("#", next(row for row in open("/proc/self/status") if row.startswith("VmHWM")).split()[1])
"""
WITHOUT_MODELS = """
unlearn scan --data train.jsonl --subjects people.txt --models models
unlearn suppress train.jsonl --suppression list.jsonl
unlearn check-dataset train.jsonl --suppression list.jsonl
unlearn request add --identifiers people.txt --ledger ledger.db
unlearn request list --ledger ledger.db
unlearn request confirm ID --ledger ledger.db
unlearn request extend ID --reason complexity --ledger ledger.db
unlearn request retention --ledger ledger.db
unlearn request export --output requests.json --ledger ledger.db
unlearn request verify-ledger --ledger ledger.db
verify letter deletion.json --output letters
verify keygen --output signing.key
unlearn request plan --help
unlearn request run --help
verify audit --help
verify probe --help
"""


@pytest.mark.slow
def test_records_requests_and_letters_need_no_model_libraries(tmp_path: Path) -> None:
    """A search of data and models, the ledger, letters and lists run without torch, all in the memory of a small program."""
    row = {"example_id": "a", "prompt": "Who?", "completion": "Ada Lovelace lives here.", "subject_id": "Ada Lovelace"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "people.txt").write_text("Ada Lovelace\n")
    (tmp_path / "commands").write_text(WITHOUT_MODELS.strip() + "\n")
    (tmp_path / "models").mkdir()
    record_of().save(tmp_path / "deletion.json")
    environment = {**os.environ, "UNLEARN_VERIFY_KEY_FILE": str(tmp_path / "record.key")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    *commands, peak = (row[2:] for row in done.stdout.splitlines() if row.startswith("# "))
    assert len(commands) == len(WITHOUT_MODELS.strip().splitlines()), done.stderr
    expected = {"check-dataset": 3}
    for row in commands:
        status, _, line = row.partition(" [] ")
        assert line, f"{row}: a library of models was loaded"
        assert int(status) == next((code for name, code in expected.items() if name in line), 0), f"{row}: {done.stderr}"
    assert int(peak) < 200 * 1024, "KiB for all of them in one process, of which a search alone takes 100"

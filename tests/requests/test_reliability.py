"""kill -9, a full disk, two operators, hostile input: nothing is lost, nothing is done twice, and errors are clear."""

import errno
import io
import json
import multiprocessing
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hostile_inputs import PARSERS, feed
from kills import EXPECTED, SIGNING, kill_many, lead, new_weights
from kills_in_cleaning import kill_in_cleaning
from spoiled_documents import feed_document, kinds

import unlearn.cli.main
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from verify import RunError
from verify.certificate.statements import make_key

DAY = date(2026, 11, 2)


@pytest.fixture(autouse=True)
def quick_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an audit can show is simulated for whoever reads a plan; nothing that is done depends on it."""
    monkeypatch.setattr("unlearn.requests.planning.describe_power", lambda *_: "not simulated here")


@pytest.mark.slow
def test_kill_nine(built: Path, tmp_path: Path) -> None:
    """Killed at random moments, the same call leads the request to its end, with the events and weights of an undisturbed one.

    `benchmarks.reliability` does the same two hundred times.
    """
    figures = kill_many(built, tmp_path, kills=6, seed=1)
    assert figures.kills >= 6
    assert (figures.lost, figures.twice, figures.different, figures.unsound) == (0, 0, 0, 0)


@pytest.mark.slow
def test_kill_nine_in_the_cleaning(built: Path, tmp_path: Path) -> None:
    """Killed before a step that cleaning takes, and again while it goes on: the next run ends it, and the record says the same of
    what was removed, stays and is retired as that of an undisturbed one.

    `benchmarks.reliability` does it before every step.
    """
    figures = kill_in_cleaning(built, tmp_path, every=9)
    assert figures.kills >= 8
    assert set(figures.states) <= {"deployed", "purged"}, "every kill fell into the cleaning"
    assert (figures.lost, figures.twice, figures.different, figures.unsound) == (0, 0, 0, 0)


@pytest.mark.slow
def test_a_full_disk_at_every_write(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the way fails once with a full disk: an error in words each time, and in the end all is as if undisturbed."""
    shutil.copytree(built, tmp_path / "world")
    make_key(tmp_path / SIGNING)
    world, refused = tmp_path / "world", set[str]()
    real = os.replace

    def full_once(source: Any, target: Any, **named: Any) -> None:
        name = Path(target).name if "B-" not in str(target) else str(target).partition("B-")[2].partition("/")[2]
        if str(target).startswith(str(world)) and name not in refused:
            refused.add(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target, **named)

    monkeypatch.setattr("pathlib.os.replace", full_once)
    refused_before = -1
    while len(refused) > refused_before:
        refused_before = len(refused)
        said = refusal(world)
        # Cleaning goes on with the other files, so that one run may be refused twice; none that was refused ends well.
        assert (said is not None and "no space left" in said) == (len(refused) > refused_before)
    assert len(refused) >= 8, "plan, registration, model, audit, suppression list, record: each failed once"
    ledger = Ledger(world / "ledger.db")
    (request,) = ledger.requests()
    assert [step.state for step in request.steps] == EXPECTED
    ledger.close()
    assert new_weights(world)


def refusal(world: Path) -> str | None:
    """What the pipeline says when it cannot go on, or None at its end."""
    try:
        lead(world)
    except RunError as error:
        return str(error).lower()
    return None


def test_a_full_disk_under_the_ledger(tmp_path: Path) -> None:
    """The database has no page left: the step is refused in words, nothing before it is lost, and it goes on with more space."""
    ledger = Ledger(tmp_path / "ledger.db")
    kept = [ledger.add(NewRequest((f"{number:032x}",), "gdpr", DAY)) for number in range(3)]
    limits = ["PRAGMA max_page_count=1", "PRAGMA max_page_count=100000"]

    @sa.event.listens_for(ledger._engine, "begin")
    def limit(connection: Any) -> None:
        connection.exec_driver_sql(limits[0])

    with pytest.raises(RunError, match="no space left for the ledger"):
        kept.extend(ledger.add(NewRequest((f"{number + 9:032x}",), "gdpr", DAY)) for number in range(200))
    assert [request.id for request in ledger.requests()] == kept
    assert ledger.verify() == len(kept)
    limits.pop(0)
    ledger.add(NewRequest(("f" * 32,), "gdpr", DAY))
    assert ledger.verify() == len(kept) + 1
    ledger.close()


def _operate(url: str, names: list[str], answers: Any) -> None:
    """One operator: adds, approves what was there, and says what worked."""
    from verify import InputError

    ledger = Ledger(url)
    won = []
    for name in names:
        ledger.add(NewRequest(("5" * 32,), "gdpr", DAY))
        try:
            ledger.advance(name, "identity_verified")
            won.append(name)
        except InputError:
            pass  # the other was first
    ledger.close()
    answers.put(won)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_operators_in_two_processes(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Both approve the same requests and add new ones at once: each request is approved exactly once, and the chain holds."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    ledger = Ledger(url)
    before = len(ledger.requests())
    names = ledger.add_all([NewRequest((f"{number:032x}",), "gdpr", DAY) for number in range(8)])
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ledger.close()
    operators = [context.Process(target=_operate, args=(url, names, answers)) for _ in range(2)]
    for operator in operators:
        operator.start()
    won = [answers.get(timeout=60) for _ in operators]
    for operator in operators:
        operator.join()
    ledger = Ledger(url)
    assert sorted(won[0] + won[1]) == sorted(names)
    assert len(ledger.requests()) == before + 8 + 16
    assert all([step.state for step in ledger.request(name).steps] == ["received", "identity_verified"] for name in names)
    ledger.verify()
    ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS)
def test_hostile_input(parser: str, tmp_path: Path) -> None:
    """Whatever hypothesis makes up is taken or refused with an InputError, and no message repeats an identifier.

    `benchmarks.reliability` feeds ten thousand each.
    """
    assert feed(parser, 150, tmp_path) >= 100


@pytest.mark.slow
def test_spoiled_documents(built: Path, tmp_path: Path) -> None:
    """Documents with bits flipped, parts cut out or values replaced are read, or refused by an InputError that repeats nothing.

    `benchmarks.reliability` reads ten thousand of each.
    """
    for number, kind in enumerate(kinds(tmp_path / "whole", built / "models" / "original").values()):
        assert feed_document(kind, 40, tmp_path / f"kind-{number}") >= 30


def run(*words: str, stdin: str = "", monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    return unlearn.cli.main.main(["request", *words])


@pytest.mark.slow
def test_bad_input_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown ids, wrong states, missing files, empty input, foreign databases: status 2, one sentence, no traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE events (id INTEGER)")
    foreign.close()
    (tmp_path / "data.jsonl").write_text('{"text": "Nothing about anybody.", "subject_id": "jon"}\n')
    assert run("add", stdin="zebedee\n", monkeypatch=monkeypatch) == 0
    name = capsys.readouterr().out.strip()
    cases: list[tuple[list[str], str]] = [
        (["add"], "at least one identifier"),
        (["add", "--identifiers", "absent.txt"], "cannot be read"),
        (["add", "--identifiers", "absent.txt", "--ledger", "text.db"], "cannot be read"),
        (["import", "absent.csv"], "cannot be read"),
        (["import", "absent.json"], "cannot be read"),
        (["import", "batch.txt"], "unknown kind"),
        (["list", "--ledger", "text.db"], "cannot be opened"),
        (["list", "--ledger", "foreign.db"], "cannot be opened"),
        (["list", "--ledger", "nosuch://x"], "cannot be opened"),
        (["list", "--state", "gone"], "is not a state"),
        (["show", "R-0"], "no request with that id"),
        (["approve", "R-0"], "no request with that id"),
        (["deny", name, "--reason", " "], "for a reason"),
        (["run", name], "has not been planned"),
        (["close", name], "cannot be closed"),
        (["close", name, "--auditor-key", "absent"], "operator"),
        (["plan", "--data", "data.jsonl", "--models", ".", "--ids", name], "only approved requests"),
        (["verify-ledger", "--head", "0" * 63 + "1"], "head is not in this ledger"),
    ]
    for words, said in cases:
        assert run(*words, monkeypatch=monkeypatch) == 2, words
        error = capsys.readouterr().err
        assert said in error, (words, error)
        assert "Traceback" not in error
        assert "zebedee" not in error
    assert run("approve", name, monkeypatch=monkeypatch) == 0
    for words, said in [
        (["plan", "--data", "absent.jsonl", "--models", "."], "does not exist"),
        (["plan", "--data", "data.jsonl", "--models", ".", "--window", "-1"], "--window"),
    ]:
        assert run(*words, monkeypatch=monkeypatch) == 2
        assert said in capsys.readouterr().err
    assert run("plan", "--data", "data.jsonl", "--models", ".", monkeypatch=monkeypatch) == 0
    assert run("close", name, "--no-pdf", monkeypatch=monkeypatch) == 0
    assert "closed as not_found" in capsys.readouterr().out


@pytest.mark.slow
def test_refusals_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch comes in whole or not at all; what is overdue or near is said; refusals close with a record of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    batch = tmp_path / "batch.csv"
    batch.write_text("identifier,regime,received\nzebedee,gdpr,2020-01-02\nquill,ccpa,2020-01-03\nida,hipaa,2020-01-03\n")
    assert run("import", "batch.csv", monkeypatch=monkeypatch) == 2
    batch.write_text("identifier,regime,received\nzebedee,gdpr,2020-01-02\nquill,ccpa,2020-01-03\n")
    assert run("import", "batch.csv", monkeypatch=monkeypatch) == 0
    first, second = re.findall(r"R-[0-9a-f]{12}", capsys.readouterr().out)
    request = {
        "regulation": "gdpr",
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "subject_identities": [{"identity_type": "email", "identity_value": "ida@example.com", "identity_format": "raw"}],
    }
    (tmp_path / "one.json").write_text(json.dumps(request))
    assert run("import", "one.json", monkeypatch=monkeypatch) == 0
    assert run("import", "one.json", monkeypatch=monkeypatch) == 2, "the same request is not taken twice"
    capsys.readouterr()
    assert run("list", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "OVERDUE by" in shown
    assert "CONFIRMATION OVERDUE since" in shown
    assert run("deny", first, "--reason", "the identity could not be verified", monkeypatch=monkeypatch) == 0
    assert run("withdraw", second, monkeypatch=monkeypatch) == 0
    for name, outcome in ((first, "denied"), (second, "withdrawn")):
        assert run("close", name, "--no-pdf", monkeypatch=monkeypatch) == 0
        record = json.loads((tmp_path / "deletions" / name / "deletion.json").read_text())
        assert record["requests"][0]["outcome"] == outcome
    capsys.readouterr()
    assert run("show", first, monkeypatch=monkeypatch) == 0
    assert "reason: the identity could not be verified" in capsys.readouterr().out
    names = [word.encode() for word in ("zebedee", "quill", "ida@")]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("batch.csv", "one.json")]
    assert not [path for path in written if any(word in path.read_bytes() for word in names)]


def test_a_batch_is_noted_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies while the second of three requests is written: none is there; together they move, or stay."""
    ledger = Ledger(tmp_path / "ledger.db")
    real: Callable[..., None] = Ledger._append
    left = [1]

    def dying(self: Ledger, *given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(self, *given)

    requests = [NewRequest((f"{number:032x}",), "gdpr", DAY) for number in range(3)]
    monkeypatch.setattr(Ledger, "_append", dying)
    with pytest.raises(KeyboardInterrupt):
        ledger.add_all(requests)
    assert ledger.requests() == []
    monkeypatch.setattr(Ledger, "_append", real)
    names = ledger.add_all(requests)
    left[0] = 2
    monkeypatch.setattr(Ledger, "_append", dying)
    with pytest.raises(KeyboardInterrupt):
        ledger.advance_all(names, "identity_verified")
    assert {request.state for request in ledger.requests()} == {"received"}
    ledger.close()

"""Who did what, by keyed names; three people where a ledger requires them; export, and files that still name a person."""

import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from bad_requests import good_request
from dateutil.relativedelta import relativedelta

from unlearn.cli.ledger import operator_hash
from unlearn.requests.close import ClosingDocuments, require_usable
from unlearn.requests.input_files import files_naming
from unlearn.requests.ledger.ledger import Ledger, NewRequest
from unlearn.requests.record_export import as_csv, as_json, ccpa_metrics, closed_on
from unlearn.requests.retention import kept_documents
from verify.certificate.signing import load_signer, make_key
from verify.data.identity import RecordKey
from verify.errors import InputError, IntegrityError

MODELS = [{"before": "a" * 64, "after": "b" * 64, "verdict": "EQUIVALENT_WITHIN"}]
WAY: list[tuple[Any, dict[str, Any]]] = [
    ("matched", {}),
    ("planned", {"batch": "B-1"}),
    ("unlearning", {}),
    ("verifying", {}),
    ("deployed", {"models": MODELS}),
    ("purged", {"residual": [], "retired": ["a" * 64]}),
]

Shell = Callable[..., tuple[int, str]]


def new(subject: str = "5" * 32, **changes: Any) -> NewRequest:
    return NewRequest(**{"subjects": (subject,), "regime": "gdpr", "received": date(2026, 3, 2), **changes})


def test_three_people_where_the_ledger_requires_them(ledger: Ledger, tmp_path: Path) -> None:
    """Whoever approved does not run, and neither closes; without a name nobody does. Before the rule, and without it, one may."""
    before = ledger.add(new())
    ledger.advance(before, "identity_verified")
    assert not ledger.separate_roles()
    ledger.require_separate_roles()
    ledger.require_separate_roles()
    assert (ledger.separate_roles(), ledger.verify()) == (True, 3)
    assert [request.id for request in ledger.requests()] == [before], "the rule is no request"
    with pytest.raises(InputError, match="no request with that id"):
        ledger.request("ledger")
    name = ledger.add(new())
    with pytest.raises(InputError, match="requires a name for approving"):
        ledger.advance(name, "identity_verified")
    ann, ben, cem = (operator_hash(person) for person in ("Ann", "Ben", "Cem"))
    ledger.operator = ann
    ledger.advance(name, "identity_verified")
    for state, details in WAY[:2]:
        ledger.advance(name, state, **details)
    with pytest.raises(InputError, match="running it is not for who acted in approving"):
        ledger.advance(name, "unlearning")
    ledger.operator = ben
    for state, details in WAY[2:]:
        ledger.advance(name, state, **details)
    for other, role in ((ann, "approving"), (ben, "running")):
        ledger.operator = other
        with pytest.raises(InputError, match=f"closing it is not for who acted in {role}"):
            ledger.advance(name, "closed")
        with pytest.raises(InputError, match=f"closing it is not for who acted in {role}"):
            require_usable(ledger, tmp_path, name, ClosingDocuments())  # before anything is removed for it
    ledger.operator = cem
    assert ledger.advance(name, "closed").outcome == "deleted"
    assert [step.details.get("operator") for step in ledger.request(name).steps] == [None, *[ann] * 3, *[ben] * 4, cem]
    make_key(tmp_path / "operator.key")
    signing = ClosingDocuments(operator=tmp_path / "operator.key")
    require_usable(ledger, tmp_path, name, signing)
    ledger.operator = ben
    with pytest.raises(InputError, match="closing it is not for who acted in running"):
        require_usable(ledger, tmp_path, name, signing)  # a certificate that is missing would be signed
    require_usable(ledger, tmp_path, name, ClosingDocuments())
    (tmp_path / "B-1").mkdir()
    (tmp_path / "B-1" / "certificate.json").write_text("{}")
    require_usable(ledger, tmp_path, name, signing)  # it is there, and nothing is signed


def test_names_are_keyed_hashes(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the shell or the environment, in any spelling the same; the ledger's file holds no name and is its owner's alone."""
    monkeypatch.setenv("UNLEARN_LEDGER", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("UNLEARN_OPERATOR", "Zoltana  Quill")
    name = shell("add", stdin="somebody@example.com\n")[1].splitlines()[-1]
    assert shell("separate-roles")[0] == 0
    assert shell("approve", name, "--operator", "ZOLTANA Quill")[0] == 0
    status, said = shell("show", name)
    assert (status, said.count(f"by operator {operator_hash('Zoltana Quill')[:8]}")) == (0, 2)
    files = [path for path in tmp_path.iterdir() if path.name.startswith("ledger.db")]
    assert not any(b"oltana" in path.read_bytes() for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert shell("deny", name, "--reason", "no right to it")[0] == 0
    status, said = shell("close", name, "--operator", "Yara", "--no-pdf", "--output", str(tmp_path / "out"))
    assert status == 0, said
    assert (tmp_path / "out" / name).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("later", [False, True])
def test_the_key_check_is_in_the_chain(ledger: Ledger, later: bool) -> None:
    """Who replaces the check value would let another key find nobody: the events still name the first one."""
    ledger.note_key("first")
    assert ledger.note_key("second") == "first"
    assert ledger.verify() == 1, "one event of its own, before there is any request"
    if later:
        ledger.add(new())
    path = ledger.file
    assert path is not None
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER key_check_no_update")
        connection.execute("UPDATE key_check SET value = 'second'")
    connection.close()
    with pytest.raises(IntegrityError, match="event 1 was recorded under another record key"):
        ledger.verify()


def test_an_export_counts_what_was_asked(ledger: Ledger, shell: Shell, tmp_path: Path) -> None:
    """One row a request with its days, and the metrics of a year under CCPA alone; a reason that a spreadsheet would compute is
    text."""
    day = date.today()
    ccpa = [ledger.add(new(regime="ccpa", received=day)) for _ in range(4)]
    ledger.add(new(regime="gdpr", received=day))
    ledger.add(new(regime="ccpa", received=date(day.year - 1, 6, 1)))
    ledger.advance(ccpa[0], "denied", reason="=2+5")
    ledger.advance(ccpa[0], "closed")
    ledger.advance(ccpa[1], "withdrawn")
    ledger.advance(ccpa[1], "closed")
    ledger.advance(ccpa[2], "identity_verified")
    for state, details in WAY:
        ledger.advance(ccpa[2], state, **details)
    ledger.advance(ccpa[2], "closed")
    found = ccpa_metrics(ledger.requests(), day.year)
    counts = {"received": 4, "complied": 1, "denied": 1, "nothing_found": 0, "withdrawn": 1, "open": 1}
    assert {name: found[name] for name in counts} == counts
    assert (found["median_days"], found["mean_days"]) == (0, 0)
    assert ccpa_metrics([], 2025)["median_days"] is None
    rows = list(csv.DictReader(io.StringIO(as_csv(ledger.requests()))))
    assert len(rows) == 6
    assert (rows[0]["outcome"], rows[0]["reason"], rows[0]["in_time"]) == ("denied", "'=2+5", "True")
    content = json.loads(as_json(ledger.requests(), found, ledger.head()))
    assert (content["requests"][0]["reason"], content["ccpa_metrics"]["received"]) == ("=2+5", 4)
    assert as_csv([]) == "id\n"
    words = ["export", "--ledger", str(ledger.file), "--ccpa-year", str(day.year), "--output"]
    status, said = shell(*words, str(tmp_path / "e.json"))
    assert (status, "complied: 1" in said, json.loads((tmp_path / "e.json").read_text())) == (0, True, content)
    assert shell(*words, str(tmp_path / "e.json"))[0] == 2
    assert shell(*words, str(tmp_path / "e.xlsx"))[0] == 2


def test_documents_are_kept_so_long_and_no_longer(
    ledger: Ledger, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock starts when the last request of a batch is closed; then the documents about persons go, and the proof stays."""
    names = [ledger.add(new()) for _ in range(3)]
    for name in names[:2]:
        ledger.advance(name, "identity_verified")
    for state, details in WAY:
        ledger.advance_all(names[:2], state, **details)
    ledger.advance(names[2], "denied", reason="no right to it")
    ledger.advance(names[2], "closed")
    batch, refused, output = tmp_path / "out" / "B-1", tmp_path / "out" / names[2], tmp_path / "out"
    own = output / names[0]
    for path in (
        *(batch / "plan.json", batch / "letters" / "a.txt", batch / "certificate.json"),
        *(refused / "letters" / "b.txt", own / "letters" / f"{names[0]}-confirmation.txt"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    ledger.advance(names[0], "closed")
    assert {kept.folder for kept in kept_documents(ledger.requests(), output)} == {refused, own}, "one of the batch is still open"
    ledger.advance(names[1], "closed")
    found = kept_documents(ledger.requests(), output)
    assert {kept.folder: sorted(path.name for path in kept.documents) for kept in found} == {
        batch: ["letters", "plan.json"],
        refused: ["letters"],
        own: ["letters"],
    }
    closed = closed_on(ledger.request(names[1]))
    assert closed is not None
    assert found[0].until == closed + relativedelta(months=24)
    words = ["retention", "--ledger", str(ledger.file), "--output", str(output), "--remove"]
    assert shell(*words)[1].count("kept until") == 3
    monkeypatch.setattr("unlearn.cli.requests.today", lambda: found[0].until)
    assert shell(*words)[1].count("kept until") == 3, "the last day is inclusive"
    monkeypatch.setattr("unlearn.cli.requests.today", lambda: found[0].until + relativedelta(days=1))
    status, said = shell(*words)
    assert (status, said.count(": removed")) == (0, 3)
    assert [path.name for path in batch.iterdir()] == ["certificate.json"]
    assert "no closed request has documents" in shell(*words)[1]


def test_documents_of_a_plan_that_was_replaced_are_listed_too(ledger: Ledger, tmp_path: Path) -> None:
    """A request that was planned twice, or refused after it was planned, leaves a plan in a folder that is not its last one."""
    names = [ledger.add(new()) for _ in range(2)]
    for name in names:
        ledger.advance(name, "identity_verified")
        ledger.advance(name, "matched")
        ledger.advance(name, "planned", batch="B-old")
    ledger.advance(names[0], "planned", batch="B-1")
    ledger.advance(names[0], "withdrawn")
    ledger.advance(names[1], "denied", reason="no right to it")
    for batch in ("B-old", "B-1"):
        (tmp_path / batch).mkdir()
        (tmp_path / batch / "plan.json").write_text("{}")
    ledger.advance(names[0], "closed")
    assert [kept.folder.name for kept in kept_documents(ledger.requests(), tmp_path)] == ["B-1"]
    ledger.advance(names[1], "closed")
    assert {kept.folder.name for kept in kept_documents(ledger.requests(), tmp_path)} == {"B-old", "B-1"}


def test_files_that_still_name_a_person(tmp_path: Path) -> None:
    """A list, a batch with either separator and an OpenDSR request are found by what they name, in any spelling; others are not."""
    key = RecordKey.load()
    address = good_request()["subject_identities"][0]["identity_value"]
    (tmp_path / "who.txt").write_text(f"\ufeffother@example.org\n {address.upper()} \n")
    (tmp_path / "batch.csv").write_text(f"identifier;regime\n{address};gdpr\n")
    (tmp_path / "request.json").write_text(json.dumps(good_request()))
    (tmp_path / "cut.json").write_text('{"a": "')
    (tmp_path / "surrogate.json").write_text('{"a": "\\ud800"}')
    (tmp_path / "long.csv").write_text("x" * 200_000)
    (tmp_path / "nobody.txt").write_text("other@example.org\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.txt").mkdir()
    found = files_naming([tmp_path, tmp_path / "absent"], [key.of_person(address)], key)
    assert [path.name for path in found] == ["batch.csv", "request.json", "who.txt"]


def test_a_key_that_is_no_file(tmp_path: Path) -> None:
    """A descriptor and a command give the same signer as the file, as often as it is asked for; what gives no key is refused."""
    identity = make_key(tmp_path / "key")
    reader, writer = os.pipe()
    os.write(writer, (tmp_path / "key").read_bytes())
    os.close(writer)
    for source in (f"fd:{reader}", f"command:cat {tmp_path / 'key'}"):
        assert [load_signer(source).public_key.keyid for _ in range(2)] == [identity] * 2
    for source in (
        "fd:x",
        "fd:99999",
        "command:",
        "command:false",
        "command:no-such-program-anywhere",
        f"command:cat {tmp_path}/key.pub",
    ):
        with pytest.raises(InputError, match="not an Ed25519 private key"):
            load_signer(source)

"""A person is found wherever a row names them: in a longer subject, in two columns, in values of every type, in every spelling."""

import json
import uuid
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from unlearn.purge.suppression import SuppressionList
from unlearn.requests.ledger.intake import from_lines
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.matching import match_requests
from unlearn.scan.search import find_records
from unlearn.scan.spellings import likenesses, subject_hashes
from verify.data.identity import RecordKey
from verify.data.records import Fields

TEXT = {"text": "The customer complained about a late parcel."}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(TEXT | row) + "\n" for row in rows))
    return path


def found(path: Path, *identifiers: str) -> list[tuple[int, str, str | None]]:
    key = RecordKey.load()
    tokens = likenesses(identifiers, key)
    matches = find_records([path], key, subjects=subject_hashes(identifiers, key), likenesses=tokens, near=False)
    return sorted((match.row, match.how, match.reason) for match in matches)


@pytest.mark.parametrize(
    "subject",
    [
        "Dr. Nora Velt",
        "Max Roe; Nora Velt",
        ["Max Roe", "Frau Nora Velt"],
        "Nora M. Velt",
        "Nora Velt-Roe",
        "Nora Velt (born Roe)",
        "Nora Velt <nora@example.org>",
        "Velt, Nora Maria",
        "nora.velt@example.org; max@example.org",
    ],
    ids=str,
)
def test_a_longer_subject_is_proposed_beside_an_exact_one(tmp_path: Path, subject: str | list[str]) -> None:
    """An exact row of the person hides no other of theirs; rows whose subject is somebody else are still not read."""
    path = written(
        tmp_path / "people.jsonl",
        *({"subject_id": "Nora Velt"}, {"subject_id": "nora.velt@example.org"}, {"subject_id": subject}),
        *({"subject_id": "Max Roe", "text": "He met Nora Velt."}, {"subject_id": "Dr. Max Roe", "city": "nora.velt@example.org"}),
    )
    rows = found(path, "Nora Velt", "nora.velt@example.org")
    assert rows == [(1, "subject", None), (2, "subject", None), (3, "similar identifier", "elsewhere")]


def test_a_longer_subject_is_proposed_by_a_linked_name(tmp_path: Path) -> None:
    """The name beside the requested account is recognized in a longer subject as well."""
    path = written(
        tmp_path / "people.jsonl",
        *({"subject_id": "u-4711", "name": "Nora Velt"}, {"subject_id": "Dr. Nora Velt"}, {"subject_id": "Dr. Max Roe"}),
    )
    assert found(path, "u-4711") == [(1, "subject", None), (2, "similar identifier", "linked")]


def called(arguments: object) -> dict[str, Any]:
    """Return a chat whose assistant calls a tool with these arguments."""
    call = {"type": "function", "function": {"name": "look_up", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": None, "tool_calls": [call]}]}


PARTS = {"first_name": "Nora", "last_name": "Velt"}


@pytest.mark.parametrize(
    "row",
    [
        PARTS,
        {"Vorname": "Nora", "Nachname": "Velt"},
        {"pr\u00e9nom": "Nora", "nom": "Velt"},
        {"person": {"firstName": "Nora", "surname": "Velt"}},
        {"people": [{"first_name": "Otto"}, {"meta": [{"given_name": "nora", "FamilyName": "V\u00e9lt"}]}]},
        {"customer_first_name": "Nora", "customer_last_name": "Velt", "agent_last_name": "Roe"},
        {"first_name": "Nora", "middle_name": "Maria", "last_name": "Velt"},
        {"name": [{"given": ["Nora", "Maria"], "family": "Velt"}]},
        {"subject_id": 17, **PARTS},
    ],
    ids=str,
)
def test_first_and_last_name_in_two_columns_are_one_name(tmp_path: Path, row: dict[str, Any]) -> None:
    """In the row or in an object within it, in several languages; no name is made of the parts of two people."""
    path = written(tmp_path / "people.jsonl", {"first_name": "Nora", "last_name": "Roe", "city": "Velt"}, row)
    assert found(path, "Nora Velt") == [(2, "named in its text", "elsewhere")]
    two = [{"first_name": "Nora"}, {"last_name": "Velt"}]
    written(path, {"people": two}, {"owner_first_name": "Nora", "contact_last_name": "Velt"}, {"first": "Nora", "nachname": "Velt"})
    assert found(path, "Nora Velt") == []


@pytest.mark.parametrize("header", ["first_name,last_name", "Vorname,Nachname"])
def test_two_columns_of_a_table(tmp_path: Path, header: str) -> None:
    """A request for such a row stays open until a human decides, and a suppressed person's row does not pass."""
    path = tmp_path / "people.csv"
    path.write_text(f"text,{header}\nLate parcel.,Otto,Roe\nLate parcel again.,Nora,Velt\n")
    assert found(path, "Nora Velt") == [(2, "named in its text", "elsewhere")]
    key, listed, ledger = RecordKey.load(), SuppressionList(), Ledger(tmp_path / "ledger.db")
    request = ledger.request(ledger.add(from_lines(["Nora Velt"], key, regime="gdpr", received=date(2026, 11, 2), country=None)))
    ledger.close()
    (matched,) = match_requests([request], [str(path)], key, Fields())
    assert [match.row for match in matched.candidates] == [2]
    listed.add_people(request.subjects, request.likenesses)
    assert [(hit.row, hit.how, hit.reason) for hit in listed.check(path, key)] == [(2, "similar identifier", "elsewhere")]


@pytest.mark.parametrize(
    "row",
    [
        called(json.dumps(PARTS)),
        called(PARTS),
        called(json.dumps({"who": json.dumps([PARTS])})),
        called('{"first_name": "Otto", "last_name": "Velt", "first_name": "Nora"}'),
        {"prompt": "Who?", "completion": json.dumps(PARTS)},
        {"messages": [{"role": "user", "content": json.dumps([PARTS])}, {"role": "assistant", "content": "Yes."}]},
        {**called("{}"), "documents": [PARTS]},
    ],
    ids=str,
)
def test_first_and_last_name_in_a_text_that_is_an_object(tmp_path: Path, row: dict[str, Any]) -> None:
    """As the arguments of a tool call have them, as an object or as its JSON."""
    other = json.loads(json.dumps(row).replace("Velt", "Roe"))
    assert found(written(tmp_path / "chats.jsonl", other, row), "Nora Velt") == [(2, "named in its text", "mention")]


@pytest.mark.parametrize(
    ("value", "sought"),
    [
        (b"Nora.Velt@example.org", "nora.velt@example.org"),
        ("M\u00fcller, Nora".encode(), "Nora M\u00fcller"),
        ("Nora M\u00fcller".encode("cp1252"), "Nora M\u00fcller"),
        (b"\xff\x00nora.velt@example.org\x9d", "nora.velt@example.org"),
        (uuid.UUID("3f2504e0-4f89-11d3-9a0c-0305e82c3301").bytes, "3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
        (uuid.UUID("3f250410-4f09-1153-1a0c-03056c2c3301").bytes, "3f250410-4f09-1153-1a0c-03056c2c3301"),
        (date(1984, 3, 12), "1984-03-12"),
        (datetime(1984, 3, 12, 8, 30, tzinfo=UTC), "1984-03-12"),
        ({"who": [b"Nora Velt"]}, "Nora Velt"),
        ({"first_name": b"Nora", "last_name": b"Velt"}, "Nora Velt"),
    ],
    ids=ascii,
)
def test_values_of_every_type_in_parquet(tmp_path: Path, value: object, sought: str) -> None:
    """Dates and binary values are compared as texts, also where the bytes are no UTF-8."""
    path = tmp_path / "people.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["A.", "B."], "held": [None, value]}), path)
    assert found(path, sought) == [(2, "named in its text", "elsewhere")]


def test_a_binary_name_links(tmp_path: Path) -> None:
    """What stands beside the requested identifier is searched for, whatever the type of its column."""
    path = tmp_path / "people.parquet"
    table = {"text": ["A.", "I met Nora Velt."], "account_id": ["u-4711", "u-2"], "name": [b"Nora Velt", b"Otto Roe"]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert [row for row, *_ in found(path, "u-4711")] == [1, 2]


@pytest.mark.parametrize("dash", ["-", *map(chr, range(0x2010, 0x2016)), "\u2212"], ids=ascii)
@pytest.mark.parametrize("column", ["text", "phone", "subject_id"])
def test_a_national_number_with_any_dash(tmp_path: Path, dash: str, column: str) -> None:
    """As a text, in a column and as a subject, in both directions."""
    path = written(tmp_path / "people.jsonl", {column: f"0151{dash}5550198"}, {column: f"0151{dash}5550199"})
    assert [row for row, *_ in found(path, "+49 151 5550199")] == [2]
    written(path, {column: "0151 5550199"}, {column: "0151 5550198"})
    assert [row for row, *_ in found(path, f"0151{dash}5550199")] == [1]

"""What stands beside a requested identifier in one file is searched for in the others, and in no other person's name."""

import itertools
import json
import re
import uuid
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from unlearn.cli.request_text import proposed
from unlearn.requests.ledger.intake import from_lines
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.matching import match_requests
from unlearn.requests.planning import Draft
from unlearn.scan.linking import identifiers_by_person, mailboxes
from unlearn.scan.placeholders import MOST_SHARED, is_placeholder
from unlearn.scan.search import find_records, seams
from unlearn.scan.spellings import likenesses, subject_hashes
from verify.data.identity import RecordKey
from verify.data.records import Fields, parse_row

NORA = {"subject_id": "u-4711", "name": "Nora Velt", "email": "nora@example.org", "phone": "+49 151 5550 0199"}
TEXTS = [
    {"text": "Nora Velt lives at the lake."},
    {"text": "Nora was here, and so was Otto Kern."},
    {"text": "Write to Nora@example.org, or call 0151 5550 0199."},
    {"subject_id": "nora@example.org", "text": "In the north."},
    {"subject_id": "otto@example.org", "text": "I met NoraVelt there."},
]

OTTO = [{"text": "Otto Kern is here, and Otto Velt."}]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(files: list[Path], *identifiers: str) -> set[tuple[str, int, str, str | None]]:
    key = RecordKey.load()
    tokens = likenesses(identifiers, key)
    matches = find_records(files, key, subjects=subject_hashes(identifiers, key), likenesses=tokens, near=False)
    return {(Path(match.file).name, match.row, match.how, match.reason) for match in matches}


@pytest.mark.parametrize("sought", ["u-4711", "nora@example.org", "NORA@example.org"])
def test_a_person_of_one_file_is_searched_for_in_the_others(tmp_path: Path, sought: str) -> None:
    """By name, address and number beside the requested identifier, as texts and as subjects; in any order of the files."""
    files = [
        written(tmp_path / "people.jsonl", [NORA | {"text": "A."}, {"subject_id": "u-2", "name": "Otto Kern", "text": "B."}]),
        written(tmp_path / "texts.jsonl", TEXTS),
        written(tmp_path / "more.jsonl", [{"subject_id": "u-9", "text": "No one."}]),
    ]
    every = [found(list(order), sought) for order in itertools.permutations(files)]
    assert all(one == every[0] for one in every)
    rows = {(file, row) for file, row, *_ in every[0]}
    # Where the address is asked for, it is itself the subject of a text: another subject's mention of the name is left out there.
    others = {1, 3, 4, 5} if sought == "u-4711" else {1, 3, 4}
    assert rows == {("people.jsonl", 1), *(("texts.jsonl", row) for row in others)}
    assert ("texts.jsonl", 1, "named in its text", "linked") in every[0]


@pytest.mark.parametrize(
    "row",
    [
        {"subject_id": "u-4711", "firstName": "Nora", "Last Name": "Velt"},
        {"subject_id": "u-4711", "Vorname": "Nora", "Nachname": "Velt"},
        {"subject_id": "u-4711", "pr\u00e9nom": "Nora", "nom": "Velt"},
        {"subject_id": "u-4711", "customer_name": "Velt, Nora"},
        {"subject_id": "u-4711", "username": "noraVelt"},
        {"subject_id": "u-4711", "aliases": "x", "alias": ["NV", "Dr. Nora M. Velt"]},
        {"meta": {"user_id": "u-4711", "name": "Nora Velt"}},
        {"people": [{"name": "Otto Kern", "id": "u-2"}, {"name": "Nora Velt", "account_id": "U-4711", "login": "u-4711"}]},
    ],
    ids=str,
)
def test_columns_that_name_people_link(tmp_path: Path, row: dict[str, Any]) -> None:
    """First and last name are one name, in several languages and spellings of the column; so is what one nested object holds."""
    files = [written(tmp_path / "a.jsonl", [row | {"text": "A."}]), written(tmp_path / "b.jsonl", TEXTS[:2])]
    assert {(file, number) for file, number, *_ in found(files, "u-4711")} == {("a.jsonl", 1), ("b.jsonl", 1)}


@pytest.mark.parametrize(
    "row",
    [
        {"subject_id": "u-4711", "name": "Nora"},
        {"subject_id": "u-4711", "name": "Dr. Nora"},
        {"subject_id": "u-4711", "first_name": "Nora", "city": "Velt"},
        {"subject_id": "u-4711", "city": "Nora Velt"},
        {"subject_id": "u-4711", "file_name": "Nora Velt"},
        {"subject_id": ["u-4711", "Nora Velt"]},
        {"subject_id": ["u-4711", "u-2"], "name": "Nora Velt"},
        {"subject_id": "u-4711", "agent": {"name": "Nora Velt"}},
        {"people": [{"name": "Nora Velt", "user_id": "u-2"}, {"name": "Otto", "user_id": "u-4711"}]},
        {"subject_id": "u-47110", "name": "Nora Velt"},
    ],
    ids=str,
)
def test_a_first_name_or_another_person_links_nobody(tmp_path: Path, row: dict[str, Any]) -> None:
    """Neither a first name alone, nor what is no person's column, nor the name of another person in the row is searched for."""
    files = [written(tmp_path / "a.jsonl", [row | {"text": "A."}]), written(tmp_path / "b.jsonl", TEXTS[:3])]
    assert not any(file == "b.jsonl" for file, *_ in found(files, "u-4711"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4711000, "4711000"),
        (Decimal("4711000"), "4711000"),
        (uuid.UUID("3f2504e0-4f89-11d3-9a0c-0305e82c3301"), "3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
        ([4711000, "4711001"], "4711000"),
    ],
    ids=str,
)
def test_accounts_of_every_type_link(value: Any, text: str) -> None:
    """Numbers and UUIDs are identifiers as their texts are; a truth value is none."""
    row = {"name": "Nora Velt", "account_id": value, "user_id": True, "text": "A."}
    (group,) = identifiers_by_person(row, parse_row(row, Fields(), "here"), Fields())
    assert text in group
    assert "True" not in group


TWO = {"subject_id": "u-4711", "customer_name": "Nora Velt", "employee_name": "Otto Kern"}


@pytest.mark.parametrize(
    ("row", "linked"),
    [
        (TWO, {1}),
        (TWO | {"employee_email": "otto@example.org", "customer_email": "nora@example.org"}, {1, 3, 4}),
        ({"subject_id": "u-4711", "name": "Nora Velt", "contact_name": "Otto Kern"}, {1}),
        ({"subject_id": "u-4711", "user": "Velt, Nora", "author": "Otto Kern", "author_id": "u-2"}, {1}),
        ({"customer_id": "u-4711", "customer": "Nora Velt", "owner": "Otto Kern"}, {1}),
        ({"ticket": {"client_no": "u-4711", "client": "Nora Velt", "contact": "Otto Kern"}}, {1}),
        ({"subject_id": "u-4711", "name": "Nora Velt", "author": ["Ida Kamp", "Otto Kern", "Max Roe"]}, {1}),
        ({"user_id": "u-4711", "author": ["Nora Velt", "Otto Kern"]}, set()),
        ({"subject_id": "u-4711", "customer_name": "Nora Velt", "user_alias": "Otto Kern"}, {1, 2}),
        (
            {"subject_id": "u-4711", "name": "Nora Velt", "author": "N. Otto Velt", "email": ["nora@example.org", "n@x.org"]},
            {1, 2, 3, 4},
        ),
    ],
    ids=str,
)
def test_several_people_of_one_object_are_not_linked(tmp_path: Path, row: dict[str, Any], linked: set[int]) -> None:
    """An employee serves thousands of customers: whose columns they are is said by their names, unless no two names differ."""
    files = [written(tmp_path / "a.jsonl", [row | {"text": "A."}]), written(tmp_path / "b.jsonl", [*TEXTS[:1], *OTTO, *TEXTS[2:4]])]
    assert {number for file, number, *_ in found(files, "u-4711") if file == "b.jsonl"} == linked


def test_the_employee_of_many_customers_is_linked_with_none_of_them(tmp_path: Path) -> None:
    """Neither are the customers proposed to an employee who asks, beyond the rows that name both."""
    rows = [TWO | {"text": "A."}, TWO | {"subject_id": "u-2", "customer_name": "Ida Kamp", "text": "B."}]
    files = [written(tmp_path / "a.jsonl", rows), written(tmp_path / "b.jsonl", [*TEXTS[:1], *OTTO, {"text": "Ida Kamp is well."}])]
    assert {(file, number) for file, number, *_ in found(files, "Otto Kern")} == {("a.jsonl", 1), ("a.jsonl", 2), ("b.jsonl", 2)}


@pytest.mark.parametrize("text", ["I met Otto Kern.", "u-2 was there."])
@pytest.mark.parametrize("about", ["Nora Velt", "nora@example.org"])
def test_a_row_of_one_person_that_mentions_another_is_proposed_to_both(tmp_path: Path, about: str, text: str) -> None:
    """Two requests that are planned together lose nothing that each finds alone."""
    people = [NORA | {"text": "A."}, {"subject_id": "u-2", "name": "Otto Kern", "text": "B."}]
    rows = [{"subject_id": about, "text": text}, {"text": "No one."}]
    files = [str(written(tmp_path / name, own)) for name, own in (("people.jsonl", people), ("texts.jsonl", rows))]
    ledger, key = Ledger(tmp_path / "ledger.db"), RecordKey.load()
    new = [from_lines([who], key, regime="gdpr", received=date(2026, 11, 2), country=None) for who in ("u-4711", "u-2")]
    requests = ledger.advance_all(ledger.add_all(new), "identity_verified")
    ledger.close()
    together = [[(match.file, match.row) for match in one.candidates] for one in match_requests(requests, files, key, Fields())]
    alone = [[(match.file, match.row) for match in match_requests([one], files, key, Fields())[0].candidates] for one in requests]
    assert together == alone == [[(files[1], 1)], [(files[1], 1)]]


def test_each_request_has_its_own_links(tmp_path: Path) -> None:
    """Of two requests in one pass, a row is proposed to the one that it is linked to, and to nobody else."""
    people = [NORA | {"text": "A."}, {"subject_id": "u-2", "name": "Otto Kern", "text": "B."}, {"subject_id": "u-3", "text": "C."}]
    files = [str(written(tmp_path / "texts.jsonl", TEXTS)), str(written(tmp_path / "people.jsonl", people))]
    key = RecordKey.load()
    ledger = Ledger(tmp_path / "ledger.db")
    new = [from_lines([who], key, regime="gdpr", received=date(2026, 11, 2), country=None) for who in ("u-4711", "u-2", "u-3")]
    requests = ledger.advance_all(ledger.add_all(new), "identity_verified")
    nora, otto, third = match_requests(requests, files, key, Fields())
    assert [match.row for match in nora.candidates] == [1, 3, 4, 5]
    assert [match.row for match in otto.candidates] == [2]
    assert third.candidates == ()
    assert [len(entry.certain) for entry in (nora, otto, third)] == [1, 1, 1]
    by_name = match_requests(requests[1:2], files, key, Fields(), ["texts.jsonl:2"])[0]
    assert ([match.row for match in by_name.removed], by_name.candidates) == ([2, 2], ())
    ledger.close()


FILL = " ".join(f"filler{number}" for number in range(200))


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["a b"], 0),
        ([], 0),
        (["I am Nora", f"Velt. {FILL}"], 1),
        ([f"{FILL} Nora", "M.", f"Velt {FILL}"], 1),
        ([f"{FILL} Nora", f"Velt {FILL} Nora", f"Velt {FILL}"], 2),
        (["\u5b89" * 900, "\u5a1c" * 900], 0),
    ],
    ids=["one text", "none", "a name across two", "across three", "twice", "words without spaces"],
)
def test_the_ends_of_texts_are_read_together(texts: list[str], whole: int) -> None:
    """A name that begins in one text and ends in the next stands in a seam, whole words on both sides."""
    read = list(seams(texts))
    assert sum(len(re.findall(r"Nora\s(?:M\.\s)?Velt", one)) for one in read) == whole
    assert sum(map(len, read)) < 800 * max(1, len(texts))
    for one in read:
        assert one in "\n".join(texts)
        assert one.strip().split()[0] in " ".join(texts).split() or not one.isascii()


def test_a_name_that_two_texts_share_is_found(tmp_path: Path) -> None:
    """Of prompt and completion, and of turns of a chat, short and long."""
    rows = [
        {"prompt": "I am Nora", "completion": f"Velt. {FILL}"},
        {"prompt": f"{FILL} Nora", "completion": f"Velt {FILL}"},
        {"messages": [{"role": "user", "content": f"{FILL} Nora"}, {"role": "assistant", "content": f"Velt {FILL}"}]},
        {"prompt": f"{FILL} Nora", "completion": f"{FILL} Velt"},
    ]
    assert {row for _, row, *_ in found([written(tmp_path / "a.jsonl", rows)], "Nora Velt")} == {1, 2, 3}


PLACEHOLDERS = (
    "Guest User|N/A|n. a.|-|Test|unknown|John Doe|Doe, Jane|Kunde|admin|Gel\u00f6schter Benutzer|Utilisateur inconnu|????|99999|"
    "Usuario desconocido|sin nombre|Max Mustermann|Keine Angabe|Utente sconosciuto|noreply@example.org|no-reply@example.org|"
    "unknown@example.org|0000000000|+00 000 0000|1234567890"
)
NO_PLACEHOLDERS = (
    "Nora Velt|John Doering|Jane Guest|Max Muster-Velt|Ana Nombre|user42|kunde-1001|u-4711|12345|4711000|nora@example.org|"
    "info@velt.example|test.velt@example.org|+49 151 5550 0199|\u5b89\u5a1c|Anna Gast"
)


@pytest.mark.parametrize(
    "value",
    PLACEHOLDERS.split("|"),
)
def test_placeholders_are_recognized(value: str) -> None:
    """Words of the list alone, in several languages and spellings, names that stand for any, and numbers of no one."""
    assert is_placeholder(value)


@pytest.mark.parametrize(
    "value",
    NO_PLACEHOLDERS.split("|"),
)
def test_people_are_no_placeholders(value: str) -> None:
    """A name with one such word, an account with a number, and an office's address may be somebody's."""
    assert not is_placeholder(value)


@pytest.mark.parametrize("column", [{"name": "Guest User"}, {"name": "John Doe"}, {"email": "noreply@example.org"}, {"phone": 0}])
def test_a_placeholder_links_nobody_and_it_is_said(tmp_path: Path, column: dict[str, Any]) -> None:
    """The rows of the person are found as ever, also by what else stands beside; `scan` and `plan` say what was left out."""
    texts = [{"text": "Guest User and John Doe wrote to noreply@example.org, or 0000000."}, {"text": "Nora Velt is here."}]
    rows = [{"subject_id": "u-4711", "text": "A.", "customer_name": "Nora Velt"} | column]
    rows += [{"subject_id": f"u-{number}", "text": f"B{number}."} | column for number in range(3)]
    files, key, told = [written(tmp_path / "a.jsonl", rows), written(tmp_path / "b.jsonl", texts)], RecordKey.load(), list[str]()
    matches = find_records(
        files, key, subjects=subject_hashes(["u-4711"], key), likenesses=likenesses(["u-4711"], key), near=False, tell=told.append
    )
    assert {(Path(match.file).name, match.row) for match in matches} <= {("a.jsonl", 1), ("b.jsonl", 2)}
    assert ("a.jsonl", 1) in {(Path(match.file).name, match.row) for match in matches}
    if column != {"phone": 0}:  # too short to identify anybody: it never linked
        assert [said.partition(" not used")[0] for said in told] == ["1 value that stands beside the requested identifiers was"]


@pytest.mark.parametrize(("others", "used"), [(MOST_SHARED - 2, True), (MOST_SHARED + 1, False)])
@pytest.mark.parametrize("first", [True, False])
def test_what_very_many_have_links_nobody(tmp_path: Path, others: int, used: bool, first: bool) -> None:
    """Whatever it says and wherever the rows stand, a value beside more identifiers than one person has is no one's."""
    many = [{"subject_id": f"u-{number}", "name": "Hotline Nord", "text": f"B{number}."} for number in range(others)]
    own = [{"subject_id": "u-4711", "name": "Hotline Nord", "email": "nora@example.org", "text": "A."}]
    files = [written(tmp_path / "a.jsonl", [*own, *many] if first else [*many, *own]), written(tmp_path / "b.jsonl", [])]
    files[1].write_text('{"text": "Ask Hotline Nord."}\n{"text": "Or nora@example.org."}\n')
    key, told = RecordKey.load(), list[str]()
    hashes, tokens = subject_hashes(["u-4711"], key), likenesses(["u-4711"], key)
    matches = find_records(files, key, subjects=hashes, likenesses=tokens, near=False, tell=told.append)
    assert {match.row for match in matches if Path(match.file).name == "b.jsonl"} == ({1, 2} if used else {2})
    assert len(told) == (not used)
    new = from_lines(["u-4711"], key, regime="gdpr", received=date(2026, 11, 2), country=None)
    ledger = Ledger(tmp_path / "ledger.db")
    (request,) = ledger.advance_all(ledger.add_all([new]), "identity_verified")
    ledger.close()
    (entry,) = match_requests([request], list(map(str, files)), key, Fields())
    assert entry.unused == (not used)
    assert ("not used to find more rows" in " ".join(proposed(Draft((), (entry,), ())))) == (not used)


ADDRESSED = [
    {"text": "Nora Velt lives at the lake."},
    {"text": "I met Velt, Nora there."},
    {"text": "Nora was here, and so was Otto Velt."},
    {"prompt": "Who wrote?", "completion": "Nora M. Velt did."},
]


@pytest.mark.parametrize(
    "sought", ["nora.velt@example.org", "Velt_Nora@example.org", "nora-velt+shop@example.org", "nora.velt92@example.org"]
)
def test_a_text_with_the_name_that_an_address_is_made_of_is_proposed(tmp_path: Path, sought: str) -> None:
    """In either order and with initials, by the requested address alone and by one that stands beside what is requested."""
    files = [written(tmp_path / "texts.jsonl", ADDRESSED)]
    assert {(row, how, reason) for _, row, how, reason in found(files, sought)} == {
        (row, "named in its text", "local part") for row in (1, 2, 4)
    }
    people = written(tmp_path / "people.jsonl", [{"subject_id": "u-4711", "email": sought, "text": "A."}])
    linked = {(row, reason) for file, row, _, reason in found([people, *files], "u-4711") if file == "texts.jsonl"}
    assert linked == {(row, "linked") for row in (1, 2, 4)}


@pytest.mark.parametrize(
    "sought",
    ["nora@example.org", "n.v@example.org", "customer.service@example.org", "no-reply@velt.org", "info_nord@x.org", "a.4@x.org"],
)
def test_addresses_that_are_made_of_no_name_name_nobody(tmp_path: Path, sought: str) -> None:
    """One word, initials, and an office's words occur in too many texts."""
    words = [{"text": "Our customer service has no reply; n v is a 4."}, {"text": "Nora, N. V., info nord and velt."}]
    assert found([written(tmp_path / "a.jsonl", [*words, *ADDRESSED])], sought) == set()


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("From: Nora Velt <nora@example.org>\nTo: Otto Kern <otto@example.org>\n\nHello.", True),
        ('To: "Velt, Nora" <Nora@Example.org>, Otto Kern <otto@example.org>', True),
        ("Please write to Nora Velt <nora@example.org>.", True),
        ("To Nora Velt <nora@example.org>", True),
        ("Cc: Otto Kern <otto@example.org>; Nora M. Velt<nora@example.org>", True),
        ("Nora Velt wrote to Otto Kern <otto@example.org> and <nora@example.org>.", False),
        ('{"to": "Nora Velt <nora@example.org>", "cc": ["Otto Kern <otto@example.org>"]}', True),
        ("Nora Velt: nora@example.org", False),
        ("From: Nora <nora@example.org>", False),
        ("From: <nora@example.org>, Nora Velt", False),
        ("Guest User <nora@example.org>", False),
    ],
)
def test_a_mailbox_in_a_text_links_its_name(tmp_path: Path, text: str, linked: bool) -> None:
    """The name that a mail writes before an address in angle brackets, and no other name of the text."""
    rows = [{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": text}]}, {"text": text}]
    for row in rows:
        files = [written(tmp_path / "a.jsonl", [row]), written(tmp_path / "b.jsonl", [*TEXTS[:1], *OTTO])]
        assert {number for file, number, *_ in found(files, "nora@example.org") if file == "b.jsonl"} == ({1} if linked else set())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Jan van der Velt <j@x.org>", "Jan van der Velt"),
        ("asked von Velt <j@x.org>", "Velt"),
        ("A B C D E F <j@x.org>", "C D E F"),
        ("\u5b89\u5a1c <j@x.org>", ""),
        ("<j@x.org>", ""),
        ("x" * 500 + " <j@x.org>", ""),
    ],
)
def test_names_of_mailboxes(text: str, name: str) -> None:
    """Up to four words with a capital, with small words of names between them."""
    assert [found[:2] for found in mailboxes(text)] == [("j@x.org", name)]

"""One person in many spellings: found where a standard says so, proposed by row where it is open, and never lost without a word."""

import io
import json
import unicodedata
from datetime import date
from pathlib import Path

import pytest

import unlearn.cli.main
from unlearn.cli.request_text import history, proposed
from unlearn.purge.content_search import ContentSearch
from unlearn.purge.suppression import BEFORE, SuppressionList
from unlearn.requests.choices import Choices
from unlearn.requests.ledger.intake import from_lines, from_opendsr
from unlearn.requests.ledger.ledger import Ledger, NewRequest, Request
from unlearn.requests.ledger.search_tokens import advice
from unlearn.requests.matching import match_requests
from unlearn.requests.noting import note
from unlearn.requests.planning import draft
from unlearn.scan.search import Match, find_records
from unlearn.scan.spellings import Lookup, likenesses, subject_hashes
from verify.data.identity import RecordKey
from verify.data.likeness import REASONS, compare
from verify.data.records import Fields
from verify.data.sources import load_forget_set, load_records
from verify.errors import InputError
from verify.schema.deletion_record import TOKENS

KEY = RecordKey(b"k" * 32)
PEOPLE = [
    "ines.kolb@example.org",
    "Tam  O\u2019Dell",
    "m\u00fcller@b\u00fccher.example",
    "+49 151 5550 0199",
    ["lena.roth@example.org", "Jos\u00e9 Ortiz"],
    12,
]
ROWS = [{"subject_id": who, "prompt": f"Question {n}?", "completion": f"Answer {n} is {n * 37}."} for n, who in enumerate(PEOPLE)]
"""Rows 1 to 6; the fifth is about two people."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def found(data: Path, *identifiers: str) -> list[Match]:
    hashes, tokens = subject_hashes(identifiers, KEY), likenesses(identifiers, KEY)
    return find_records([data], KEY, subjects=hashes, likenesses=tokens, near=False)


@pytest.mark.parametrize(
    ("spelled", "row"),
    [
        ("Ines.Kolb@Example.org", 1),
        ('"Kolb, Ines" <INES.KOLB@example.org.>', 1),
        ("Tam O\u2019Dell", 2),
        ("mu\u0308ller@xn--bcher-kva.example", 3),
        ("tel:+49-151-55500199", 4),
        ("Lena.Roth@example.org", 5),
        ("Jose\u0301 Ortiz", 5),
        ("12", 6),
    ],
)
def test_the_same_by_standard_is_found(data: Path, spelled: str, row: int) -> None:
    """Any spelling that a standard equates finds the record as its subject's; of two people either one."""
    assert [(match.row, match.how) for match in found(data, spelled)] == [(row, "subject")]


@pytest.mark.parametrize(
    ("spelled", "row", "reason"),
    [
        ("ines.kolb+list@example.org", 1, "tag"),
        ("Kolb Ines", 1, "name"),
        ("tam o'dell", 2, "apostrophe"),
        ("mueller@buecher.example", 3, "transliteration"),
        ("0151/5550 0199", 4, "digits"),
        ("jose ortiz", 5, "accents"),
        ("12.0", 6, "digits"),
    ],
)
def test_perhaps_the_same_is_proposed(data: Path, spelled: str, row: int, reason: str) -> None:
    """A similar spelling is a candidate by row and reason; it is no match."""
    assert [(match.row, match.how, match.reason) for match in found(data, spelled)] == [(row, "similar identifier", reason)]


@pytest.mark.parametrize(
    "spelled", ["ineskolb@example.org", "ines.kolb@example.com", "Tam Dell", "m\u00fcller@example", "13", "nobody"]
)
def test_others_are_not_proposed(data: Path, spelled: str) -> None:
    """Another address, name or number finds nothing."""
    assert found(data, spelled) == []


def test_a_name_in_a_text_is_proposed(tmp_path: Path) -> None:
    """A mention is a candidate in any case and with any accents; a part of it is none.

    In a file with a record of the person, rows that are about somebody else are not read for mentions, rows about nobody are.
    """
    path = tmp_path / "texts.jsonl"
    texts = ["Where was NORA V\u00c9LT born?", "Nora was with Velt.", "Write to Nora-Velt@Example.org!", "Noravelt"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    mentions = [(1, "named in its text"), (3, "named in its text")]
    assert [(match.row, match.how) for match in found(path, "Nora Velt")] == mentions
    assert [match.row for match in found(path, "nora-velt@example.org")] == [1, 3], "an address that is made of the name"
    assert found(path, "Nora") == []
    whole = path.read_text() + json.dumps({"subject_id": "Nora Velt", "text": "Something else."}) + "\n"
    path.write_text(whole)
    assert [(match.row, match.how) for match in found(path, "Nora Velt")] == [(5, "subject"), *mentions]
    path.write_text(whole.replace('{"text"', '{"subject_id": "Otto", "text"'))
    assert [(match.row, match.how) for match in found(path, "Nora Velt")] == [(5, "subject")]


def test_passages_are_found_in_other_unicode_forms(data: Path, tmp_path: Path) -> None:
    """A searched text is found whatever its normalization form and white space, a mail address in any case."""
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "Caf\u00e9 de\n  la Paix, Ines.Kolb@Example.ORG"}) + "\n")
    for text in ("Cafe\u0301 de la Paix", "ines.kolb@example.org", "Ines.Kolb@Example.org"):
        assert [match.how for match in find_records([path], KEY, texts=[text], near=False)] == ["text"]
    assert find_records([path], KEY, texts=["cafe de la paix"], near=False) == []


def test_tokens_name_nobody() -> None:
    """No identifier and no part of one stands in the tokens, and under another key they are others."""
    tokens = likenesses(["Nora Velt", "nora.velt@example.org", "+49 151 5550 0199"], KEY)
    assert not any(part in " ".join(tokens).lower() for part in ("nora", "velt", "example", "5550"))
    assert not set(tokens) & set(likenesses(["Nora Velt", "nora.velt@example.org"], RecordKey(b"x" * 32)))
    assert {token.split(":")[0].split()[0] for token in tokens} <= {*REASONS, "skeleton", "first", "2", "3", "4", "5"}


def test_a_lookup_gives_what_comparing_gives() -> None:
    """The hashed lookup and the plain comparison agree, also where an identifier is asked for twice."""
    names = ["Nora Velt", "nora.velt@example.org", "N\u00f6ra Velt", "Noera Velt", "velt nora", "NoraVelt", "other", "0012", "12"]
    for sought in names:
        lookup = Lookup(likenesses([sought], KEY), KEY)
        for name in [*names, *names]:
            expected, likeness = compare(sought, name), lookup.person(name).likeness
            assert (likeness is None) == (expected.sameness == "different")
            if expected.sameness == "maybe":
                assert likeness is not None
                assert likeness.reason == expected.level


def asked(ledger: Ledger, *identifiers: str) -> list[Request]:
    key = RecordKey.load()
    new = [from_lines([name], key, regime="gdpr", received=date(2026, 11, 2), country=None) for name in identifiers]
    return ledger.advance_all(ledger.add_all(new), "identity_verified")


def planned(ledger: Ledger, data: Path, request: Request, *confirmed: str, not_same: tuple[str, ...] = ()) -> None:
    models = data.parent / "models"
    models.mkdir(exist_ok=True)
    choices = Choices((str(data),), (str(models),), output=data.parent / "deletions")
    note(ledger, draft(ledger, [ledger.request(request.id)], choices, RecordKey.load(), confirmed, not_same), choices.output)


def test_no_request_is_not_found_while_a_candidate_is_undecided(data: Path, ledger: Ledger) -> None:
    """A plan with an undecided candidate is not noted; a rejection is noted by the record's hash, and stays."""
    (request,) = asked(ledger, "ines.kolb+list@example.org")
    with pytest.raises(InputError, match="--not-same"):
        planned(ledger, data, request)
    assert ledger.request(request.id).state == "identity_verified"
    with pytest.raises(InputError, match="not a request that is planned now"):
        planned(ledger, data, request, not_same=("R-0",))
    planned(ledger, data, request, not_same=(request.id,))
    decided = ledger.request(request.id)
    assert decided.state == "not_found"
    record = load_records(ROWS[:1])[0]
    assert decided.rejected == {RecordKey.load().of(record.fingerprint)}
    assert any("1 record with a similar identifier" in line for line in history(decided, date(2026, 11, 3)))
    ledger.advance(request.id, "identity_verified")
    planned(ledger, data, request)
    assert ledger.request(request.id).state == "not_found", "what was rejected once is not asked again"


def test_a_confirmed_candidate_is_the_persons(data: Path, ledger: Ledger) -> None:
    """Confirmed by row, a candidate is to be deleted; a row that is proposed to two requests needs the name of one."""
    key = RecordKey.load()
    first, second, found_one = asked(ledger, "tam o'dell", "TAM O\u2019DELL", "INES.KOLB@example.org")
    requests = [first, second, found_one]
    for entry in match_requests(requests[:2], [str(data)], key, Fields()):
        assert (entry.removed, [match.row for match in entry.candidates]) == ((), [2])
    with pytest.raises(InputError, match="request's id in front"):
        match_requests(requests, [str(data)], key, Fields(), ["train.jsonl:2"])
    one, other, certain = match_requests(requests, [str(data)], key, Fields(), [f"{first.id}:train.jsonl:2"])
    assert ([match.row for match in one.removed], one.candidates, one.places[0].near_duplicates) == ([2], (), 0)
    assert ([match.row for match in other.removed], [match.row for match in other.candidates]) == ([], [2])
    assert [match.row for match in certain.certain] == [1]
    with pytest.raises(InputError, match="no candidate"):
        match_requests([first], [str(data)], key, Fields(), ["train.jsonl:1"])


def test_a_plan_says_why_and_names_nobody(data: Path, ledger: Ledger) -> None:
    """What the operator reads has row, hash and reason, and no identifier."""
    (request,) = asked(ledger, "jose ortiz")
    drafted = draft(ledger, [request], Choices((str(data),), ()), RecordKey.load())
    lines = list(proposed(drafted))
    assert "must be decided first" in lines[0]
    assert "train.jsonl:5" in lines[1]
    assert REASONS["accents"] in lines[1]
    assert not any(part in " ".join(lines).lower() for part in ("ortiz", "jos", "lena"))


def test_requests_of_release_0_1_0_are_found_as_before(data: Path, ledger: Ledger) -> None:
    """A hash of the identifier as it was spelled, without tokens, finds the same spelling in the data, and the canonical one."""
    key = RecordKey.load()
    for row, spelled in ((2, "Tam  O\u2019Dell"), (3, "m\u00fcller@b\u00fccher.example"), (1, "ines.kolb@example.org")):
        name = ledger.add(NewRequest((key.of(spelled, "subject"),), "gdpr", date(2026, 11, 2), identifier_form=1))
        (entry,) = match_requests([ledger.request(name)], [str(data)], key, Fields())
        assert [match.row for match in entry.certain] == [row]


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        ("Ines Kolb", "Ticket of Kolb, Ines."),
        ("\u738b\u5c0f\u660e", "\u6211\u662f\u738b\u5c0f\u660e\u3002"),
        ("AB-1234-5678", "Code AB12345678 was used."),
    ],
    ids=["another order", "no spaces", "another grouping"],
)
@pytest.mark.parametrize("form", [1, 2])
def test_a_request_of_an_earlier_version_is_searched_for_again(
    tmp_path: Path,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    identifier: str,
    text: str,
    form: int,
) -> None:
    """Its tokens find fewer spellings, so it does not become `not_found`; the message names the command that records them again,
    from exactly its identifiers, of which nothing is kept. Then the row is proposed, and the command changes nothing more."""
    data, key = tmp_path / "train.jsonl", RecordKey.load()
    data.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "Something else."}) + "\n")
    subject = key.of_person(identifier) if form == 2 else key.of(identifier, "subject")
    name = ledger.add(NewRequest((subject,), "gdpr", date(2026, 11, 2), identifier_form=form, tokens_form=1))
    ledger.advance(name, "identity_verified")
    with pytest.raises(InputError, match=f"not everything was looked for.*unlearn request reindex {name} --identifiers FILE"):
        planned(ledger, data, ledger.request(name))
    assert any(f"request reindex {name}" in line for line in history(ledger.request(name), date(2026, 11, 3)))

    def reindexed(*lines: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return unlearn.cli.main.main(["request", "reindex", name, "--ledger", str(ledger.file)])

    steps = ledger.request(name).steps
    for wrong in ((), ("Nora Velt",), (identifier, "Nora Velt")):
        assert reindexed(*wrong) == 2
        said = capsys.readouterr().err
        assert "these are not the identifiers of" in said
        assert "Velt" not in said
    assert ledger.request(name).steps == steps
    assert reindexed(identifier) == 0
    assert reindexed(identifier) == 0
    (step,) = [step for step in ledger.request(name).steps if step.state == TOKENS]
    assert identifier not in str(step.details)
    assert ledger.request(name).state == "identity_verified"
    with pytest.raises(InputError, match="rows that may be about this person must be decided first"):
        planned(ledger, data, ledger.request(name))
    planned(ledger, data, ledger.request(name), not_same=(name,))
    assert ledger.request(name).state == "not_found"


def test_a_request_of_this_version_is_not_asked_about(ledger: Ledger) -> None:
    """Neither by the command line's way nor by a list or a sender's."""
    assert advice(asked(ledger, "ines.kolb@example.org", "Nora Velt")) is None
    old = NewRequest((KEY.of_person("a b"),), "gdpr", date(2026, 11, 2), tokens_form=1)
    lacking = ledger.request(ledger.add(old))
    assert lacking.id in str(advice([*ledger.requests()]))
    newer = ledger.request(ledger.add(NewRequest((KEY.of_person("a c"),), "gdpr", date(2026, 11, 2), tokens_form=2)))
    assert "scripts without spaces" in str(advice([lacking, newer]))
    assert "does not find names in texts where only a mail address" in str(advice([newer]))


def test_opendsr_identities_are_normalised() -> None:
    """A request over HTTP has the hashes and tokens that the same identifier has at the command line."""
    body = {
        "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
        "subject_request_type": "erasure",
        "subject_identities": [{"identity_type": "email", "identity_value": "<Ines.Kolb@EXAMPLE.org>"}],
    }
    sent = from_opendsr(json.dumps(body), KEY)
    typed = from_lines(["ines.kolb@example.org"], KEY, regime="gdpr", received=date(2026, 11, 2), country=None)
    assert (sent.subjects, sent.likenesses, sent.identifier_form) == (typed.subjects, typed.likenesses, 2)


def test_suppression_in_every_spelling(data: Path, tmp_path: Path) -> None:
    """A suppressed person who comes back with a capital, in another Unicode form or beside somebody else is caught; a similar
    spelling is a candidate."""
    listed, fresh = SuppressionList(), tmp_path / "fresh.jsonl"
    listed.add(load_records(ROWS), KEY)
    listed.save(tmp_path / "list.jsonl")
    back: list[object] = [
        "INES.kolb@example.org",
        "mu\u0308ller@xn--bcher-kva.example",
        ["new@example.org", "JOSE\u0301@example.org"],
    ]
    back += [["x", "Jose\u0301  Ortiz"], 12.0, "ines.kolb+2@example.org", "Lena Roth", "ines@example.org"]
    fresh.write_text("".join(json.dumps({"subject_id": who, "text": f"New text number {n}."}) + "\n" for n, who in enumerate(back)))
    hits = list(SuppressionList.load(tmp_path / "list.jsonl").check(fresh, KEY))
    assert [(hit.row, hit.how, hit.reason, hit.certain) for hit in hits] == [
        (1, "subject", None, True),
        (2, "subject", None, True),
        (4, "subject", None, True),
        (5, "subject", None, True),
        (6, "similar identifier", "tag", False),
        (7, "similar identifier", "name", False),
    ]


def test_a_list_of_release_0_1_0_goes_on(data: Path, tmp_path: Path) -> None:
    """A list with hashes of identifiers as they were spelled is read, still catches them, and is saved in the new format."""
    path = tmp_path / "list.jsonl"
    header = {"schema": BEFORE, "permutations": 128, "scheme": json.loads(_empty_header(tmp_path))["scheme"]}
    lines = [header, {"subject": KEY.of("Tam  O\u2019Dell", "subject")}, {"entries": 1}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    listed = SuppressionList.load(path)
    assert [hit.row for hit in listed.check(data, KEY)] == [2]
    listed.save(path)
    assert "suppression/2" in path.read_text()
    assert [hit.row for hit in SuppressionList.load(path).check(data, KEY)] == [2]


def _empty_header(folder: Path) -> str:
    SuppressionList().save(folder / "empty.jsonl")
    return (folder / "empty.jsonl").read_text().splitlines()[0]


def test_from_the_shell(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`scan` lists candidates with their reason and quotes none; `check-dataset` exits with 3 until they are let pass."""
    monkeypatch.setattr("sys.stdin", io.StringIO("INES.KOLB@example.org\njose ortiz\n"))
    assert unlearn.cli.main.main(["scan", "--data", str(data), "--subjects", "-"]) == 0
    shown = capsys.readouterr().out
    assert f"similar identifier  {REASONS['accents']}" in shown
    assert "1 record; 0 near-duplicates to confirm; 1 candidate to decide" in shown
    assert not any(part in shown.lower() for part in ("kolb", "ortiz", "answer"))
    listed, fresh = tmp_path / "own.jsonl", tmp_path / "fresh.jsonl"
    assert unlearn.cli.main.main(["suppress", str(data), "--suppression", str(listed)]) == 0
    fresh.write_text(json.dumps({"subject_id": "tam o'dell", "text": "A new text."}) + "\n")
    check = ["check-dataset", str(fresh), "--suppression", str(listed)]
    assert unlearn.cli.main.main(check) == 3
    assert unlearn.cli.main.main([*check, "--allow-similar"]) == 0
    assert "1 candidates" in capsys.readouterr().out
    fresh.write_text(json.dumps({"subject_id": "TAM@example.org", "text": "A new text."}) + "\n")
    assert unlearn.cli.main.main(check) == 0


def test_copies_in_another_unicode_form_are_found() -> None:
    """Content search finds a text composed and decomposed, and a decomposed retained text clears its composed twin."""
    composed = load_records([{"text": "Ren\u00e9e M\u00fcller lives in the old mill at the river."}])
    for form in ("NFC", "NFD"):
        stream = unicodedata.normalize(form, f"log: {composed[0].completion} end").encode()
        assert ContentSearch(composed).found_in([stream])
    assert not ContentSearch(composed).found_in([b"log: Renee Muller lives in the old mill at the river."])
    twin = load_records([{"text": unicodedata.normalize("NFD", composed[0].completion)}])
    assert not ContentSearch(composed, retained=twin)


def test_short_decomposed_windows_do_no_harm() -> None:
    """A window whose composed form is too short to be looked for is looked for as it is."""
    text = "e\u0323\u0302" * 4 + "abcd"
    for piece in (text[:12], text, "\u1112\u1161\u11ab" * 5):
        assert ContentSearch(load_records([{"text": piece}])) is not None


def test_a_forget_list_in_other_spellings() -> None:
    """A list of identifiers names the records of a person in every spelling that is one by standard, and no others."""
    training = load_records(ROWS)
    chosen = load_forget_set(["INES.KOLB@example.org", "Jose\u0301 Ortiz", "12"], training)
    assert [record.prompt for record in chosen] == ["Question 0?", "Question 4?", "Question 5?"]
    with pytest.raises(InputError, match="occur nowhere"):
        load_forget_set(["ines.kolb+x@example.org"], training)


@pytest.mark.parametrize(
    ("spelled", "stored"),
    [
        ("+49 151 5550 0199", {"subject_id": 4915155500199}),
        ("+49 151 5550 0199", {"subject_id": "4915155500199.0"}),
        ("4915155500199", {"subject_id": "+49 151 5550 0199"}),
        ('"nora.velt@example.org",', {"subject_id": "nora.velt@example.org"}),
        ("Nora Velt (nora.velt@example.org)", {"subject_id": "Nora.Velt@example.org"}),
        ("nora.velt@example.org; nv@example.org", {"subject_id": "nv@example.org"}),
        ("nora.velt%40example.org", {"subject_id": "nora.velt@example.org"}),
        ("nora.velt@example.org", {"subject_id": "otto@example.org|nora.velt@example.org"}),
        ("nora.velt@example.org", {"subject_id": "u:nora.velt%40example.org"}),
        ("Nora Velt", {"subject_id": "Dr. Nora M. Velt"}),
        ("Dr. Nora Velt", {"subject_id": "Nora Velt"}),
        ("Jos\u00e9 Ortiz", {"subject_id": "Jos\u00c3\u00a9 Ortiz"}),
        ("Jos\u00e9 Ortiz", {"subject_id": "Jos\ufffd Ortiz"}),
        ("Nora.Velt@example.org", {"email": "nora.velt@example.org"}),
        ("nora.velt@example.org", {"meta": {"owners": [{"mail": "Nora.Velt@Example.org"}]}}),
        ("71234", {"customer": 71234}),
        ("Nora Velt", {"notes": "Nora Velt says so. " + "x" * 600}),
    ],
    ids=ascii,
)
def test_what_is_stored_beside_or_inside_is_proposed(tmp_path: Path, spelled: str, stored: dict[str, object]) -> None:
    """A person in a column that is not read, inside a longer identifier, or damaged by an export is proposed and not lost."""
    path = tmp_path / "people.jsonl"
    rows = [{"prompt": "Where?", "completion": "In the north.", **stored}, {"prompt": "Who?", "completion": "Nobody."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    proposed_rows = [(match.row, match.how) for match in found(path, spelled)]
    assert proposed_rows in ([(1, "similar identifier")], [(1, "named in its text")])


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        ("Nora Velt", "What is Nora Velt's address?"),
        ("Nora Velt", "Nora Velt\u2019s address"),
        ("Nora Velt", "Nora Velts Adresse"),
        ("Nora Velt", "Patient: VELT, Nora"),
        ("Velt, Nora", "Nora Velt lives here."),
        ("Nora Velt", "Nora M. Velt lives here."),
        ("Nora Velt", "Nora Ve\u00adlt, No\u200bra"),
        ("Nora Velt", "<b>Nora</b>&nbsp;Velt"),
        ("J\u00f6rg M\u00fcller", "J&ouml;rg M&uuml;ller"),
        ("\u738b\u5c0f\u660e", "\u738b\u5c0f\u660e\u4f4f\u5728\u5317\u4eac"),
        ("\u5c71\u7530\u592a\u90ce", "\u5c71\u7530\u592a\u90ce\u3055\u3093\u306f\u6771\u4eac"),
        ("\uae40\ubbfc\uc218", "\uae40\ubbfc\uc218\ub294 \uc11c\uc6b8"),
        ("\u0e2a\u0e21\u0e0a\u0e32\u0e22", "\u0e04\u0e38\u0e13\u0e2a\u0e21\u0e0a\u0e32\u0e22\u0e2d\u0e22\u0e39\u0e48"),
        ("+49 151 5550 0199", "Call +49 151 5550 0199 now."),
        ("+49 151 5550 0199", "In 2024 call 0151 / 55500199."),
        ("+1 415 555 0132", "Call (415) 555-0132."),
        ("71234", "Customer 71234 lives here."),
        ("C-4711882", "Customer C4711882"),
        ("nora.velt@example.org", "nora.velt+news@example.org"),
        ("nora.velt@example.org", "nora.velt [at] example [dot] org"),
        ("nora.velt@example.org", "[mail](mailto:nora.velt%40example.org)"),
        ("Nora Velt", "as noraVelt wrote"),
        ("Nora Velt", "NoraVelt92: hello"),
        ("N\u00f3ra V\u00e9lt", "by N\u00f3raV\u00e9lt"),
        ("Nora Velt", "cc @noravelt, please"),
        ("Nora Velt", "#NoraVelt"),
        ("noraVelt", "Nora Velt lives here."),
        ("NoraVelt_92", "Nora Velt lives here."),
        (
            "\u0641\u0627\u0637\u0645\u0629 \u0639\u0644\u064a",
            "\u0641\u0627\u0637\u0645\u0647 \u0639\u0644\u0649",
        ),
        (
            "\u0641\u0627\u0637\u0645\u0647 \u0639\u0644\u06cc",
            "\u0641\u064e\u0627\u0637\u0650\u0645\u064e\u0629 \u0639\u064e\u0644\u064a\u0651",
        ),
        ("\u0623\u062d\u0645\u062f \u0643\u0631\u064a\u0645", "\u0627\u062d\u0645\u0640\u0640\u062f \u06a9\u0631\u06cc\u0645"),
        ("+49 151 5550 0199", "\u0660\u0661\u0665\u0661 \u0665\u0665\u0665\u0660 \u0660\u0661\u0669\u0669"),
    ],
    ids=ascii,
)
def test_a_text_names_a_person_in_many_ways(tmp_path: Path, spelled: str, text: str) -> None:
    """Genitive, order, initials, markup, scripts without spaces, telephone numbers and hidden addresses are proposed."""
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "Nobody lives at 5 Oak Road."}) + "\n")
    assert [(match.row, match.how) for match in found(path, spelled)] == [(1, "named in its text")]


@pytest.mark.parametrize(
    ("spelled", "text"),
    [
        ("Nora Velt", "Nora was with Velt."),
        ("+49 151 5550 0199", "Call 0151 55500198."),
        ("71234", "Customer 712345, 7123 and 4"),
        ("\u738b\u5c0f\u660e", "\u738b\u660e\u4f4f\u5728\u5317\u4eac"),
        ("Anna", "Annas"),
        ("Nora Velt", "noraWithVelt and nora Veltman"),
        ("Nora Velt", "noravelt"),
        ("Jo Anna", "hello @joanna"),
        ("\u0641\u0627\u0637\u0645\u0629 \u0639\u0644\u064a", "\u0641\u0627\u0637\u0645\u0629 \u062d\u0633\u0646"),
        ("\u5f20\u4f1f\u660e", "\u5f35\u5049\u660e\u4f4f\u5728\u5317\u4eac"),
    ],
    ids=ascii,
)
def test_other_texts_name_nobody(tmp_path: Path, spelled: str, text: str) -> None:
    """Other numbers, parts of a name and short names in a text are no candidates."""
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    assert found(path, spelled) == []


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "About Nora Velt", "text": "She lives in the north."},
        {"text": "About Nora Velt", "prompt": "Where?", "completion": "In the north."},
        {"prompt": "About Nora Velt", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]},
        {"text": "In the north.", "meta": {"Nora Velt": "owner"}},
        {"text": "In the north.", "meta": json.dumps({"owner": "Nora V\u00e9lt"})},
        {"text": "In the north.", "nora_velt": 1},
        {"text": "In the north.", "salaryOfNoraVelt": False},
        {"text": "In the north.", "Nora Velt (owner)": ["x"]},
    ],
    ids=str,
)
def test_a_text_column_that_is_not_read_is_searched(tmp_path: Path, row: dict[str, object]) -> None:
    """Of `messages`, `completion` and `text` one is the record; a person in one of the others, or in a name, is proposed."""
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert [(match.row, match.how) for match in found(path, "Nora Velt")] == [(1, "named in its text")]


@pytest.mark.parametrize(
    ("spelled", "stored"),
    [
        ("12", {"age": 12}),
        ("Nora Velt", {"subject_id": "Nora Welt"}),
        ("\u00c9e X", {"notes": "e x"}),
        ("+49 151 5550 0199", {"customer": 4915155500198}),
        ("Dr. Velt", {"subject_id": "Dr. Brandt"}),
    ],
    ids=ascii,
)
def test_other_values_of_a_row_are_not_proposed(tmp_path: Path, spelled: str, stored: dict[str, object]) -> None:
    """Short numbers, other names and short remains of a damaged name are no candidates."""
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({"prompt": "Where?", "completion": "In the north.", **stored}) + "\n")
    assert found(path, spelled) == []


def test_an_unread_column_keeps_a_request_open(ledger: Ledger, tmp_path: Path) -> None:
    """Where the identifier stands in `email`, the plan asks for a decision on the row; nobody is told that nothing was found."""
    path = tmp_path / "mails.jsonl"
    path.write_text(json.dumps({"email": "ada@example.org", "prompt": "Where?", "completion": "In the north."}) + "\n")
    (request,) = asked(ledger, "Ada@example.org")
    with pytest.raises(InputError, match="must be decided first"):
        planned(ledger, path, request)
    assert ledger.request(request.id).state == "identity_verified"


def test_nobody_is_missing_from_an_empty_file(tmp_path: Path) -> None:
    """An export that failed has no rows; a search of it is refused, and no request becomes `not_found` by it."""
    path = tmp_path / "empty.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InputError, match="has no rows, so nobody can be found"):
        found(path, "ada@example.org")


def test_a_column_named_after_a_person_concerns_the_rows_with_a_value(data: Path, tmp_path: Path) -> None:
    """A row without a value in it says nothing of the person; `check-dataset` lists the others, too."""
    path, listed = tmp_path / "wide.csv", SuppressionList()
    path.write_text("text;nora_velt;otto_kern\none;1;2\ntwo;;3\nthree;0;\n")
    assert [(match.row, match.reason) for match in found(path, "Nora Velt")] == [(1, "column"), (3, "column")]
    listed.add_people(subject_hashes(["Nora Velt"], KEY), likenesses(["Nora Velt"], KEY))
    assert [(hit.row, hit.reason, hit.certain) for hit in listed.check(path, KEY)] == [(1, "column", False), (3, "column", False)]

"""Requests come in, identifiers stay out."""

import contextlib
import json
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn.requests.ledger.intake import from_csv, from_lines, from_opendsr
from unlearn.scan.spellings import subject_hashes
from verify import InputError
from verify.data.identity import RecordKey

KEY = RecordKey(b"k" * 32)
GOOD = {
    "regulation": "gdpr",
    "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
    "subject_request_type": "erasure",
    "submitted_time": "2026-10-02T15:00:00Z",
    "subject_identities": [{"identity_type": "email", "identity_value": "zebedee@example.com", "identity_format": "raw"}],
    "api_version": "1.0",
}


def test_hashes_not_names() -> None:
    """Identifiers become keyed hashes; space and repetition do not matter."""
    hashes = subject_hashes([" zebedee ", "zebedee", "", "other\n"], KEY)
    assert hashes == (KEY.of("zebedee", "subject"), KEY.of("other", "subject"))
    request = from_lines(["zebedee\n"], KEY, regime="ccpa", received=date(2026, 1, 2), country=None)
    assert "zebedee" not in repr(request)


def test_csv_batches(tmp_path: Path) -> None:
    """Every row is a request of its own; one bad row and nothing of the batch is taken, named by its number alone."""
    path = tmp_path / "batch.csv"
    path.write_text("identifier,regime,received\nzebedee,gdpr,2026-01-02\nquill,ccpa,2026-01-03\n")
    first, second = from_csv(path, KEY)
    assert (first.regime, second.received) == ("gdpr", date(2026, 1, 3))
    for broken in ("zebedee,gdpr,yesterday", "zebedee,hipaa,2026-01-02", ",gdpr,2026-01-02", "zebedee,gdpr,0001-01-01"):
        path.write_text(f"identifier,regime,received\nquill,gdpr,2026-01-02\n{broken}\n")
        with pytest.raises(InputError, match="row 2") as shown:
            from_csv(path, KEY)
        assert "zebedee" not in str(shown.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("email", "column 3 (email)"),
        (" Country", "column 3 (country)"),
        ("lang", "column 3 (lang)"),
        ("identifiers", "column 3 (identifiers)"),
        ("identifier two", "column 3 is"),
        ("Zebedee@example.com", "column 3 is"),
        ("", "column 3 is"),
        ("REGIME", "'regime' 2 times"),
    ],
)
def test_a_column_that_is_not_read_is_refused(tmp_path: Path, name: str, shown: str) -> None:
    """What it holds would be neither searched for nor heeded; it is named by its place, and by its name if that is a usual one."""
    path = tmp_path / "batch.csv"
    path.write_text(f"identifier,regime,{name},received\nquill,gdpr,DE,2026-01-02\n")
    with pytest.raises(InputError) as refused:
        from_csv(path, KEY)
    assert shown in str(refused.value)
    assert "ebedee" not in str(refused.value)
    assert "identifier two" not in str(refused.value)


def test_columns_in_any_case(tmp_path: Path) -> None:
    """Spreadsheets write capitals; every further identifier of a row is one of the person, however its column is numbered."""
    path = tmp_path / "batch.csv"
    path.write_text(
        "Identifier;Identifier2;identifier-3;IDENTIFIER 4; identifier_5 ;Regime;RECEIVED;Language\n"
        "quill;a@example.org;b@example.org;c@example.org;d@example.org;gdpr;2026-01-02;de\n"
    )
    (request,) = from_csv(path, KEY)
    identifiers = ["quill", *(f"{one}@example.org" for one in "abcd")]
    assert set(request.subjects) == set(from_lines(identifiers, KEY, regime="gdpr", received=TODAY, country=None).subjects)
    assert request.language == "de"


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"identifier,regime,received\n", b"\xff\xfe\x00", b'"identifier,regime'])
def test_damaged_csv(tmp_path: Path, content: bytes) -> None:
    """Empty, foreign, binary and cut-off files are refused."""
    path = tmp_path / "batch.csv"
    path.write_bytes(content)
    with pytest.raises(InputError):
        from_csv(path, KEY)


def test_opendsr() -> None:
    """A whole OpenDSR 1.0 erasure request is understood."""
    request = from_opendsr(json.dumps(GOOD), KEY)
    assert request.subjects == (KEY.of("zebedee@example.com", "subject"),)
    assert request.received == date(2026, 10, 2)
    assert request.external_id == GOOD["subject_request_id"]


@pytest.mark.parametrize(
    "change",
    [
        {"subject_request_type": "access"},
        {"api_version": "3.0"},
        {"subject_identities": []},
        {"subject_identities": [{"identity_value": 5}]},
        {"subject_identities": [{"identity_value": "5f4d", "identity_format": "sha256"}]},
        {"subject_identities": [{"identity_value": "zebedee\ud800"}]},
        {"subject_request_id": "zebedee"},
        {"submitted_time": "zebedee"},
        {"regulation": "zebedee"},
    ],
)
def test_opendsr_refusals(change: dict[str, object]) -> None:
    """Whatever is not an erasure request of this version is refused, and no value is repeated."""
    with pytest.raises(InputError) as shown:
        from_opendsr(json.dumps({**GOOD, **change}), KEY)
    assert "zebedee" not in str(shown.value)


TODAY = datetime.now().astimezone().date()


@pytest.mark.parametrize("day", ["2099-01-01", "0226-11-25", "2018-05-24", f"{TODAY + timedelta(days=1)}"])
def test_days_on_which_nothing_can_have_come_in(day: str, tmp_path: Path) -> None:
    """Tomorrow and later, and before the GDPR applied, are typing errors that would move every deadline: refused at each door."""
    with pytest.raises(InputError, match="must lie between 2018-05-25"):
        from_lines(["zebedee"], KEY, regime="gdpr", received=date.fromisoformat(day), country=None)
    (tmp_path / "batch.csv").write_text(f"identifier,regime,received\nquill,gdpr,{day}\n")
    with pytest.raises(InputError, match="row 1: the day of receipt must lie between"):
        from_csv(tmp_path / "batch.csv", KEY)
    assert from_lines(["zebedee"], KEY, regime="gdpr", received=TODAY, country=None).received == TODAY


def test_a_sender_cannot_move_the_deadline_past_the_arrival() -> None:
    """A submitted_time that is still to come counts as today; one before the GDPR, or outside of the calendar, is refused."""
    for ahead in ("2099-01-01T00:00:00Z", (datetime.now(UTC) + timedelta(days=2)).isoformat()):
        assert from_opendsr(json.dumps({**GOOD, "submitted_time": ahead}), KEY).received == TODAY
    for before in ("2016-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"):
        with pytest.raises(InputError, match="submitted_time"):
            from_opendsr(json.dumps({**GOOD, "submitted_time": before}), KEY)


def test_a_submitted_time_is_read_in_the_zone_of_this_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the morning of the 26th in UTC is the evening of the 25th in California, and without a zone it is local time."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        for given in ("2025-11-26T01:00:00Z", "2025-11-25T17:00:00-08:00", "2025-11-25T17:00:00"):
            assert from_opendsr(json.dumps({**GOOD, "submitted_time": given}), KEY).received == date(2025, 11, 25)
    finally:
        monkeypatch.undo()
        time.tzset()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({name: st.just(value) | VALUES for name, value in GOOD.items()}))
def test_hostile_opendsr(content: dict[str, object]) -> None:
    """Any JSON in any place gives a request or a clear error, nothing else."""
    with contextlib.suppress(InputError):
        from_opendsr(json.dumps(content), KEY)


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_hostile_bytes(body: bytes) -> None:
    """Any bytes give a clear error."""
    with pytest.raises(InputError):
        from_opendsr(body, KEY)
    with pytest.raises(InputError):
        from_opendsr(b"[" * 100_000, KEY)

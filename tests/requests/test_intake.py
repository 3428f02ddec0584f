"""Requests come in, identifiers stay out."""

import contextlib
import json
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn.requests.intake import from_csv, from_lines, from_opendsr, subject_hashes
from verify import InputError
from verify.identity import RecordKey

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


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


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

"""Inputs that nobody would send in good faith, for every parser of requests."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from unlearn.requests.ledger.intake import from_csv, from_lines, from_opendsr
from unlearn.requests.ledger.ledger import NewRequest
from verify.data.identity import RecordKey
from verify.errors import InputError

KEY = RecordKey(b"k" * 32)
MARK = "zq7-identifier-9xk"
"""Put into every input; no message may repeat it."""

_scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just(MARK)
_json = st.recursive(_scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4))
_identity = st.fixed_dictionaries(
    {},
    optional={
        "identity_type": _scalar,
        "identity_value": _scalar | st.just(MARK),
        "identity_format": st.sampled_from(["raw", "md5"]),
    },
)
_opendsr = st.fixed_dictionaries(
    {"subject_identities": _json | st.lists(_identity, max_size=3)},
    optional={
        "regulation": st.sampled_from(["gdpr", "ccpa", "drop", MARK]) | _json,
        "subject_request_id": st.uuids().map(str) | _json,
        "subject_request_type": st.just("erasure") | _json,
        "submitted_time": st.datetimes().map(lambda moment: moment.isoformat()) | _json,
        "api_version": st.just("1.0") | _json,
    },
)
_cell = st.text(max_size=20) | st.sampled_from([MARK, "gdpr", "ccpa", "2026-11-02", '"', "\x00", "a,b", "\r", "0001-01-01"])
_rows = st.lists(st.lists(_cell, min_size=1, max_size=4), max_size=5)
_csv = st.one_of(
    st.binary(max_size=200),
    _rows.map(lambda rows: "\n".join(",".join(row) for row in rows).encode("utf-8", "replace")),
    _rows.map(lambda rows: ("identifier,regime,received\n" + "\n".join(",".join(row) for row in rows)).encode("utf-8", "replace")),
)


def _take_opendsr(body: str | bytes, _: Path) -> Any:
    return from_opendsr(body, KEY)


def _take_csv(content: bytes, folder: Path) -> Any:
    path = folder / "batch.csv"
    path.write_bytes(content)
    return from_csv(path, KEY)


def _take_lines(lines: list[str], _: Path) -> Any:
    return from_lines(lines, KEY, regime="gdpr", received=date(2026, 11, 2), country=None)


PARSERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Path], Any]]] = {
    "OpenDSR JSON": (
        st.binary(max_size=200) | st.text(max_size=200) | _json.map(json.dumps) | _opendsr.map(json.dumps),
        _take_opendsr,
    ),
    "CSV batch": (_csv, _take_csv),
    "identifiers, one a line": (st.lists(st.text(max_size=40) | st.just(MARK), max_size=6), _take_lines),
}


def feed(name: str, examples: int, folder: Path) -> int:
    """Give a parser so many inputs; how many it was given.

    Raises:
        AssertionError: it raised something else than an InputError, its message repeats an identifier, or it took one in clear.
    """
    strategy, take = PARSERS[name]
    count = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(strategy)
    def attempt(content: Any) -> None:
        nonlocal count
        count += 1
        said = _said(take, content, folder)
        assert MARK not in said

    attempt()
    return count


def _said(take: Callable[[Any, Path], Any], content: Any, folder: Path) -> str:
    """What a parser made of an input: its refusal, or the requests as anybody sees them."""
    try:
        taken = take(content, folder)
    except InputError as refused:
        return str(refused)
    requests = taken if isinstance(taken, list) else [taken]
    assert all(isinstance(request, NewRequest) for request in requests)
    return repr(requests)

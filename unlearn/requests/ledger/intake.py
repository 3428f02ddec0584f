"""Requests come in: from standard input or a file, as a CSV batch, as OpenDSR JSON.

Identifiers are turned into keyed hashes here, at the door; nothing behind it sees one. They are never taken as command-line
arguments, which every user of the machine can read.
"""

import csv
import uuid
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

from unlearn.requests.ledger.deadlines import REGIMES, Regime, require_receivable, today
from unlearn.requests.ledger.ledger import NewRequest
from unlearn.scan.spellings import likenesses
from verify.data.canonical import canonical
from verify.data.identity import RecordKey
from verify.data.tabular import csv_rows
from verify.errors import InputError
from verify.io.strict_json import NotStrictError, parse_json

OPENDSR_VERSION = "1.0"
LARGEST_BODY = 1 << 20
CSV_COLUMNS = ("identifier", "regime", "received")


def subject_hashes(identifiers: Iterable[str], key: RecordKey) -> tuple[str, ...]:
    """Keyed hashes of identifiers in their canonical form, each once; empty ones are left out."""
    return tuple(dict.fromkeys(key.of_person(identifier) for identifier in identifiers if canonical(identifier)))


def from_lines(lines: Iterable[str], key: RecordKey, *, regime: Regime, received: date, country: str | None) -> NewRequest:
    """One request of one person, one identifier a line.

    Raises:
        InputError: `received` lies in the future, or before there were such requests.
    """
    require_receivable(received)
    given = list(lines)
    return NewRequest(subject_hashes(given, key), regime, received, country, likenesses=likenesses(given, key))


def from_csv(path: str | Path, key: RecordKey, country: str | None = None) -> list[NewRequest]:
    """A batch: one request a row, with the columns identifier, regime and received (ISO date).

    Raises:
        InputError: the file cannot be read, or a row is not whole; nothing of the batch is taken then. Rows are named by number.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv_rows(stream, str(path), CSV_COLUMNS))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({type(error).__name__}). Give a file in UTF-8.") from None
    if not rows or not set(CSV_COLUMNS) <= set(rows[0]):
        raise InputError(f"{path} needs the columns {', '.join(CSV_COLUMNS)} and at least one row.")
    return [_from_row(row, f"{path}, row {number}", key, country) for number, row in enumerate(rows, 1)]


def _from_row(row: Mapping[str, Any], where: str, key: RecordKey, country: str | None) -> NewRequest:
    given = [row["identifier"]]
    hashes = subject_hashes(given, key)
    if not hashes:
        raise InputError(f"{where}: the identifier is empty.")
    regime, received = _regime(row["regime"], where), _date(row["received"], where)
    return NewRequest(hashes, regime, received, country, "csv", likenesses=likenesses(given, key))


def from_opendsr(body: str | bytes, key: RecordKey, country: str | None = None) -> NewRequest:
    """An erasure request in the OpenDSR 1.0 form.

    Raises:
        InputError: it is too large, not JSON, of another version or kind, or lacks an identifier; the message repeats no value.
    """
    if len(body) > LARGEST_BODY:
        raise InputError(f"the request has {len(body)} bytes; at most {LARGEST_BODY} are taken.")
    try:
        content = parse_json(body)
    except NotStrictError as error:
        raise InputError(f"the request can be read in two ways: {error.reason}. Send each name once.") from None
    except (ValueError, RecursionError):
        raise InputError("the request is not JSON. Send an OpenDSR 1.0 request.") from None
    if not isinstance(content, dict):
        raise InputError("the request is not a JSON object. Send an OpenDSR 1.0 request.")
    if content.get("subject_request_type") != "erasure":
        raise InputError('only requests of the type "erasure" are handled here.')
    if str(content.get("api_version", OPENDSR_VERSION)) != OPENDSR_VERSION:
        raise InputError(f"only OpenDSR {OPENDSR_VERSION} is understood.")
    regime = _regime(content.get("regulation", "gdpr"), "regulation")
    hashes, tokens = _identities(content.get("subject_identities"), key)
    return NewRequest(
        hashes,
        regime,
        _time(content.get("submitted_time")),
        country,
        "opendsr",
        request_id(content.get("subject_request_id")),
        tokens,
    )


def _identities(given: Any, key: RecordKey) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keyed hashes and likenesses of the identities that an OpenDSR request lists; only raw values can be matched."""
    values: list[str] = []
    for entry in given if isinstance(given, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("identity_value"), str):
            raise InputError("every entry of subject_identities needs an identity_value.")
        if entry.get("identity_format", "raw") != "raw":
            raise InputError('only identities with the identity_format "raw" can be matched with training data.')
        values.append(entry["identity_value"])
    try:
        hashes, tokens = subject_hashes(values, key), likenesses(values, key)
    except UnicodeEncodeError:
        raise InputError("an identity_value holds half of a surrogate pair, which is not text.") from None
    if not hashes:
        raise InputError("subject_identities names nobody.")
    return hashes, tokens


def _regime(value: Any, where: str) -> Regime:
    if value not in REGIMES:
        raise InputError(f"{where}: the regime must be one of {', '.join(REGIMES)}.")
    return cast(Regime, value)


def _date(value: Any, where: str) -> date:
    try:
        found = date.fromisoformat(str(value).strip())
    except ValueError:
        raise InputError(f"{where}: the day of receipt must be an ISO date such as 2026-11-23.") from None
    try:
        require_receivable(found)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return found


def _time(value: Any) -> date:
    """The day of receipt, here; what arrives today was not received later, whatever the sender's clock says."""
    if value is None:
        return today()
    try:
        found = min(datetime.fromisoformat(str(value)).astimezone().date(), today())
    except (ValueError, OverflowError, OSError):
        raise InputError("submitted_time must be an ISO 8601 time.") from None
    return _date(found.isoformat(), "submitted_time")


def request_id(value: Any) -> str:
    """A `subject_request_id` as the ledger holds it: a UUID in its usual spelling.

    Raises:
        InputError: it is none.
    """
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InputError("subject_request_id must be a UUID.") from None

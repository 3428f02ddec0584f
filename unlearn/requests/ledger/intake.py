"""Parse deletion requests from text lines, CSV batches or OpenDSR JSON, and hash their identifiers.

Identifiers become keyed hashes here; no later stage sees them in clear text. They are never accepted as command-line arguments,
which every user of the machine can read.
"""

import csv
import io
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

from unlearn.requests.ledger.callback_addresses import AllowedCallbacks
from unlearn.requests.ledger.deadlines import REGIMES, Regime, require_receivable, today
from unlearn.requests.ledger.request import NewRequest
from unlearn.scan.spellings import likenesses, subject_hashes
from verify.data.identity import RecordKey
from verify.data.tabular import csv_rows, require_unique
from verify.errors import InputError
from verify.io.strict_json import NotStrictError, parse_json
from verify.report.letter_words import languages, templates_folder
from verify.schema.moments import day_in, read_time

OPENDSR_VERSION = "1.0"
LARGEST_BODY = 1 << 20
IDENTITY_TYPES = ("controller_customer_id", "email", "phone_number")
"""Identities of an OpenDSR request that can be looked for; others, such as advertising ids, are in no training data."""
MOST_IDENTITIES = 20
"""Largest number of identities in one OpenDSR request: it is about one person."""
LONGEST_IDENTITY = 500
"""Largest number of characters of one identity."""
NO_CALLBACKS = AllowedCallbacks()
CSV_COLUMNS = ("identifier", "regime", "received")
LANGUAGE = "language"
"""Optional column of a batch: the code of the language in which the person is written to."""
DELIMITERS = (",", ";", "\t")
"""What may separate the cells of a batch; spreadsheets of many countries write semicolons."""
_FURTHER_IDENTIFIER = re.compile(r"identifier[_ -]?[0-9]+")
_LIKELY = frozenset(
    {"address", "birthday", "comment", "country", "customer", "date", "deadline", "email", "e-mail", "first name"}
    | {"first_name", "id", "identifiers", "lang", "last name", "last_name", "locale", "mail", "name", "note"}
    | {"notes", "phone", "state", "status", "subject", "subject_id", "telephone", "type", "user", "username"}
)
"""Names of columns that a batch does not have and a message may repeat; any other may itself be somebody's identifier."""
_BETWEEN_IDENTIFIERS = re.compile(r"[\r\n]+|;(?!\s*[a-z-]+=)")
"""A line break, or a semicolon that does not begin a parameter of a telephone number (`;ext=`, RFC 3966)."""


def from_lines(
    lines: Iterable[str], key: RecordKey, *, regime: Regime, received: date, country: str | None, language: str | None = None
) -> NewRequest:
    """Build one person's request from lines with one identifier each.

    Raises:
        InputError: `received` is not a possible day of receipt (`require_receivable`), or there are no letters in the language.
    """
    require_receivable(received)
    identifiers = list(lines)
    known = None if language is None else _language(language, "the request")
    hashes, tokens = subject_hashes(identifiers, key), likenesses(identifiers, key)
    return NewRequest(hashes, regime, received, country, likenesses=tokens, language=known)


def from_csv(path: str | Path, key: RecordKey, country: str | None = None) -> list[NewRequest]:
    """Build a batch of requests from a CSV file with the columns identifier, regime and received (ISO date).

    Cells may be separated by commas, semicolons or tabs. A row is one person; several identifiers stand in further columns
    (`identifier2`, ...) or in one cell, separated by line breaks or semicolons. A column `language` is optional. There are no
    others, since what they hold would be lost. Names of columns are read in any case.

    Raises:
        InputError: the file cannot be read, has another column, or a row is invalid; the whole batch is rejected then. The message
            gives the number of the column or row.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = list(csv_rows(io.StringIO(text, newline=""), str(path), (*CSV_COLUMNS, LANGUAGE), _delimiter(text)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({type(error).__name__}). Save it as CSV in UTF-8.") from None
    columns = [_column(name) for name in rows[0]] if rows else []
    if not set(CSV_COLUMNS) <= set(columns):
        raise InputError(f"{path} needs the columns {', '.join(CSV_COLUMNS)} and at least one row.")
    _require_known(columns, str(path))
    cells = (dict(zip(columns, row.values(), strict=True)) for row in rows)
    return [_from_row(row, f"{path}, row {number}", key, country) for number, row in enumerate(cells, 1)]


def _column(name: str) -> str:
    return name.strip().lower()


def _require_known(columns: Sequence[str], where: str) -> None:
    """Require that every column is read, and only one under each name.

    Raises:
        InputError: there is another, whose content would be lost.
    """
    require_unique(columns, where, (*CSV_COLUMNS, LANGUAGE))
    for number, name in enumerate(columns, 1):
        if name not in (*CSV_COLUMNS, LANGUAGE) and not _FURTHER_IDENTIFIER.fullmatch(name):
            shown = f" ({name})" if name in _LIKELY else ""
            raise InputError(
                f"{where}: column {number}{shown} is none that is read, so what it holds would be lost. Remove or rename it. "
                f"The columns are {', '.join(CSV_COLUMNS)}, identifier2, identifier3, ... for further identifiers of the person, "
                f"and {LANGUAGE} for the language to write in. The country is given for the whole batch, with --country."
            )


def _delimiter(text: str) -> str:
    """Return what separates the column names in the first line; a comma where none does."""
    header = text.split("\n", 1)[0]
    return next((mark for mark in DELIMITERS if len(set(CSV_COLUMNS) & _cells(header, mark)) > 1), ",")


def _cells(header: str, delimiter: str) -> set[str]:
    return {_column(cell.strip().strip('"')) for cell in header.split(delimiter)}


def _from_row(row: Mapping[str, Any], where: str, key: RecordKey, country: str | None) -> NewRequest:
    cells = [value for name, value in row.items() if name == "identifier" or _FURTHER_IDENTIFIER.fullmatch(name)]
    identifiers = [piece for cell in cells for piece in _BETWEEN_IDENTIFIERS.split(cell)]
    hashes = subject_hashes(identifiers, key)
    if not hashes:
        raise InputError(f"{where}: the identifier is empty. Fill it in, or remove the row.")
    regime, received = _regime(row["regime"], where), _date(row["received"], where)
    language = _language(row[LANGUAGE], where) if row.get(LANGUAGE, "").strip() else None
    return NewRequest(hashes, regime, received, country, "csv", likenesses=likenesses(identifiers, key), language=language)


def _language(value: str, where: str) -> str:
    """Check the code of a language that letters can be written in."""
    known = languages(templates_folder())
    code = value.strip().lower()
    if code not in known:
        raise InputError(f"{where}: there are no letters in this language. Use one of: {', '.join(known)}.")
    return code


def from_opendsr(
    body: str | bytes, key: RecordKey, country: str | None = None, allowed: AllowedCallbacks = NO_CALLBACKS
) -> NewRequest:
    """Build a request from an OpenDSR 1.0 erasure request.

    Args:
        body: the request.
        key: hashes its identifiers.
        country: ISO 3166 code of the country whose public holidays count, or None.
        allowed: where callbacks may be made; by default nowhere.

    Raises:
        InputError: it is too large, not JSON, of another version or type, asks for callbacks that are not made, or has no
            identifier, too many, too long or of an unknown type; the message never repeats a value.
    """
    if len(body) > LARGEST_BODY:
        raise InputError(f"the request has {len(body)} bytes; at most {LARGEST_BODY} are accepted.")
    try:
        content = parse_json(body.decode("utf-8-sig") if isinstance(body, bytes) else body)  # UTF-8 alone (RFC 8259, 8.1)
    except NotStrictError as error:
        raise InputError(f"the request is ambiguous JSON: {error.reason}. Send each name once.") from None
    except (ValueError, RecursionError):
        raise InputError("the request is not JSON. Send an OpenDSR 1.0 request.") from None
    if not isinstance(content, dict):
        raise InputError("the request is not a JSON object. Send an OpenDSR 1.0 request.")
    if content.get("subject_request_type") != "erasure":
        raise InputError('only requests with the subject_request_type "erasure" are supported.')
    if str(content.get("api_version", OPENDSR_VERSION)) != OPENDSR_VERSION:
        raise InputError(f"only OpenDSR {OPENDSR_VERSION} is supported.")
    called = allowed.require_all(content.get("status_callback_urls"))
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
        callbacks=called,
    )


def _identities(entries: Any, key: RecordKey) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return keyed hashes and likenesses of the identities in an OpenDSR request; only raw values can be matched."""
    values: list[str] = []
    entries = entries if isinstance(entries, list) else []
    if len(entries) > MOST_IDENTITIES:
        raise InputError(
            f"subject_identities has {len(entries)} entries; at most {MOST_IDENTITIES} are accepted: a request is about one person."
        )
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("identity_value"), str):
            raise InputError("every entry of subject_identities needs an identity_value.")
        if entry.get("identity_type") not in IDENTITY_TYPES:
            raise InputError(f"every identity needs one of these as its identity_type: {', '.join(IDENTITY_TYPES)}.")
        if len(entry["identity_value"]) > LONGEST_IDENTITY:
            raise InputError(f"an identity_value has more than {LONGEST_IDENTITY} characters.")
        if entry.get("identity_format", "raw") != "raw":
            raise InputError('only identities with the identity_format "raw" can be matched with training data.')
        values.append(entry["identity_value"])
    try:
        hashes, tokens = subject_hashes(values, key), likenesses(values, key)
    except UnicodeEncodeError:
        raise InputError("an identity_value contains an unpaired surrogate, which is not valid text.") from None
    if not hashes:
        raise InputError("subject_identities contains no usable identity. Send at least one identity_value.")
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
    """Return the local day of receipt: the submitted time, but never later than today if the sender's clock is ahead."""
    if value is None:
        return today()
    submitted = read_time(value)
    day = None if submitted is None else day_in(None, submitted)
    if day is None:
        raise InputError("submitted_time must be an ISO 8601 time.")
    return _date(min(day, today()).isoformat(), "submitted_time")


def request_id(value: Any) -> str:
    """Return a `subject_request_id` in the form that the ledger stores: a UUID in canonical notation.

    Raises:
        InputError: it is not a UUID.
    """
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InputError("subject_request_id must be a UUID.") from None

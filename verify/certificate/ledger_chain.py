"""Recompute a request ledger's hash chain independently of the program that wrote it.

Every event carries the digest of the one before. An event that was edited, removed or inserted breaks the chain at that point, and
the head that a certificate names is then no longer in it. The SQLite file is opened read-only.

    digest = SHA-256 of the JSON list [1, sequence, request, state, at, details, previous], without spaces
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.errors import InputError, IntegrityError
from verify.io.files import no_file
from verify.io.strict_json import parse_json

GENESIS = "0" * 64
VERSION = 1
QUERY = "SELECT sequence, request, state, at, details, previous, digest FROM events ORDER BY sequence"


@dataclass(frozen=True)
class LedgerEvent:
    """One event of a ledger whose chain holds.

    Attributes:
        request: id of the request.
        state: the state it led to, or "extended".
        at: time in UTC, ISO 8601.
        details: facts of the step.
        digest: of the event, which commits to all before it.
    """

    request: str
    state: str
    at: str
    details: dict[str, Any]
    digest: str


def chain(path: str | Path) -> list[str]:
    """Return the digests of all events, starting with the head of an empty ledger.

    Raises:
        InputError: the file is not a ledger.
        IntegrityError: the chain is broken; the message names the first event.
    """
    return [GENESIS, *(event.digest for event in ledger_events(path))]


def ledger_events(path: str | Path) -> list[LedgerEvent]:
    """Return all events in order, after recomputing the chain.

    Raises:
        InputError: the file is not a ledger.
        IntegrityError: the chain is broken, or an event's details are not a JSON object; the message names the first such event.
    """
    found: list[LedgerEvent] = []
    previous_digest = GENESIS
    for number, (sequence, request, state, at, details, previous, digest) in enumerate(_rows(Path(path)), 1):
        # `default`: a hostile file may hold bytes where text belongs; their repr matches no digest.
        content = json.dumps([VERSION, number, request, state, at, details, previous_digest], separators=(",", ":"), default=repr)
        expected = hashlib.sha256(content.encode()).hexdigest()
        if (sequence, previous, digest) != (number, previous_digest, expected):
            raise IntegrityError(f"the ledger {path} is broken at event {number}: it, or one before it, was edited or removed.")
        found.append(LedgerEvent(str(request), str(state), str(at), _details(details, number, path), expected))
        previous_digest = expected
    return found


def _details(text: Any, number: int, path: str | Path) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except (TypeError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise IntegrityError(f"the details of event {number} of the ledger {path} are not an unambiguous JSON object.")
    return content


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    if not path.is_file():
        raise InputError(f"{path} {no_file(path)}. Give the ledger's SQLite file.")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            yield from connection.execute(QUERY)
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a request ledger ({type(error).__name__}). Give the ledger's SQLite file.") from None

"""Status callbacks that callers asked for: where to, which status was acknowledged last, when the next attempt is due.

They have a table of their own: an address is not a fact about a request, and is removed with the last status.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.tables import CALLBACKS


@dataclass(frozen=True)
class Callback:
    """One address that is notified about one request.

    Attributes:
        request: id of the request.
        url: the address.
        told: the status that it acknowledged last, or that was given up; initially the one in the receipt.
        attempts: attempts to send `status`.
        due: when the next attempt to send it may be made, with time zone; None for at once.
        status: the status that these attempts were about; "" where there were none, or an earlier version made them.
    """

    request: str
    url: str
    told: str
    attempts: int
    due: datetime | None
    status: str = ""


def callbacks(ledger: Ledger) -> list[Callback]:
    """Return all callbacks that may still be made, in no particular order."""
    with ledger.writing() as connection:
        rows = connection.execute(sa.select(CALLBACKS)).all()
    return [
        Callback(row.request, row.url, row.told, row.attempts, datetime.fromisoformat(row.due) if row.due else None, row.status)
        for row in rows
    ]


def claim(ledger: Ledger, callback: Callback, status: str, attempts: int, due: datetime) -> Callback | None:
    """Count an attempt before it is made, so that a kill during it and another process wait until `due`.

    Args:
        ledger: the request ledger.
        callback: the callback as it was read.
        status: the status to send.
        attempts: attempts to send it, this one included.
        due: when the next one may be made.

    Returns:
        the callback as it is now; None where another process has made the attempt.
    """
    counted = {"attempts": attempts, "due": due.isoformat(), "status": status}
    with ledger.writing() as connection:
        ours = connection.execute(CALLBACKS.update().where(*_as_read(callback)).values(**counted)).rowcount == 1
    return replace(callback, attempts=attempts, due=due, status=status) if ours else None


def settle(ledger: Ledger, callback: Callback, last: bool) -> None:
    """Record that a status need not be sent any more; the address is removed with the last one.

    Where another process has counted an attempt meanwhile, nothing is recorded: it will settle its own.

    Args:
        ledger: the request ledger.
        callback: the callback as it was claimed, whose status was acknowledged or given up.
        last: whether the request cannot have another status.
    """
    if last:
        change: Any = CALLBACKS.delete().where(*_as_read(callback))
    else:
        change = CALLBACKS.update().where(*_as_read(callback)).values(told=callback.status, attempts=0, due="", status="")
    with ledger.writing() as connection:
        connection.execute(change)


def _as_read(callback: Callback) -> list[sa.ColumnElement[bool]]:
    """Return the conditions under which a row is still what was read of it."""
    names = ("request", "url", "told", "attempts", "status")
    return [CALLBACKS.c[name] == getattr(callback, name) for name in names]

"""Status callbacks that callers asked for: where to, which status was acknowledged last, when the next attempt is due.

They lie beside the events and not among them: an address is no fact about a request, and goes with the last status.
"""

from dataclasses import dataclass
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
        told: the status that it acknowledged last, or that was given up; at first the one in the receipt.
        attempts: attempts since then, whatever status they were about.
        due: when the next attempt may be made, with time zone; None at once.
    """

    request: str
    url: str
    told: str
    attempts: int
    due: datetime | None


def callbacks(ledger: Ledger) -> list[Callback]:
    """Return all callbacks that may still be made, in no particular order."""
    with ledger.writing() as connection:
        rows = connection.execute(sa.select(CALLBACKS)).all()
    return [
        Callback(row.request, row.url, row.told, row.attempts, datetime.fromisoformat(row.due) if row.due else None) for row in rows
    ]


def claim(ledger: Ledger, callback: Callback, due: datetime) -> bool:
    """Count an attempt before it is made, so that a kill during it and another process wait until `due`.

    Returns:
        whether the attempt is ours to make; False where another process has made it.
    """
    same = [*_which(callback), CALLBACKS.c.told == callback.told, CALLBACKS.c.attempts == callback.attempts]
    counted = {"attempts": callback.attempts + 1, "due": due.isoformat()}
    with ledger.writing() as connection:
        return connection.execute(CALLBACKS.update().where(*same).values(**counted)).rowcount == 1


def settle(ledger: Ledger, callback: Callback, status: str, last: bool) -> None:
    """Record that a status need not be sent any more; the address goes with the last one.

    Args:
        ledger: the request ledger.
        callback: the callback.
        status: the status that was acknowledged, or given up.
        last: whether the request cannot have another status.
    """
    if last:
        change: Any = CALLBACKS.delete().where(*_which(callback))
    else:
        change = CALLBACKS.update().where(*_which(callback)).values(told=status, attempts=0, due="")
    with ledger.writing() as connection:
        connection.execute(change)


def _which(callback: Callback) -> list[sa.ColumnElement[bool]]:
    return [CALLBACKS.c.request == callback.request, CALLBACKS.c.url == callback.url]

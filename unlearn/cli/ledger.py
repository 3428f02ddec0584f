"""Flags that select the ledger of a command, and the check of its record key."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unlearn.requests.ledger.ledger import Ledger

LEDGER_VARIABLE = "UNLEARN_LEDGER"
OPERATOR_VARIABLE = "UNLEARN_OPERATOR"
NOTHING_FOUND = 3
"""Exit status if there is nothing to do, or something to decide first."""


def default_ledger() -> str:
    """Return $UNLEARN_LEDGER, or `unlearn-verify/ledger.db` in the user's data folder."""
    if named := os.environ.get(LEDGER_VARIABLE):
        return named
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return str(Path(data_home) / "unlearn-verify" / "ledger.db")


@dataclasses.dataclass(frozen=True)
class LedgerFlags:
    """The ledger and its record key."""

    ledger: str | None = None
    """SQLite file or database URL; the default is $UNLEARN_LEDGER, else unlearn-verify/ledger.db in the user's data folder."""
    note_key: bool = False
    """Record the current key as this ledger's key, if the ledger has none recorded; needed at most once."""
    operator: str | None = None
    """Your name, whose keyed hash is recorded with each step; the default is $UNLEARN_OPERATOR, else none."""

    @contextmanager
    def open(self, keyed: bool = True) -> "Iterator[Ledger]":
        """Open the ledger for the duration of a `with` block.

        Args:
            keyed: whether the command searches for or records people, which requires the ledger's own record key.

        Raises:
            InputError: the ledger cannot be opened, or the record key is wrong or missing.
        """
        from unlearn.requests.ledger.ledger import Ledger

        found = Ledger(self.ledger or default_ledger())
        name = self.operator or os.environ.get(OPERATOR_VARIABLE)
        try:
            if keyed or name or self.note_key:
                _require_own_key(found, self.note_key)
            if name:
                found.operator = operator_hash(name)
            yield found
        finally:
            found.close()


def operator_hash(name: str) -> str:
    """Return the keyed hash of an operator's name, in whatever case and spacing it is typed."""
    from verify.data.canonical import canonical
    from verify.data.identity import RecordKey

    return RecordKey.load().of(canonical(name).casefold(), "operator")


def _require_own_key(ledger: "Ledger", sure: bool) -> None:
    """Check that the record key is the ledger's own; with another key every search would wrongly find nothing."""
    from verify.data.identity import KEY_VARIABLE, RecordKey
    from verify.errors import InputError

    path, recorded, began = RecordKey.default_path(), ledger.key_check(), ledger.began()
    remedy = f"Set ${KEY_VARIABLE} to the key file with which the ledger was created, or restore that file from a backup."
    if not path.exists():
        if recorded is not None or began is not None:
            raise InputError(f"there is no record key at {path}, and with a new key nobody in this ledger can be found. {remedy}")
        RecordKey.load()
        print(f"NOTE: a new record key was created: {path}. Keep a copy of it, separate from the ledger.", file=sys.stderr)  # noqa: T201
    elif recorded is None and began is not None and not sure and int(path.stat().st_mtime) > began.timestamp():
        # A ledger of release 0.1.0, which recorded no key: a wrong one, once recorded, could not be changed.
        print(  # noqa: T201
            f"WARNING: this ledger has no record key on file, and {path} is newer than its first request. With the wrong key "
            "nobody can be found. If it is the right one, confirm that once with --note-key.",
            file=sys.stderr,
        )
        return
    check = RecordKey.load().check
    if recorded not in (None, check) or ledger.note_key(check) != check:
        raise InputError(f"the record key at {path} is not this ledger's key: with it nobody can be found. {remedy}")


def today() -> date:
    """Return today's date in the local time zone."""
    from unlearn.requests.ledger.deadlines import today

    return today()

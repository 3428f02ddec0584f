"""Which ledger a command works on."""

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
NOTHING_FOUND = 3
"""Exit status where there is nothing to do, or something to decide first."""


def default_ledger() -> str:
    """$UNLEARN_LEDGER, or `unlearn-verify/ledger.db` in the user's data folder."""
    if named := os.environ.get(LEDGER_VARIABLE):
        return named
    data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return str(Path(data_home) / "unlearn-verify" / "ledger.db")


@dataclasses.dataclass(frozen=True)
class LedgerFlags:
    """Which ledger."""

    ledger: str | None = None
    """A file (SQLite) or a database URL; the default is $UNLEARN_LEDGER, or ledger.db in the user's data folder."""
    note_key: bool = False
    """Take the record key for this ledger's own, where the ledger does not say yet which is; needed once at most."""

    @contextmanager
    def open(self, keyed: bool = True) -> "Iterator[Ledger]":
        """The ledger, closed again afterwards.

        Args:
            keyed: whether people are looked for in it or noted, so that the record key must be the ledger's own.

        Raises:
            InputError: the ledger cannot be opened, or the record key is another one or missing.
        """
        from unlearn.requests.ledger.ledger import Ledger

        found = Ledger(self.ledger or default_ledger())
        try:
            if keyed:
                _require_own_key(found, self.note_key)
            yield found
        finally:
            found.close()


def _require_own_key(ledger: "Ledger", sure: bool) -> None:
    """Under another key nobody is found, and people would be told that there is no record of them."""
    from verify.data.identity import KEY_VARIABLE, RecordKey
    from verify.errors import InputError

    path, noted, began = RecordKey.default_path(), ledger.key_check(), ledger.began()
    remedy = f"Name the file that the ledger was begun with in ${KEY_VARIABLE}, or restore it there from its backup."
    if not path.exists():
        if noted is not None or began is not None:
            raise InputError(f"there is no record key at {path}, and under a new one nobody in this ledger is found. {remedy}")
        RecordKey.load()
        print(f"NOTE: a new record key was made: {path}. Keep a copy of it, away from the ledger.", file=sys.stderr)  # noqa: T201
    elif noted is None and began is not None and not sure and int(path.stat().st_mtime) > began.timestamp():
        # A ledger from before keys were noted: a wrong one would stay in it for ever.
        print(  # noqa: T201
            f"WARNING: the ledger does not say which record key is its own, and {path} is younger than its first request. If it "
            "is another key, nobody is found. If it is the right one, say so once with --note-key.",
            file=sys.stderr,
        )
        return
    check = RecordKey.load().check
    if (noted or ledger.note_key(check)) != check:
        raise InputError(f"the record key at {path} is not this ledger's: under it nobody is found. {remedy}")


def today() -> date:
    """The day, here."""
    from unlearn.requests.ledger.deadlines import today

    return today()

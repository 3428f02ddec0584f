"""Which ledger a command works on."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unlearn.requests.ledger import Ledger

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

    @contextmanager
    def open(self) -> "Iterator[Ledger]":
        """The ledger, closed again afterwards."""
        from unlearn.requests.ledger import Ledger

        found = Ledger(self.ledger or default_ledger())
        try:
            yield found
        finally:
            found.close()


def today() -> date:
    """The day, UTC, as the ledger's times are."""
    return datetime.now(UTC).date()

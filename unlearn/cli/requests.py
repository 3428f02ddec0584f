"""`unlearn request ...`: a deletion request from its receipt to its end.

Identifiers come from a file or standard input, never as arguments: those stay in shell histories, and every user of the machine
can read them.
"""

import dataclasses
import functools
import operator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unlearn.cli.ledger import LedgerFlags, today
from unlearn.cli.records import lines_of
from unlearn.cli.request_run import Close, PlanCommand, RunCommand

if TYPE_CHECKING:
    from unlearn.requests.ledger.ledger import NewRequest


@dataclasses.dataclass(frozen=True)
class Add:
    """Note a request of one person; the identifiers come from standard input or a file, one a line."""

    identifiers: str = "-"
    """A file with the person's identifiers as the training data spell them; - reads standard input."""
    regime: Literal["gdpr", "ccpa", "drop"] = "gdpr"
    """Whose deadlines apply."""
    received: date | None = None
    """The day of receipt, as 2026-11-24; the default is today, here: the variable TZ names another zone."""
    country: str | None = None
    """ISO 3166 code of the country whose public holidays count."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Add and print the request's id."""
        from unlearn.requests.ledger.intake import from_lines
        from verify.data.identity import RecordKey

        lines = lines_of(self.identifiers)
        received = self.received or today()
        with self.where.open() as ledger:
            request = from_lines(lines, RecordKey.load(), regime=self.regime, received=received, country=self.country)
            print(ledger.add(request))  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Import:
    """Note a batch of requests from a CSV file, or an OpenDSR request from a JSON file: all of it or nothing."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .csv with the columns identifier, regime, received; or a .json with one OpenDSR 1.0 erasure request."""
    country: str | None = None
    """ISO 3166 code of the country whose public holidays count."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Add and print the ids."""
        with self.where.open() as ledger:
            for name in ledger.add_all(self._requests()):
                print(name)  # noqa: T201
        return 0

    def _requests(self) -> "list[NewRequest]":
        from unlearn.requests.ledger.intake import from_csv, from_opendsr
        from verify.data.identity import RecordKey
        from verify.errors import InputError

        key, kind = RecordKey.load(), self.file.suffix.lower()
        if kind == ".csv":
            return from_csv(self.file, key, self.country)
        if kind != ".json":
            raise InputError(f"{self.file} is of an unknown kind. Give a .csv batch or a .json file with an OpenDSR request.")
        try:
            return [from_opendsr(self.file.read_bytes(), key, self.country)]
        except OSError as error:
            raise InputError(f"{self.file} cannot be read ({error.strerror}). Name an existing file.") from None


@dataclasses.dataclass(frozen=True)
class ListCommand:
    """List the requests with their deadlines: what is overdue, what is due within a week."""

    state: str | None = None
    """Only requests in this state."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print one line each."""
        from unlearn.cli.request_text import listed
        from unlearn.requests.ledger.states import STATES
        from verify.errors import InputError

        if self.state is not None and self.state not in STATES:
            raise InputError(f"{self.state!r} is not a state. Use one of: {', '.join(STATES)}.")
        with self.where.open(keyed=False) as ledger:
            chosen = [request for request in ledger.requests() if self.state in (None, request.state)]
        for line in listed(chosen, today()):
            print(line)  # noqa: T201
        if not chosen:
            print("no requests")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Show:
    """Tell the whole story of a request, and which command can follow."""

    id: Annotated[str, tyro.conf.Positional]
    """The request's id."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print it."""
        from unlearn.cli.request_text import story

        with self.where.open(keyed=False) as ledger:
            request = ledger.request(self.id)
        for line in story(request, today()):
            print(line)  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Approve:
    """Say that the identity behind requests was verified."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The requests' ids."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Take them to identity_verified, all or none."""
        with self.where.open(keyed=False) as ledger:
            ledger.advance_all(self.ids, "identity_verified")
        print(f"{len(self.ids)} approved. Next: unlearn request plan --data FILE ... --models DIR ...")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Deny:
    """Refuse a request, for a reason that the person is told."""

    id: Annotated[str, tyro.conf.Positional]
    """The request's id."""
    reason: str
    """Why, in words that the person can be told; no names."""
    exempt: bool = False
    """The law exempts these records from deletion."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Take it to denied or exempt."""
        with self.where.open(keyed=False) as ledger:
            request = ledger.advance(self.id, "exempt" if self.exempt else "denied", reason=self.reason)
        print(f"{self.id} is {request.state}. Next: unlearn request close {self.id}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Extend:
    """Note that a person is told that the answer takes longer, and write the letter that says so.

    The later day counts from here on, in list, report and letters. Send the letter before the answer is due: an extension that the
    person was not told of by then is none. The same command again writes a letter that is missing, and notes nothing.
    """

    id: Annotated[str, tyro.conf.Positional]
    """The request's id."""
    reason: Literal["complexity", "number-of-requests"]
    """Why more time is needed; the law allows these two."""
    output: Path = Path("deletions")
    """Folder of the batches; the letter goes into the request's own folder below it."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Note it, write the letter, and print where it lies."""
        from unlearn.requests.letters import write_extension

        with self.where.open(keyed=False) as ledger:
            request = ledger.extend(self.id, self.reason, today())
        for path in write_extension(request, self.output / request.id):
            print(path)  # noqa: T201
        print(f"{self.id}: answer by {request.due}, if this letter is sent by {request.deadlines.answer}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Withdraw:
    """Note that the person took the request back."""

    id: Annotated[str, tyro.conf.Positional]
    """The request's id."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Take it to withdrawn."""
        with self.where.open(keyed=False) as ledger:
            ledger.advance(self.id, "withdrawn")
        print(f"{self.id} is withdrawn. Next: unlearn request close {self.id}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class VerifyLedger:
    """Recompute the ledger's whole chain, and print its head: note it outside, and nobody can change what came before."""

    head: str | None = None
    """A head that was noted earlier; it must be in the chain."""
    where: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print the number of events and the head."""
        with self.where.open(keyed=False) as ledger:
            print(f"{ledger.verify(self.head)} events, unbroken\nhead: {ledger.head()}")  # noqa: T201
        return 0


COMMANDS = {
    "add": Add,
    "import": Import,
    "list": ListCommand,
    "show": Show,
    "approve": Approve,
    "deny": Deny,
    "extend": Extend,
    "withdraw": Withdraw,
    "plan": PlanCommand,
    "run": RunCommand,
    "close": Close,
    "verify-ledger": VerifyLedger,
}
_either: Any = functools.reduce(operator.or_, (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items()))
RequestCommand = dataclasses.make_dataclass(
    "RequestCommand",
    [("command", _either)],
    namespace={
        "run": lambda self: self.command.run(),
        "__doc__": "Handle deletion requests from receipt to signed certificate: add, approve, plan, run, close.",
    },
    frozen=True,
)

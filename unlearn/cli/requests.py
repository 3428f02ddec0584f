"""Commands `unlearn request ...`: record, list, approve, refuse, extend and withdraw deletion requests.

Identifiers come from a file or standard input, never as arguments, which stay in the shell history and which every user of the
machine can read.
"""

import dataclasses
import functools
import operator
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unlearn.cli.ledger import LedgerFlags, today
from unlearn.cli.records import identifiers_of
from unlearn.cli.request_people import Confirm, Import, LetterFlags, Recipients
from unlearn.cli.request_run import Close, PlanCommand, RunCommand


@dataclasses.dataclass(frozen=True)
class Add:
    """Record one person's request; identifiers are read from standard input or a file, one per line."""

    identifiers: str = "-"
    """File with the person's identifiers as spelled in the training data, one per line; - reads standard input."""
    regime: Literal["gdpr", "ccpa", "drop"] = "gdpr"
    """The law whose deadlines apply."""
    received: date | None = None
    """Day of receipt, such as 2026-11-24; the default is today in the local time zone (or that of the variable TZ)."""
    country: str | None = None
    """ISO 3166 code of the country whose public holidays count."""
    language: str | None = None
    """Code of the language to write to the person in (en, de, fr, es); the default is that of the letter templates."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record the request and print its id."""
        from unlearn.cli.request_text import repeats
        from unlearn.requests.ledger.intake import from_lines
        from verify.data.identity import RecordKey

        lines = identifiers_of(self.identifiers)
        received = self.received or today()
        with self.ledger.open() as ledger:
            request = from_lines(
                lines, RecordKey.load(), regime=self.regime, received=received, country=self.country, language=self.language
            )
            name = ledger.add(request)
            for earlier in repeats(ledger.requests()).get(name, ()):
                print(f"NOTE: it repeats {earlier}, which is open", file=sys.stderr)  # noqa: T201
        print(name)  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Reindex:
    """Record again what is searched for in a request of an earlier version, from the person's identifiers.

    A later version also recognizes other spellings, and the ledger keeps no identifiers from which they could be made. Only keyed
    hashes are recorded.
    """

    id: Annotated[str, tyro.conf.Positional]
    """Id of the request."""
    identifiers: str = "-"
    """File with exactly the identifiers that the request was recorded with, one per line; - reads standard input."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record the tokens, unless those of this version are there."""
        from unlearn.requests.ledger.search_tokens import record_again
        from verify.data.identity import RecordKey

        lines = identifiers_of(self.identifiers)
        with self.ledger.open() as ledger:
            record_again(ledger, self.id, lines, RecordKey.load())
        print(f"{self.id} is searched for as this version does")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class ListCommand:
    """List requests with their deadlines, the most urgent first."""

    state: str | None = None
    """Only requests in this state."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print one line per request."""
        from unlearn.cli.request_text import listed
        from unlearn.requests.ledger.states import STATES
        from verify.errors import InputError

        if self.state is not None and self.state not in STATES:
            raise InputError(f"{self.state!r} is not a state. Use one of: {', '.join(STATES)}.")
        with self.ledger.open(keyed=False) as ledger:
            chosen = [request for request in ledger.requests() if self.state in (None, request.state)]
        for line in listed(chosen, today()):
            print(line)  # noqa: T201
        if not chosen:
            print("no requests")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Show:
    """Show a request's history, deadlines and next command."""

    id: Annotated[str, tyro.conf.Positional]
    """Id of the request."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print the history."""
        from unlearn.cli.request_text import history

        with self.ledger.open(keyed=False) as ledger:
            request = ledger.request(self.id)
        for line in history(request, today()):
            print(line)  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Approve:
    """Record that the identity of the requesters was verified."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Ids of the requests."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Advance all of them to identity_verified, or none."""
        from verify.errors import InputError

        if not self.ids:
            raise InputError("name the requests: unlearn request approve ID ... List them with `unlearn request list`.")
        with self.ledger.open(keyed=False) as ledger:
            ledger.advance_all(self.ids, "identity_verified")
        print(f"{len(self.ids)} approved. Next: unlearn request plan --data FILE ... --models DIR ...")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Deny:
    """Refuse a request for a reason that the person is given."""

    id: Annotated[str, tyro.conf.Positional]
    """Id of the request."""
    reason: str
    """Reason, worded for the person; it must not contain names."""
    exempt: bool = False
    """The records are exempt from deletion by law."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Advance it to denied or exempt."""
        with self.ledger.open(keyed=False) as ledger:
            request = ledger.advance(self.id, "exempt" if self.exempt else "denied", reason=self.reason)
        print(f"{self.id} is {request.state}. Next: unlearn request close {self.id}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Extend:
    """Extend the deadline of a request, and write the letter that notifies the person.

    From then on the later deadline is shown in lists, reports and letters. Send the letter before the original deadline: the
    extension is void if the person is not notified by then. Running the command again only writes a missing letter.
    """

    id: Annotated[str, tyro.conf.Positional]
    """Id of the request."""
    reason: Literal["complexity", "number-of-requests"]
    """Why more time is needed; GDPR Article 12(3) allows these two reasons."""
    letter: LetterFlags = dataclasses.field(default_factory=LetterFlags)
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record the extension, write the letter and print its path."""
        from unlearn.requests.letters import require_templates, require_writable, write_extension

        with self.ledger.open(keyed=False) as ledger:
            require_templates([ledger.request(self.id)], self.letter.templates)
            require_writable(self.letter.output / self.id)
            request = ledger.extend(self.id, self.reason, today())
        for path in write_extension(request, self.letter.output / request.id, self.letter.templates):
            print(path)  # noqa: T201
        print(f"{self.id}: answer by {request.due}, if this letter is sent by {request.deadlines.answer}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Withdraw:
    """Record that the person withdrew the request."""

    id: Annotated[str, tyro.conf.Positional]
    """Id of the request."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Advance it to withdrawn."""
        with self.ledger.open(keyed=False) as ledger:
            ledger.advance(self.id, "withdrawn")
        print(f"{self.id} is withdrawn. Next: unlearn request close {self.id}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class VerifyLedger:
    """Verify the ledger's hash chain and print its head digest; keep the head elsewhere to detect later changes."""

    head: str | None = None
    """A head digest kept from earlier, which must be in the chain."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print the number of events and the head."""
        with self.ledger.open(keyed=False) as ledger:
            print(f"{ledger.verify(self.head)} events, unbroken\nhead: {ledger.head()}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class SeparateRoles:
    """Require that each request is approved, run and closed by three people; recorded in the ledger, for good.

    From then on these steps need a name (--operator or $UNLEARN_OPERATOR), of which the ledger keeps a keyed hash.
    """

    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record it."""
        with self.ledger.open() as ledger:
            ledger.require_separate_roles()
        print("from now on, approving, running and closing a request takes three people")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Export:
    """Export all requests for record keeping: when each came in, its deadlines, how and when it ended; nothing names a person."""

    output: Path
    """A new .csv or .json file."""
    ccpa_year: int | None = None
    """Also compute the metrics of 11 CCR 7102 for requests to delete that were received in this calendar year."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Write the file, and print the metrics."""
        from unlearn.requests.record_export import as_csv, as_json, ccpa_metrics
        from verify.errors import InputError
        from verify.io.files import write_text

        if self.output.suffix.lower() not in (".csv", ".json") or self.output.exists():
            raise InputError(f"{self.output} cannot be written. Name a new file that ends in .csv or .json.")
        with self.ledger.open(keyed=False) as ledger:
            ledger.verify()
            requests, head = ledger.requests(), ledger.head()
        metrics = None if self.ccpa_year is None else ccpa_metrics(requests, self.ccpa_year)
        csv = self.output.suffix.lower() == ".csv"
        write_text(self.output, as_csv(requests) if csv else as_json(requests, metrics, head), mode=0o600)
        print(f"{len(requests)} requests: {self.output}\nledger head: {head}")  # noqa: T201
        for name, value in (metrics or {}).items():
            print(f"{name}: {value}")  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Retention:
    """List until when documents about the persons of closed requests are kept, and remove those whose period is over.

    Letters, plans and lists with keyed hashes of persons and records are removed. Deletion records, certificates, audits and proofs
    stay; the ledger cannot forget, but destroying its record key makes every hash in it meaningless.
    """

    months: int = 24
    """Months for which these documents are kept after closing. 11 CCR 7101 requires at least 24."""
    remove: bool = False
    """Remove the documents whose period is over."""
    output: Path = Path("deletions")
    """Folder of the batches."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Print one line per folder."""
        from unlearn.requests.retention import kept_documents, remove_documents
        from verify.errors import InputError

        if self.months < 0:
            raise InputError(f"--months must be 0 or more, got {self.months}.")
        with self.ledger.open(keyed=False) as ledger:
            found = kept_documents(ledger.requests(), self.output, self.months)
        for kept in found:
            over = kept.until < today()
            if over and self.remove:
                remove_documents(kept)
            said = ("removed" if self.remove else "time is over; --remove removes them") if over else f"kept until {kept.until}"
            print(f"{kept.folder} ({', '.join(kept.requests)}): {', '.join(path.name for path in kept.documents)}: {said}")  # noqa: T201
        if not found:
            print("no closed request has documents about persons")  # noqa: T201
        return 0


COMMANDS = {
    "add": Add,
    "import": Import,
    "list": ListCommand,
    "show": Show,
    "reindex": Reindex,
    "confirm": Confirm,
    "approve": Approve,
    "deny": Deny,
    "extend": Extend,
    "recipients": Recipients,
    "withdraw": Withdraw,
    "plan": PlanCommand,
    "run": RunCommand,
    "close": Close,
    "verify-ledger": VerifyLedger,
    "separate-roles": SeparateRoles,
    "export": Export,
    "retention": Retention,
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

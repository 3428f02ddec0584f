"""Commands `unlearn request import`, `confirm` and `recipients`: whom a request comes from, and whom it has to reach."""

import dataclasses
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from unlearn.cli.ledger import NOTHING_FOUND, LedgerFlags, today

if TYPE_CHECKING:
    from unlearn.requests.ledger.ledger import Ledger
    from unlearn.requests.ledger.request import NewRequest


@dataclasses.dataclass(frozen=True)
class Import:
    """Record a batch of requests from a CSV file, or one OpenDSR request from a JSON file; all or nothing."""

    file: Annotated[Path, tyro.conf.Positional]
    """A .csv file with the columns identifier, regime, received (and, if given, identifier2, ..., language), or a .json file with
    one OpenDSR 1.0 erasure request."""
    country: str | None = None
    """ISO 3166 code of the country whose public holidays count."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record the requests and print, for each row, its number, its id, its days, and the open request that it repeats."""
        from unlearn.cli.request_text import imported

        with self.ledger.open() as ledger:
            names = ledger.add_all(self._requests())
            requests = ledger.requests()
        known = {request.id: request for request in requests}
        for line in imported([known[name] for name in names], requests):
            print(line)  # noqa: T201
        return 0

    def _requests(self) -> "list[NewRequest]":
        from unlearn.requests.ledger.intake import from_csv, from_opendsr
        from verify.data.identity import RecordKey
        from verify.errors import InputError

        key, kind = RecordKey.load(), self.file.suffix.lower()
        if kind == ".csv":
            return from_csv(self.file, key, self.country)
        if kind != ".json":
            raise InputError(
                f"{self.file} is of an unknown kind. Use a .csv file with a batch or a .json file with an OpenDSR request."
            )
        try:
            return [from_opendsr(self.file.read_bytes(), key, self.country)]
        except OSError as error:
            raise InputError(f"{self.file} cannot be read ({error.strerror}). Name an existing file.") from None


@dataclasses.dataclass(frozen=True)
class LetterFlags:
    """Where a letter is written, and in whose words."""

    output: Path = Path("deletions")
    """Folder of the batches; the letter is written into the request's own folder in it."""
    templates: Path | None = None
    """Your folder of letter templates; the default is $UNLEARN_VERIFY_LETTERS, else ours."""


@dataclasses.dataclass(frozen=True)
class Confirm:
    """Confirm the receipt of a request: write the letter and record the day.

    The CCPA asks for it within 10 business days (11 CCR 7021). Running the command again only writes a missing letter.
    """

    id: Annotated[str, tyro.conf.Positional]
    """Id of the request."""
    letter: LetterFlags = dataclasses.field(default_factory=LetterFlags)
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record the confirmation, write the letter and print its path."""
        from unlearn.requests.letters import require_templates, require_writable, write_confirmation

        with self.ledger.open(keyed=False) as ledger:
            require_templates([ledger.request(self.id)], self.letter.templates)
            require_writable(self.letter.output / self.id)
            request = ledger.confirm(self.id, today())
        for path in write_confirmation(request, self.letter.output / request.id, self.letter.templates):
            print(path)  # noqa: T201
        last = request.deadlines.confirm
        print(f"{self.id}: receipt confirmed" + (f", if this letter is sent by {last}" if last is not None else ""))  # noqa: T201
        return 0


@dataclasses.dataclass(frozen=True)
class Recipients:
    """Record to whom the data of requests were passed on, who was notified of the deletion, and who confirmed it.

    Without further flags, the command lists what is open and what is done. Names are those of organisations and systems, never of
    persons. Exit status 0: nothing is open; 3: something is.
    """

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("kind", "due"), "--add"),
        **dict.fromkeys(("by", "evidence"), "--confirmed"),
        "on": "--told or --confirmed",
        "reason": "--unreachable",
        "unreachable": "--reason",
    }

    ids: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Ids of the requests."""
    add: str | None = None
    """Name of a recipient to record."""
    file: Path | None = None
    """CSV file with recipients to record, with the columns name, kind, due (an ISO date, or a number of days after receipt)."""
    kind: Literal["processor", "recipient", "fine-tune", "vector-store", "prompt-log", "other"] = "recipient"
    """What the recipient of --add is: a processor, somebody who received the data, somebody who trained on from your weights, or a
    further system of your own: a vector store, a log of prompts, another one."""
    due: date | None = None
    """Last day by which the recipient of --add is to confirm; the default is the day by which the person is answered."""
    nobody: bool = False
    """State that the data were passed on to nobody."""
    told: str | None = None
    """Name of a recipient that was notified to delete the data."""
    confirmed: str | None = None
    """Name of a recipient that confirmed the deletion."""
    by: str | None = None
    """Who confirmed it; only a keyed hash is recorded."""
    evidence: Path | None = None
    """The confirmation, such as a mail; its SHA-256 is recorded, and you keep the file."""
    unreachable: str | None = None
    """Name of a recipient that cannot be notified, as it is impossible or takes a disproportionate effort (GDPR Article 19)."""
    reason: str | None = None
    """Why it cannot be notified; it must not contain names."""
    on: date | None = None
    """Day on which it was notified or confirmed; the default is today."""
    ledger: LedgerFlags = dataclasses.field(default_factory=LedgerFlags)

    def run(self) -> int:
        """Record what is given, and print all recipients; exit status 3 if any is open."""
        from unlearn.cli.request_text import recipients, still_open

        self._require_fitting()
        with self.ledger.open(keyed=self.by is not None) as ledger:
            requests = [ledger.request(name) for name in dict.fromkeys(self.ids)]
            for request in requests:
                self._note(ledger, request.id)
            requests = [ledger.request(request.id) for request in requests]
        for request in requests:
            for line in recipients(request, today()):
                print(line)  # noqa: T201
        return NOTHING_FOUND if any(next(still_open(request, today()), None) for request in requests) else 0

    def _require_fitting(self) -> None:
        from verify.errors import InputError

        if not self.ids:
            raise InputError("name the requests: unlearn request recipients ID ... List them with `unlearn request list`.")
        if self.on is not None and self.on > today():
            raise InputError(f"{self.on} is still to come. Give --on a day up to today, {today()}.")

    def _note(self, ledger: "Ledger", request: str) -> None:
        from unlearn.requests.ledger.recipients import Planned, add_recipients, note_recipient, read_recipients, state_nobody

        day = (self.on or today()).isoformat()
        if self.add is not None or self.file is not None:
            standing = [] if self.file is None else read_recipients(self.file)
            add_recipients(ledger, request, [*standing, *([] if self.add is None else [Planned(self.add, self.kind, self.due)])])
        if self.nobody:
            state_nobody(ledger, request)
        if self.told is not None:
            note_recipient(ledger, request, self.told, told=day)
        if self.confirmed is not None:
            note_recipient(ledger, request, self.confirmed, confirmed=day, **self._proof())
        if self.unreachable is not None:
            note_recipient(ledger, request, self.unreachable, reason=self.reason)

    def _proof(self) -> dict[str, Any]:
        """Return the digest of the evidence and the keyed hash of whoever confirmed, as far as they are given."""
        from verify.data.identity import RecordKey
        from verify.errors import InputError
        from verify.io.files import file_digest

        if self.evidence is not None and not self.evidence.is_file():
            raise InputError(f"{self.evidence} is not a file. Give --evidence the recipient's confirmation.")
        found = {} if self.evidence is None else {"evidence": file_digest(self.evidence)}
        return found if self.by is None else {**found, "by": RecordKey.load().of(self.by, "confirmer")}

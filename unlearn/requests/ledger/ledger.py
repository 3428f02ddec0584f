"""Request ledger: an append-only, hash-chained event log that stores no names.

Events are never changed or removed, and the state of a request is derived from its events. Each event carries the digest of the
previous one, so a removed or edited event breaks the chain at that point; whoever keeps the head digest can prove that nothing
before it was altered. Persons appear as keyed hashes under a key outside the database: destroying the key makes the ledger
anonymous, and the chain still verifies. A check value of that key is stored beside the events and in one of them, so a command with
another key is refused instead of finding nobody.

SQLite by default (strict tables, write-ahead log, secure delete); PostgreSQL by URL.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from unlearn.requests.ledger.database import database_errors, open_engine, unusable_file
from unlearn.requests.ledger.deadlines import ExtensionReason, deadlines
from unlearn.requests.ledger.layout import prepare
from unlearn.requests.ledger.request import NewRequest, Request, Step, history, require_extendable
from unlearn.requests.ledger.roles import KEY, LEDGER, OPERATOR, SEPARATE, require_separate
from unlearn.requests.ledger.states import STATES, State, require_allowed
from unlearn.requests.ledger.tables import CALLBACKS, EVENTS, EXTERNAL_ID, KEY_CHECK
from verify.errors import InputError, IntegrityError, RunError
from verify.schema.deletion_record import CONFIRMED, EXTENDED, NOTES

BatchStep = tuple[Sequence[str], State, Mapping[str, Any]]
"""Ids of requests, the state that they reach together, and the facts of that event."""
Check = Callable[[Sequence[Request]], None]
"""Refuses a step, given all requests of the ledger as they are, by raising an error."""
GENESIS = "0" * 64
VERSION = 1


class Ledger:
    """Append-only store of all requests in one database.

    Attributes:
        url: its SQLAlchemy URL.
        operator: keyed hash of the name of who takes steps now; None without one.
    """

    def __init__(self, url: str | Path) -> None:
        """Open a ledger; create it if there is none, and upgrade one of an earlier layout.

        Args:
            url: a file name for SQLite, or a SQLAlchemy URL such as `postgresql+psycopg://host/database`.

        Raises:
            InputError: the database cannot be opened, is not a ledger, or was written by a newer version.
            RunError: its file cannot be written now: the disk is full, it is read-only, or another program holds it.
        """
        text = str(url)
        self.operator: str | None = None
        self.url = text if "://" in text else f"sqlite:///{text}"
        engine: sa.Engine | None = None
        try:
            self._engine = engine = open_engine(self.url)
            with self._engine.begin() as connection:
                prepare(connection)
        except InputError:
            self._engine.dispose()
            raise
        except (sa.exc.SQLAlchemyError, KeyError, ImportError, OSError) as error:
            if engine is not None:
                engine.dispose()
            if (why := unusable_file(error)) is not None:
                raise RunError(f"{why[0]} Nothing in it is lost. {why[1]}") from None
            # The URL may contain a password, which the driver's message repeats: show neither.
            raise InputError(
                f"the ledger cannot be opened ({type(error).__name__}). Use --ledger with a file name or a PostgreSQL URL."
            ) from None

    @property
    def file(self) -> Path | None:
        """Return the file of a SQLite ledger, or None."""
        name = self._engine.url.database
        return Path(name).resolve() if self._engine.dialect.name == "sqlite" and name else None

    def add(self, request: NewRequest) -> str:
        """Record a request and return its random id.

        Raises:
            InputError: no identifier was given, or the sender's identifier of the request is already in the ledger.
        """
        return self.add_all([request])[0]

    def add_all(self, requests: Sequence[NewRequest]) -> list[str]:
        """Record a batch of requests atomically and return their ids.

        Raises:
            InputError: as for `add`; then nothing of the batch is written.
        """
        for request in requests:
            if not request.subjects:
                raise InputError(
                    "a request needs at least one identifier. Give one per line on standard input or in --identifiers FILE."
                )
            deadlines(request.regime, request.received, request.country)
        names = [f"R-{secrets.token_hex(6)}" for _ in requests]
        with self.writing() as connection:
            check = connection.execute(sa.select(KEY_CHECK.c.value)).scalar()
            for name, request in zip(names, requests, strict=True):
                if request.external_id is not None and self._by_external_id(connection, request.external_id) is not None:
                    raise InputError("a request with this subject_request_id is already in the ledger; it was not added again.")
                # The chain binds the key's check value: who replaced it would make every search find nobody.
                self._append(connection, name, "received", request.facts() | ({} if check is None else {"key": check}))
                for url in request.callbacks:
                    # The receipt says that the request is pending; the next status is the first to be sent.
                    connection.execute(CALLBACKS.insert().values(request=name, url=url, told="pending", attempts=0, due=""))
        return names

    def advance(self, request: str, state: State, **details: Any) -> Request:
        """Advance a request to its next state.

        Raises:
            InputError: the request is unknown, the step is not allowed, or facts are missing; then nothing is written.
        """
        return self.advance_all([request], state, **details)[0]

    def advance_all(self, requests: Sequence[str], state: State, **details: Any) -> list[Request]:
        """Advance the requests of a batch atomically to their next state.

        Raises:
            InputError: as for `advance`, for any of them, or `details` name a batch that a later plan of one of them replaced; then
                nothing is written.
        """
        return self.advance_each([(requests, state, details)])

    def advance_each(self, steps: Sequence[BatchStep], check: Check = lambda _: None) -> list[Request]:
        """Take several steps atomically, and return the requests that took one.

        Args:
            steps: what is recorded, in this order.
            check: called first, with all requests as they are; nobody records anything between it and the steps. It must not use
                the ledger.

        Raises:
            InputError: as for `advance_all`, for any step, or `check` refuses; then nothing is written.
        """
        if unknown := [state for _, state, _ in steps if state not in STATES]:
            raise InputError(f"{unknown[0]!r} is not a state. Use one of: {', '.join(STATES)}.")
        with self.writing() as connection:
            check(self._requests(connection))
            separate = self._has_separate_roles(connection)
            for requests, state, details in steps:
                for name in requests:
                    found = self._request(connection, name)
                    require_allowed(found.state, state, details, history(found.steps))
                    if separate:
                        require_separate(state, self.operator, history(found.steps))
                    self._append(connection, name, state, details)
            return [self._request(connection, name) for name in dict.fromkeys(name for step in steps for name in step[0])]

    def extend(self, request: str, reason: ExtensionReason, notified: date) -> Request:
        """Record that the person is notified of an extension; idempotent for the same reason.

        Args:
            request: its id.
            reason: why more time is needed.
            notified: the day on which the person is notified.

        Raises:
            InputError: the request is unknown, can no longer be extended, or was extended for another reason.
        """
        with self.writing() as connection:
            found = self._request(connection, request)
            if found.extension is not None and found.extension["reason"] == reason:
                return found
            require_extendable(found, notified)
            self._append(connection, request, EXTENDED, {"reason": reason, "told": notified.isoformat()})
            return self._request(connection, request)

    def note(self, request: str, event: str, details_of: Callable[[Request], Mapping[str, Any] | None]) -> Request:
        """Record an event that does not change a request's state, at any time, also after it was closed.

        Args:
            request: its id.
            event: one of `verify.schema.deletion_record.NOTES`.
            details_of: returns the facts of the event, given the request as it is; None where nothing is to be recorded.

        Raises:
            InputError: the request is unknown, or `details_of` refuses; then nothing is written.
        """
        assert event in NOTES, event
        with self.writing() as connection:
            found = self._request(connection, request)
            details = details_of(found)
            if details is None:
                return found
            self._append(connection, request, event, details)
            return self._request(connection, request)

    def confirm(self, request: str, told: date) -> Request:
        """Record that the person is notified that the request was received; idempotent.

        Raises:
            InputError: the request is unknown, or has been closed without a confirmation.
        """

        def details_of(found: Request) -> Mapping[str, Any] | None:
            if found.confirmation is None and found.state == "closed":
                raise InputError(f"{found.id} is closed; its receipt need not be confirmed any more.")
            return {"told": told.isoformat()} if found.confirmation is None else None

        return self.note(request, CONFIRMED, details_of)

    def separate_roles(self) -> bool:
        """Return whether approving, running and closing a request takes three people."""
        with database_errors(), self._engine.connect() as connection:
            return self._has_separate_roles(connection)

    def require_role(self, request: str, state: State) -> None:
        """Check, without recording anything, that the operator may take the step to a state, as `advance` would.

        Raises:
            InputError: the ledger requires a name, or somebody who acted in no other role for this request.
        """
        with database_errors(), self._engine.connect() as connection:
            if self._has_separate_roles(connection):
                require_separate(state, self.operator, history(self._request(connection, request).steps))

    def require_separate_roles(self) -> None:
        """Record that from now on, approving, running and closing a request takes three people; idempotent, and for good."""
        with self.writing() as connection:
            if not self._has_separate_roles(connection):
                self._append(connection, LEDGER, SEPARATE, {})

    def began(self) -> datetime | None:
        """Return the time of the first event, or None."""
        with database_errors(), self._engine.connect() as connection:
            at = connection.execute(sa.select(EVENTS.c.at).order_by(EVENTS.c.sequence).limit(1)).scalar()
        return None if at is None else datetime.fromisoformat(at)

    def key_check(self) -> str | None:
        """Return the check value of the record key, or None."""
        with database_errors(), self._engine.connect() as connection:
            return connection.execute(sa.select(KEY_CHECK.c.value)).scalar()

    def note_key(self, check: str) -> str:
        """Record the check value of the record key unless one exists; return the stored value.

        An event of its own binds it to the chain. A ledger from before such events gets one for the value that it has.
        """
        with self.writing() as connection:
            known = connection.execute(sa.select(KEY_CHECK.c.value)).scalar()
            if known is None:
                connection.execute(KEY_CHECK.insert().values(number=1, value=check))
            if not self._has_event(connection, KEY):
                self._append(connection, LEDGER, KEY, {"key": known or check})
            return known or check

    def request(self, name: str) -> Request:
        """Return one request.

        Raises:
            InputError: there is no such request.
        """
        with database_errors(), self._engine.connect() as connection:
            return self._request(connection, name)

    def by_external_id(self, external_id: str) -> Request | None:
        """Return the request with this identifier of the sender's, or None."""
        with database_errors(), self._engine.connect() as connection:
            name = self._by_external_id(connection, external_id)
            return None if name is None else self._request(connection, name)

    def requests(self, state: State | None = None) -> list[Request]:
        """Return all requests in order of arrival, or those in one state."""
        with database_errors(), self._engine.connect() as connection:
            found = self._requests(connection)
        return [request for request in found if state is None or request.state == state]

    def head(self, sequence: int | None = None) -> str:
        """Return the digest of the last event, or of that with a number, which commits to the whole ledger up to it."""
        with database_errors(), self._engine.connect() as connection:
            if sequence is None:
                return _head(connection)[1]
            return str(connection.execute(sa.select(EVENTS.c.digest).where(EVENTS.c.sequence == sequence)).scalar_one())

    def verify(self, head: str | None = None) -> int:
        """Recompute the whole chain and return the number of events.

        Args:
            head: a head digest kept from earlier, which must be in the chain.

        Raises:
            IntegrityError: an event was edited, removed or inserted, or the check value of the record key was replaced; the message
                names the first broken event.
        """
        with database_errors(), self._engine.connect() as connection:
            check = connection.execute(sa.select(KEY_CHECK.c.value)).scalar()
            rows = connection.execute(sa.select(EVENTS).order_by(EVENTS.c.sequence)).all()
        previous, seen = GENESIS, {GENESIS}
        for number, row in enumerate(rows, 1):
            expected = _digest(number, row.request, row.state, row.at, row.details, previous)
            if row.sequence != number or row.previous != previous or row.digest != expected:
                raise IntegrityError(f"the ledger is broken at event {number}: it, or one before it, was edited or removed.")
            if row.state in ("received", KEY) and json.loads(row.details).get("key", check) != check:
                raise IntegrityError(
                    f"event {number} was recorded under another record key than the ledger names now: it was replaced."
                )
            previous = row.digest
            seen.add(previous)
        if head is not None and head not in seen:
            raise IntegrityError("the given head is not in this ledger: events up to it, or the whole ledger, were replaced.")
        return len(rows)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open an exclusive write transaction, so that concurrent operators take turns."""
        with database_errors(), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.text("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE"))
            yield connection

    def _append(self, connection: Connection, request: str, state: str, details: Mapping[str, Any]) -> None:
        sequence, previous = _head(connection)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        details = details if self.operator is None else {**details, OPERATOR: self.operator}
        text = json.dumps(details, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
        number = sequence + 1
        digest = _digest(number, request, state, at, text, previous)
        row = {"sequence": number, "request": request, "state": state, "at": at}
        connection.execute(EVENTS.insert().values(**row, details=text, previous=previous, digest=digest))

    def _requests(self, connection: Connection) -> list[Request]:
        steps: dict[str, list[Step]] = {}
        for row in connection.execute(sa.select(EVENTS).where(EVENTS.c.request != LEDGER).order_by(EVENTS.c.sequence)):
            steps.setdefault(row.request, []).append(_step(row))
        return [Request(name, tuple(own)) for name, own in steps.items()]

    def _request(self, connection: Connection, name: str) -> Request:
        query = sa.select(EVENTS).where(EVENTS.c.request == name).order_by(EVENTS.c.sequence)
        steps = tuple(_step(row) for row in connection.execute(query)) if name != LEDGER else ()
        if not steps:
            raise InputError("there is no request with that id. List them with `unlearn request list`.")
        return Request(name, steps)

    def _has_separate_roles(self, connection: Connection) -> bool:
        return self._has_event(connection, SEPARATE)

    def _has_event(self, connection: Connection, event: str) -> bool:
        """Return whether an event about the ledger itself was recorded."""
        query = sa.select(EVENTS.c.sequence).where(EVENTS.c.request == LEDGER, EVENTS.c.state == event).limit(1)
        return connection.execute(query).first() is not None

    def _by_external_id(self, connection: Connection, external_id: str) -> str | None:
        same = sa.text(f"{EXTERNAL_ID[self._engine.dialect.name]} = :external_id").bindparams(external_id=external_id)
        return connection.execute(sa.select(EVENTS.c.request).where(EVENTS.c.state == "received", same)).scalar()


def _head(connection: Connection) -> tuple[int, str]:
    row = connection.execute(sa.select(EVENTS.c.sequence, EVENTS.c.digest).order_by(EVENTS.c.sequence.desc()).limit(1)).first()
    return (0, GENESIS) if row is None else (int(row.sequence), str(row.digest))


def _step(row: Any) -> Step:
    return Step(int(row.sequence), cast(State, row.state), str(row.at), json.loads(row.details))


def _digest(sequence: int, request: str, state: str, at: str, details: str, previous: str) -> str:
    content = json.dumps([VERSION, sequence, request, state, at, details, previous], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()

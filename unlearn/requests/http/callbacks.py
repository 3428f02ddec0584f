"""Callbacks of OpenDSR: a signed POST to the addresses of a request whenever its status changes.

The body has the five fields that the specification requires, and no others. A callback is made at least once: an answer other than
2xx within `SECONDS`, redirects included, is an attempt that failed, and the next one follows after 30 seconds, then after twice as
long each time up to six hours. After `MOST_ATTEMPTS`, which take about five days, a status is given up. Each status has attempts of
its own; one that changes before it arrived is left out. What is due is kept in the ledger's database, so that a restart continues
with it.
"""

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from unlearn.requests.ledger.callback_addresses import PORTS, AllowedCallbacks
from unlearn.requests.ledger.callbacks import Callback, callbacks, claim, settle
from verify.errors import InputError

if TYPE_CHECKING:
    from unlearn.requests.http.service import Service

LOG = logging.getLogger("unlearn.callbacks")
SECONDS = 10.0
"""Time to connect to a host, at whichever of its addresses, and again from there to the head of the answer."""
EVERY = 5.0
"""Seconds between two looks at what is due."""
LANES = 8
"""Largest number of hosts that are called at the same time."""
FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(hours=6)
MOST_ATTEMPTS = 30
FINAL = ("completed", "cancelled")
"""Status words after which no other one comes."""


def delay(attempts: int) -> timedelta:
    """Return how long to wait for the next attempt after this number of attempts, at least one."""
    return min(FIRST_DELAY * (1 << min(attempts - 1, 20)), LONGEST_DELAY)


class CallbackSender:
    """Makes the callbacks that are due, side by side for different hosts and one after another for each.

    A host has a lane: one thread at a time, which ends at the first attempt that is not answered. So a host that hangs holds up its
    own callbacks, and others only where `LANES` hosts hang at once, until the time for an attempt is over.

    Attributes:
        service: ledger, keys and allowed addresses.
        clock: returns the time with time zone; replaced in tests.
    """

    def __init__(self, service: "Service", clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.service, self.clock = service, clock
        self._seen: str | None = None  # the ledger's head when every callback was looked at
        self._found: set[tuple[str, str]] = set()  # request and address of what was due then, and may still be
        self._lanes: dict[str, Future[int]] = {}
        self._pool = ThreadPoolExecutor(LANES, thread_name_prefix="callbacks")

    def run(self, stop: threading.Event) -> None:
        """Make callbacks until `stop` is set; errors, such as a database that cannot be reached, do not end it."""
        try:
            while not stop.wait(EVERY):
                try:
                    self.look(stop)
                except Exception as error:  # noqa: BLE001 - the sender continues, and the log reveals no internals
                    LOG.error("callbacks wait: %s", type(error).__name__)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def turn(self) -> int:
        """Look once, wait for the lanes that were begun, and return how many callbacks were acknowledged."""
        return sum(lane.result() for lane in self.look(threading.Event()))

    def look(self, stop: threading.Event) -> list[Future[int]]:
        """Begin a lane for each host with a callback that is due, unless it has one; return those that were begun.

        Args:
            stop: ends the lanes after the attempt that they are making.
        """
        due: dict[str, list[Callback]] = {}
        for callback in self._due():
            due.setdefault(urlsplit(callback.url).netloc.lower(), []).append(callback)
        self._lanes = {host: lane for host, lane in self._lanes.items() if not lane.done()}
        begun = {host: self._pool.submit(self._lane, found, stop) for host, found in due.items() if host not in self._lanes}
        self._lanes |= begun
        return list(begun.values())

    def _due(self) -> list[Callback]:
        """Return the callbacks whose request has a status to send whose time has come, the earliest first."""
        head, found = self.service.ledger.head(), []
        for callback in callbacks(self.service.ledger):
            # Else no status can have changed, and no attempt is due again.
            if head != self._seen or callback.attempts or (callback.request, callback.url) in self._found:
                status, _ = self.service.callback(callback.request, callback.url)
                if self._is_due(callback, status):
                    found.append(callback)
        self._seen, self._found = head, {(callback.request, callback.url) for callback in found}
        return sorted(found, key=lambda callback: callback.due or datetime.min.replace(tzinfo=UTC))

    def _is_due(self, callback: Callback, status: str) -> bool:
        """Return whether a status is due to be sent now.

        A status that was not tried yet does not wait as long as the one before it, which was; but it waits while an attempt to send
        that one may still be under way, which would arrive after it.
        """
        if status == callback.told or callback.due is None:
            return status != callback.told
        last = callback.due - delay(callback.attempts) + FIRST_DELAY
        return self.clock() >= (callback.due if callback.status in ("", status) else last)

    def _lane(self, found: Sequence[Callback], stop: threading.Event) -> int:
        """Make callbacks to one host until it does not answer; return how many were acknowledged."""
        done = 0
        for callback in found:
            if stop.is_set():
                break
            try:
                answer = self._made(callback)
            except Exception as error:  # noqa: BLE001 - the other callbacks are still made, and the log reveals no internals
                LOG.error("%s: a callback waits: %s", callback.request, type(error).__name__)
                continue
            done += answer is Answer.ACCEPTED
            if answer is Answer.NONE:
                break
        return done

    def _made(self, callback: Callback) -> "Answer":
        """Make one callback if it is still due, and record what came of it."""
        ledger = self.service.ledger
        status, facts = self.service.callback(callback.request, callback.url)
        if not self._is_due(callback, status):
            return Answer.NOT_ASKED
        attempts = 1 + (callback.attempts if callback.status in ("", status) else 0)
        claimed = claim(ledger, callback, status, attempts, self.clock() + delay(attempts))
        if claimed is None:
            return Answer.NOT_ASKED
        body, headers = self.service.sealed(facts)
        answer = post(callback.url, body, headers, self.service.callbacks)
        accepted = answer is not None and 200 <= answer < 300
        if accepted or attempts >= MOST_ATTEMPTS:
            settle(ledger, claimed, last=status in FINAL)
        # The address may contain anything, so it is not logged.
        what = "acknowledged" if accepted else "given up" if attempts >= MOST_ATTEMPTS else "failed"
        level = logging.INFO if accepted else logging.WARNING
        LOG.log(level, "%s %s %s attempt %d: %s", callback.request, status, what, attempts, answer or "no answer")
        return Answer.ACCEPTED if accepted else Answer.NONE if answer is None else Answer.REFUSED


class Answer(Enum):
    """What came of a callback: it was not made, as another process made it or it is not due any more; or how it was answered."""

    NOT_ASKED = "not asked"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    NONE = "none"


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: AllowedCallbacks) -> int | None:
    """Send a body to an address that may be called, and return the status of the answer; None without one.

    The connection is made to an address that was checked, so it does not matter if the name resolves to another one a moment later.
    No redirect is followed, no proxy is asked, and only the head of the answer is read.
    """
    try:
        parts = allowed.require(url)
        host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
        connected = _connect(allowed.resolve(host, port), port)
    except (OSError, InputError, ValueError):
        return None
    connection = http.client.HTTPConnection(host, port)
    connection.auto_open = 0  # never by the name, which would not be checked
    watch = None
    try:
        if parts.scheme == "https":
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        # The limit of a socket is for each byte; this one is for the whole attempt. The method of the plain socket leaves the TLS
        # object alone, which another thread is using.
        watch = threading.Timer(SECONDS, _cut, [connected])
        watch.start()
        if isinstance(connected, ssl.SSLSocket):
            connected.do_handshake()
        connection.sock = connected
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"Host": parts.netloc, "Content-Type": "application/json", **headers})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        if watch is not None:
            watch.cancel()
        connected.close()


def _connect(addresses: list[str], port: int) -> socket.socket:
    """Connect to the first address that answers.

    Raises:
        OSError: no address answers in time.
    """
    error: OSError = ConnectionError("there is no address")
    until = time.monotonic() + SECONDS
    for address in addresses:
        if (left := until - time.monotonic()) <= 0:
            break
        try:
            connected = socket.create_connection((address, port), timeout=left)
        except OSError as failed:
            error = failed
        else:
            connected.settimeout(SECONDS)
            return connected
    raise error


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)

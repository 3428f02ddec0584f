"""Callbacks of OpenDSR: a signed POST to the addresses of a request whenever its status changes.

The body has the five fields that the specification requires, and no others. A callback is made at least once: an answer other than
2xx within `SECONDS`, redirects included, is an attempt that failed, and the next one follows after 30 seconds, then after twice as
long each time up to six hours. After `MOST_ATTEMPTS`, which take about five days, a status is given up; they are counted from the
status that was acknowledged or given up last, so one that comes up meanwhile has those that are left. What is due lies in the
ledger's database, so a restart goes on with it.
"""

import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from unlearn.requests.ledger.callback_addresses import PORTS, AllowedCallbacks
from unlearn.requests.ledger.callbacks import Callback, callbacks, claim, settle
from verify.errors import InputError

if TYPE_CHECKING:
    from unlearn.requests.http.service import Service

LOG = logging.getLogger("unlearn.callbacks")
SECONDS = 10.0
"""Time to connect to one address of a host, and again from there to the head of the answer."""
EVERY = 5.0
"""Seconds between two looks at what is due."""
FIRST_DELAY = timedelta(seconds=30)
LONGEST_DELAY = timedelta(hours=6)
MOST_ATTEMPTS = 30
FINAL = ("completed", "cancelled")
"""Status words after which no other one comes."""


def delay(attempts: int) -> timedelta:
    """Return how long to wait after this many attempts (at least one)."""
    return min(FIRST_DELAY * (1 << min(attempts - 1, 20)), LONGEST_DELAY)


class CallbackSender:
    """Makes the callbacks that are due, one after another.

    Attributes:
        service: ledger, keys and allowed addresses.
        clock: returns the time with time zone; replaced in tests.
    """

    def __init__(self, service: "Service", clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.service, self.clock = service, clock
        self._seen: str | None = None  # the ledger's head when every callback was looked at

    def run(self, stop: threading.Event) -> None:
        """Make callbacks until `stop` is set; after an error, such as a database that cannot be reached, it goes on."""
        while not stop.wait(EVERY):
            try:
                self.turn(stop)
            except Exception as error:  # noqa: BLE001 - the sender goes on, and the log reveals no internals
                LOG.error("callbacks wait: %s", type(error).__name__)

    def turn(self, stop: threading.Event | None = None) -> int:
        """Make every callback that is due once; return how many were acknowledged."""
        done, head = 0, self.service.ledger.head()
        for callback in callbacks(self.service.ledger):
            if stop is not None and stop.is_set():
                return done
            if head != self._seen or callback.attempts:  # else no status can have changed, and nothing is to be repeated
                done += self._made(callback)
        self._seen = head
        return done

    def _made(self, callback: Callback) -> bool:
        """Make one callback if its request has a new status and its time has come; return whether it was acknowledged."""
        ledger, now = self.service.ledger, self.clock()
        status, facts = self.service.callback(callback.request, callback.url)
        if status == callback.told or (callback.due is not None and now < callback.due):
            return False
        attempts = callback.attempts + 1
        if not claim(ledger, callback, now + delay(attempts)):
            return False
        body, headers = self.service.sealed(facts)
        answer = post(callback.url, body, headers, self.service.callbacks)
        accepted = answer is not None and 200 <= answer < 300
        if accepted or attempts >= MOST_ATTEMPTS:
            settle(ledger, callback, status, last=status in FINAL)
        # The address may contain anything, so it is not logged.
        what = "acknowledged" if accepted else "given up" if attempts >= MOST_ATTEMPTS else "failed"
        level = logging.INFO if accepted else logging.WARNING
        LOG.log(level, "%s %s %s attempt %d: %s", callback.request, status, what, attempts, answer or "no answer")
        return accepted


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: AllowedCallbacks) -> int | None:
    """Send a body to an address that may be called, and return the status of the answer; None without one.

    The connection is made to an address that was checked, so a name that resolves otherwise a moment later makes no difference. No
    redirect is followed, no proxy asked, and nothing of the answer is read but its head.
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
        OSError: none does.
    """
    error: OSError = ConnectionError("there is no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=SECONDS)
        except OSError as failed:
            error = failed
    raise error


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)

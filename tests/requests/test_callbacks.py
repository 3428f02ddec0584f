"""Callbacks of OpenDSR: signed, to allowed machines alone, repeated until they are acknowledged, and taken up after a restart."""

import base64
import json
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bad_requests import good_request
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from ledger_walks import MODELS

pytest.importorskip("fastapi", reason="the HTTP service is not installed (pip install 'unlearn-verify[serve]')")

from unlearn.requests.http import callbacks as sending
from unlearn.requests.http.callbacks import FIRST_DELAY, LONGEST_DELAY, MOST_ATTEMPTS, CallbackSender, delay, post
from unlearn.requests.http.service import Service
from unlearn.requests.ledger.callback_addresses import AllowedCallbacks
from unlearn.requests.ledger.callbacks import callbacks
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.tables import CALLBACKS, EVENTS
from verify.certificate.statements import load_signer, make_key
from verify.data.identity import RecordKey
from verify.errors import InputError

THIS_MACHINE = ("127.0.0.0/8", "::1/128")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Receiver:
    """A caller's server on this machine: what it received, and the statuses with which it answers next (then 202)."""

    port: int = 0
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    drip: bool = False

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/told"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    own = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            own.received.append((self.path, dict(self.headers), body))
            if own.drip:
                for _ in range(100):
                    self.wfile.write(b"H")
                    time.sleep(0.1)
            self.send_response(own.answers.pop(0) if own.answers else 202)
            self.send_header("Location", f"{own.url}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None  # type: ignore[assignment]
    own.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield own
    server.shutdown()
    server.server_close()


@dataclass
class Desk:
    """A service whose caller may be called, and a clock that is set by hand."""

    service: Service
    receiver: Receiver
    now: datetime = NOW

    def ask(self, **changes: Any) -> str:
        body = good_request(**{"status_callback_urls": [self.receiver.url], **changes})
        self.service.receive(json.dumps(body).encode(), "shop")
        return self.service.ledger.requests()[-1].id

    def sender(self) -> CallbackSender:
        return CallbackSender(self.service, lambda: self.now)

    def told(self) -> list[str]:
        return [json.loads(body)["request_status"] for _, _, body in self.receiver.received]


@pytest.fixture(params=["sqlite", "postgresql"])
def desk(request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver) -> Iterator[Desk]:
    make_key(tmp_path / "receipts.key")
    ledger = Ledger(tmp_path / "ledger.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres"))
    allowed = AllowedCallbacks.of([receiver.host], THIS_MACHINE)
    yield Desk(
        Service(ledger, RecordKey.load(), load_signer(tmp_path / "receipts.key"), "requests.example.org", None, allowed), receiver
    )
    ledger.close()


on_sqlite = pytest.mark.parametrize("desk", ["sqlite"], indirect=True)


def start(ledger: Ledger, name: str) -> None:
    """Walk a request until its status is in_progress."""
    for state in ("identity_verified", "matched", "planned", "unlearning"):
        ledger.advance(name, state)  # type: ignore[arg-type]


def finish(ledger: Ledger, name: str) -> None:
    ledger.advance(name, "verifying")
    ledger.advance(name, "deployed", models=MODELS)
    ledger.advance(name, "purged", residual=[], retired=["a" * 64])
    ledger.advance(name, "closed")


def test_each_change_of_status_is_told(desk: Desk) -> None:
    """Five fields and no others, signed by the service's key; nothing before the status changes, nothing twice, and the address is
    in no event and goes with the last status."""
    name, sender = desk.ask(), desk.sender()
    ledger = desk.service.ledger
    assert sender.turn() == 0
    start(ledger, name)
    assert [sender.turn(), sender.turn()] == [1, 0]
    ((path, headers, body),) = desk.receiver.received
    request = ledger.request(name)
    assert json.loads(body) == {
        "controller_id": "shop",
        "expected_completion_time": f"{request.due}T23:59:59Z",
        "request_status": "in_progress",
        "status_callback_url": desk.receiver.url,
        "subject_request_id": request.first["external_id"],
    }
    key = load_pem_public_key(desk.service.public_key())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(headers["X-OpenDSR-Signature"]), body)
    assert (path, headers["X-OpenDSR-Processor-Domain"]) == ("/told", "requests.example.org")
    assert (headers["Host"], headers["Content-Type"]) == (desk.receiver.host, "application/json")
    finish(ledger, name)
    assert [sender.turn(), sender.turn()] == [1, 0]
    assert desk.told() == ["in_progress", "completed"]
    assert callbacks(ledger) == []
    with ledger.writing() as connection:
        assert not any(desk.receiver.url in row.details for row in connection.execute(sa.select(EVENTS)))
    ledger.verify()


def test_a_failed_callback_is_repeated_after_a_restart(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """No earlier than it is due, and each time later; another process takes up what one had begun. The log names no address."""
    name = desk.ask()
    start(desk.service.ledger, name)
    desk.receiver.answers = [500, 302, 404]
    caplog.set_level(logging.INFO, "unlearn.callbacks")
    for attempt in range(1, 4):
        assert desk.sender().turn() == 0
        assert len(desk.receiver.received) == attempt, "a redirect is not followed"
        desk.now += delay(attempt) - timedelta(seconds=1)
        assert desk.sender().turn() == 0
        assert len(desk.receiver.received) == attempt, "it is not due yet"
        desk.now += timedelta(seconds=1)
        ledger = Ledger(desk.service.ledger.url)
        desk.service.ledger.close()
        desk.service = replace(desk.service, ledger=ledger)
    assert desk.sender().turn() == 1
    assert desk.told() == ["in_progress"] * 4
    (left,) = callbacks(desk.service.ledger)
    assert (left.told, left.attempts) == ("in_progress", 0)
    assert f"{name} in_progress acknowledged attempt 4: 202" in caplog.text
    assert desk.receiver.host not in caplog.text
    desk.service.ledger.close()


@on_sqlite
def test_a_status_is_given_up_at_last(desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Delays double up to six hours, about five days in all; the next status is told nevertheless, the last one is forgotten."""
    delays = [delay(attempt) for attempt in range(1, MOST_ATTEMPTS)]
    assert (delays[0], delays[1], delays[-1]) == (FIRST_DELAY, 2 * FIRST_DELAY, LONGEST_DELAY)
    assert timedelta(days=4.5) < sum(delays, timedelta()) < timedelta(days=5.5)
    name = desk.ask()
    tried: list[str] = []
    monkeypatch.setattr(sending, "post", lambda url, *_: tried.append(url))
    for step, told in ((start, "in_progress"), (finish, None)):
        step(desk.service.ledger, name)
        tried.clear()
        for _ in range(MOST_ATTEMPTS + 3):
            desk.sender().turn()
            desk.now += LONGEST_DELAY
        assert len(tried) == MOST_ATTEMPTS, "each status has attempts of its own"
        assert [one.told for one in callbacks(desk.service.ledger)] == ([told] if told else [])
    assert caplog.text.count("given up") == 2


@on_sqlite
def test_a_kill_during_a_callback_repeats_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted before it is made, it is made again when it is due: at least once, and not at once again and again."""
    start(desk.service.ledger, desk.ask())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sending, "post", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.sender().turn()
    assert desk.sender().turn() == 0
    desk.now += FIRST_DELAY
    assert (desk.sender().turn(), desk.told()) == (1, ["in_progress"])


def test_two_processes_make_a_callback_once(desk: Desk) -> None:
    """Of two that look at the same moment, one counts the attempt and makes it."""
    for _ in range(3):
        start(desk.service.ledger, desk.ask(subject_request_id=good_request()["subject_request_id"]))
    together = threading.Barrier(4)

    def look() -> None:
        own = Ledger(desk.service.ledger.url)
        sender = CallbackSender(replace(desk.service, ledger=own), lambda: NOW)
        together.wait()
        sender.turn()
        own.close()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert desk.told() == ["in_progress"] * 3


@on_sqlite
def test_a_slow_receiver_is_cut_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte after the other does not hold up the others: the time is for the whole attempt."""
    monkeypatch.setattr(sending, "SECONDS", 0.4)
    start(desk.service.ledger, desk.ask())
    desk.receiver.drip = True
    began = time.monotonic()
    assert desk.sender().turn() == 0
    assert time.monotonic() - began < 5


@on_sqlite
def test_a_status_has_attempts_of_its_own(desk: Desk) -> None:
    """What one status used up is not taken from the next, which waits no longer than an attempt may take; they arrive in order."""
    ledger, name = desk.service.ledger, desk.ask()
    start(ledger, name)
    desk.receiver.answers = [500] * 5
    for attempt in range(1, 5):
        desk.sender().turn()
        desk.now += delay(attempt)
    desk.sender().turn()
    (waiting,) = callbacks(ledger)
    assert (waiting.status, waiting.attempts, waiting.due) == ("in_progress", 5, desk.now + delay(5))
    finish(ledger, name)
    desk.now += FIRST_DELAY - timedelta(seconds=1)
    assert (desk.sender().turn(), len(desk.receiver.received)) == (0, 5), "the last attempt may still be under way elsewhere"
    desk.now += timedelta(seconds=1)
    desk.receiver.answers = [500]
    assert desk.sender().turn() == 0
    (waiting,) = callbacks(ledger)
    assert (waiting.status, waiting.attempts, waiting.due) == ("completed", 1, desk.now + delay(1))
    desk.now += delay(1)
    assert (desk.sender().turn(), callbacks(ledger)) == (1, [])
    assert desk.told() == ["in_progress"] * 5 + ["completed"] * 2


@pytest.mark.slow
@on_sqlite
def test_a_host_that_hangs_holds_up_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes one attempt's time, of itself alone; another host is told meanwhile, also of what comes up later, in order."""
    monkeypatch.setattr(sending, "SECONDS", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and never answers
        hanging = f"127.0.0.1:{silent.getsockname()[1]}"
        allowed = AllowedCallbacks.of([desk.receiver.host, hanging], THIS_MACHINE)
        desk.service = replace(desk.service, callbacks=allowed)
        ledger, names = desk.service.ledger, []
        for number in range(3):
            urls = [f"http://{hanging}/", desk.receiver.url]
            names.append(desk.ask(subject_request_id=f"{number}" * 8 + "-0000-4000-8000-000000000000", status_callback_urls=urls))
            start(ledger, names[-1])
        sender, stop, began = desk.sender(), threading.Event(), time.monotonic()
        stuck, good = sorted(sender.look(stop), key=lambda lane: lane is not sender._lanes[hanging])
        assert good.result(timeout=1) == 3
        assert not stuck.done()
        finish(ledger, names[0])
        (again,) = sender.look(stop)
        assert (again.result(timeout=1), stuck.done()) == (1, False), "a lane that is still running is not begun twice"
        assert time.monotonic() - began < 1.5
        assert desk.told() == ["in_progress"] * 3 + ["completed"]
        assert stuck.result(timeout=10) == 0
        tried = [one.attempts for one in callbacks(ledger) if hanging in one.url]
        assert sorted(tried) == [0, 0, 1], "the others of a host that does not answer wait for the next look"
        assert len(sender.look(stop)) == 1, "they are still due"


@on_sqlite
def test_what_an_earlier_version_counted_goes_on(desk: Desk) -> None:
    """Attempts of a ledger from before statuses had their own are taken as those of the status to send."""
    ledger, name = desk.service.ledger, desk.ask()
    start(ledger, name)
    with ledger.writing() as connection:
        connection.execute(CALLBACKS.update().values(attempts=7, due=(NOW + delay(7)).isoformat()))
    assert (desk.sender().turn(), desk.told()) == (0, [])
    desk.now += delay(7)
    assert (desk.sender().turn(), desk.told()) == (1, ["in_progress"])


@on_sqlite
def test_a_host_that_is_no_longer_allowed_is_not_called(desk: Desk) -> None:
    """The operator's list counts when a callback is made, also for requests from before."""
    start(desk.service.ledger, desk.ask())
    desk.service = replace(desk.service, callbacks=AllowedCallbacks.of(["shop.example.org"], THIS_MACHINE))
    assert (desk.sender().turn(), desk.receiver.received) == (0, [])
    desk.service = replace(desk.service, callbacks=AllowedCallbacks.of([desk.receiver.host]))
    desk.now += FIRST_DELAY
    assert (desk.sender().turn(), desk.receiver.received) == (0, []), "this machine is not public"


ALLOWED = AllowedCallbacks.of(["shop.example.org", "other.example.org:8443", "127.0.0.1:80", "[::1]", "localhost"])


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example.org/told",
        "https://SHOP.example.org:443/told?of=1",
        "https://other.example.org:8443",
        "http://127.0.0.1/told",
        "http://[::1]/told",
        "http://localhost/",
    ],
)
def test_allowed_addresses(url: str) -> None:
    """HTTPS to the hosts that are named, with their port; plain HTTP to this machine."""
    assert ALLOWED.require_all([url, url]) == (url,)


@pytest.mark.parametrize(
    "urls",
    [
        ["http://shop.example.org/told"],
        ["https://shop.example.org:8443/told"],
        ["https://other.example.org/told"],
        ["https://example.org/told"],
        ["https://shop.example.org.evil.example/told"],
        ["https://shop.example.org@evil.example/told"],
        ["https://evil.example\\@shop.example.org/told"],
        ["https://me:hunter2@shop.example.org/told"],
        ["https://shop.example.org/told#hunter2"],
        ["https://shop.example.org/to ld"],
        ["https://shop.example.org/\r\nX: y"],
        ["https://shop.example.org/t\u00f6ld"],
        ["https://shop.example.org:x/told"],
        ["https://shop.example.org./told"],
        ["https://[shop.example.org]/told"],
        ["ftp://shop.example.org/told"],
        ["//shop.example.org/told"],
        ["https:shop.example.org"],
        ["https://shop.example.org/" + "a" * 500],
        ["https://shop.example.org/told", ""],
        [f"https://shop.example.org/{number}" for number in range(6)],
        [1],
        "https://shop.example.org/told",
        {"a": "b"},
    ],
)
def test_addresses_that_are_refused(urls: Any) -> None:
    """Whatever another program could read otherwise, or the operator has not named; the message repeats nothing of it."""
    with pytest.raises(InputError) as refused:
        ALLOWED.require_all(urls)
    assert not any(word in str(refused.value) for word in ("hunter2", "evil", "told"))


@on_sqlite
def test_a_refused_address_refuses_the_request(desk: Desk) -> None:
    """Aloud, and nothing is recorded: neither the request nor its other addresses."""
    with pytest.raises(InputError, match="may not be called"):
        desk.ask(status_callback_urls=[desk.receiver.url, "https://evil.example/"])
    assert (desk.service.ledger.requests(), callbacks(desk.service.ledger)) == ([], [])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff0e::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ],
)
def test_private_addresses_are_not_called(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to one, even beside a public one, in whatever spelling: nothing is connected to."""

    def resolve(addresses: list[str]) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (one, 443)) for one in addresses])

    connected: list[Any] = []

    def connect(place: tuple[str, int], timeout: float) -> Any:
        connected.append(place)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    for addresses in ([address], ["93.184.216.34", address]):
        resolve(addresses)
        assert post("https://shop.example.org/told", b"{}", {}, ALLOWED) is None
        assert connected == []
    resolve(["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
    assert post("https://shop.example.org/told", b"{}", {}, ALLOWED) is None
    assert connected == [("93.184.216.34", 443), ("2606:2800:220:1:248:1893:25c8:1946", 443)], "the address that was checked"


def test_a_private_network_can_be_named() -> None:
    """It opens itself and nothing beside it."""
    import ipaddress

    allowed = AllowedCallbacks.of(["shop.example.org"], ["10.1.0.0/16"])
    assert [allowed.may_call(ipaddress.ip_address(one)) for one in ("10.1.2.3", "::ffff:10.1.2.3", "10.2.0.1")] == [
        True,
        True,
        False,
    ]
    for networks in (["10.1.0.1/16"], ["everything"], [""]):
        with pytest.raises(InputError, match="--callback-networks"):
            AllowedCallbacks.of([], networks)
    for host in ("https://shop.example.org", "shop.example.org/told", "", "a b", "*.example.org"):
        with pytest.raises(InputError, match="--callback-hosts"):
            AllowedCallbacks.of([host])


def test_tls_is_checked(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver with a certificate for its name is told; one whose certificate is for another name, or of nobody, is not."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    if subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("openssl is not installed, or too old for -addext")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[assignment]
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    port = server.server_address[1]
    allowed = AllowedCallbacks.of([f"localhost:{port}", f"127.0.0.1:{port}"], THIS_MACHINE)
    assert post(f"https://localhost:{port}/", b"{}", {}, allowed) is None, "nobody vouches for it"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert post(f"https://localhost:{port}/", b"{}", {}, allowed) == 501, "it answers that it does not know POST"
    assert post(f"https://127.0.0.1:{port}/", b"{}", {}, allowed) is None, "the certificate is for another name"
    server.shutdown()
    server.server_close()


@on_sqlite
def test_the_sender_runs_beside_the_service(desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Until it is stopped; an error is logged by its kind and does not end it."""
    monkeypatch.setattr(sending, "EVERY", 0.01)
    faults = [RuntimeError("hunter2")]
    whole = CallbackSender.look

    def look(self: CallbackSender, stop: threading.Event) -> Any:
        if faults:
            raise faults.pop()
        return whole(self, stop)

    monkeypatch.setattr(CallbackSender, "look", look)
    stop = threading.Event()
    thread = threading.Thread(target=desk.sender().run, args=[stop])
    thread.start()
    start(desk.service.ledger, desk.ask())
    limit = time.monotonic() + 10
    while not desk.receiver.received and time.monotonic() < limit:
        time.sleep(0.01)
    stop.set()
    thread.join(timeout=10)
    assert (thread.is_alive(), desk.told()) == (False, ["in_progress"])
    assert ("RuntimeError" in caplog.text, "hunter2" in caplog.text) == (True, False)

"""Requests over HTTP: the same ledger, signed receipts, and nothing of anybody in any answer, log line or file."""

import base64
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bad_requests import PLANTED, SORTS, bad_requests, good_request
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

pytest.importorskip("fastapi", reason="the HTTP service is an extra (pip install 'unlearn-verify[serve]')")

import uvicorn
from fastapi.testclient import TestClient

import unlearn.cli.main
from unlearn.requests.http import status_page
from unlearn.requests.http.guard import RateLimit
from unlearn.requests.http.heads import LARGEST_HEAD, MOST_LINES, HeadCheck
from unlearn.requests.http.openapi import RESOURCE
from unlearn.requests.http.service import RESOURCES, PromptProtocol, Service, make_app
from unlearn.requests.http.tokens import Tokens, new_token
from unlearn.requests.ledger.intake import LARGEST_BODY, MOST_IDENTITIES
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.tables import EVENTS
from verify.certificate.statements import load_signer, make_key
from verify.data.identity import RecordKey
from verify.errors import InputError, RunError

REQUESTS = "/v1/opengdpr_requests"


@dataclass
class World:
    """A service with two callers and the operator."""

    folder: Path
    service: Service
    tokens: dict[str, str]
    client: Any

    def headers(self, caller: str = "shop") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[caller]}"}

    def post(self, caller: str = "shop", **changes: Any) -> Any:
        return self.client.post(REQUESTS, json=good_request(**changes), headers=self.headers(caller))


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The service over an empty ledger, on either database."""
    make_key(tmp_path / "receipts.key")
    tokens = {name: new_token(tmp_path / "tokens", name) for name in ("shop", "clinic", "operator")}
    ledger = Ledger(tmp_path / "ledger.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres"))
    service = Service(ledger, RecordKey.load(), load_signer(tmp_path / "receipts.key"), "requests.example.org")
    app = make_app(service, Tokens.load(tmp_path / "tokens"), per_minute=1_000_000)
    with TestClient(app) as client:
        yield World(tmp_path, service, tokens, client)
    ledger.close()


def require_signed(response: Any, key: bytes, content: bytes | None = None) -> None:
    public = load_pem_public_key(key)
    assert isinstance(public, Ed25519PublicKey)
    public.verify(base64.b64decode(response.headers["X-OpenDSR-Signature"]), content or response.content)


def test_the_whole_way(world: World) -> None:
    """Discovery, request, status, withdrawal: each as OpenDSR 1.0 names it, signed, and in the ledger as from the command line."""
    discovery = world.client.get("/v1/discovery")
    assert discovery.json()["supported_subject_request_types"] == ["erasure"]
    key = world.client.get("/v1/processor.pub").content
    received = world.post()
    assert received.status_code == 201
    facts = received.json()
    assert facts["controller_id"] == "shop"
    assert facts["expected_completion_time"] == "2026-11-02T23:59:59Z"
    assert facts["ledger_head"] == world.service.ledger.head()
    (known,) = world.service.ledger.requests()
    assert known.subjects == (RecordKey.load().of(PLANTED[0], "subject"),)
    assert known.first["external_id"] == facts["subject_request_id"]
    place = f"{REQUESTS}/{facts['subject_request_id']}"
    status = world.client.get(place, headers=world.headers())
    assert status.json()["request_status"] == "pending"
    withdrawn = world.client.delete(place, headers=world.headers())
    assert withdrawn.status_code == 202
    assert world.client.get(place, headers=world.headers()).json()["request_status"] == "cancelled"
    assert world.client.delete(place, headers=world.headers()).status_code == 409
    for answer in (discovery, received, status, withdrawn):
        require_signed(answer, key)
        assert answer.headers["X-OpenDSR-Processor-Domain"] == "requests.example.org"
    with pytest.raises(InvalidSignature):
        require_signed(received, key, received.content.replace(b"2026", b"2027"))
    assert world.service.ledger.verify() == 2


def test_status_words(world: World) -> None:
    """The ledger's states in OpenDSR's four words; a refusal says how it ended."""
    identifier = world.post().json()["subject_request_id"]
    (known,) = world.service.ledger.requests()
    words = []
    steps: list[tuple[Any, dict[str, Any]]] = [
        ("identity_verified", {}),
        ("matched", {}),
        ("planned", {}),
        ("unlearning", {}),
        ("verifying", {}),
    ]
    for state, details in steps:
        world.service.ledger.advance(known.id, state, **details)
        words.append(world.client.get(f"{REQUESTS}/{identifier}", headers=world.headers()).json()["request_status"])
    assert words == ["pending"] * 3 + ["in_progress"] * 2
    models = [{"before": "a" * 64, "after": "b" * 64, "verdict": "EQUIVALENT_WITHIN"}]
    world.service.ledger.advance(known.id, "deployed", models=models)
    assert world.client.delete(f"{REQUESTS}/{identifier}", headers=world.headers()).status_code == 409
    other = world.post().json()["subject_request_id"]
    name = world.service.ledger.requests()[1].id
    world.service.ledger.advance(name, "denied", reason="no right to it")
    world.service.ledger.advance(name, "closed")
    answer = world.client.get(f"{REQUESTS}/{other}", headers=world.headers()).json()
    assert (answer["request_status"], answer["outcome"]) == ("completed", "denied")


def test_each_caller_sees_its_own(world: World) -> None:
    """Another caller's request is not there, for reading or withdrawing; without a token nothing is."""
    identifier = world.post().json()["subject_request_id"]
    for method in ("get", "delete"):
        call = getattr(world.client, method)
        assert call(f"{REQUESTS}/{identifier}", headers=world.headers("clinic")).status_code == 404
        assert call(f"{REQUESTS}/{identifier}").status_code == 401
    assert world.post("clinic", subject_request_id=identifier).status_code == 409
    assert len(world.service.ledger.requests()) == 1


def test_the_same_request_again_gets_the_same_receipt(world: World) -> None:
    """A caller that never saw the answer may send again: byte for byte the same receipt, and one request; with another content,
    the id is taken."""
    body = good_request()
    first = world.client.post(REQUESTS, json=body, headers=world.headers())
    world.post()
    again = world.client.post(REQUESTS, json=body, headers=world.headers())
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["X-OpenDSR-Signature"] == first.headers["X-OpenDSR-Signature"]
    assert world.post(subject_request_id=body["subject_request_id"], regulation="ccpa").status_code == 409
    assert len(world.service.ledger.requests()) == 2


def identities(count: int, kind: str = "email", value: str = "") -> dict[str, Any]:
    entries = [{"identity_type": kind, "identity_value": value or f"person{n}@example.org"} for n in range(count)]
    return {"subject_identities": [entry | {"identity_format": "raw"} for entry in entries]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (identities(21), "at most 20"),
        (identities(1, kind="ios_advertising_id"), "email"),
        ({"subject_identities": [{"identity_value": "a@example.org"}]}, "identity_type"),
        (identities(1, value="x" * 501), "500 characters"),
        ({"status_callback_urls": ["https://example.org/callback"]}, "callbacks are not made"),
    ],
)
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_what_is_not_served_is_refused_aloud(world: World, changes: dict[str, Any], said: str) -> None:
    """Too many, too long and unknown identities, and callbacks: 400 with the limit, and nothing noted."""
    answer = world.post(**changes)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True)
    assert world.service.ledger.requests() == []


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_the_same_name_twice_is_refused(world: World) -> None:
    """A body that can be read in two ways is not read."""
    body = json.dumps(good_request()).replace(
        '"subject_request_type"', '"subject_request_type": "access", "subject_request_type"', 1
    )
    headers = {**world.headers(), "Content-Type": "application/json"}
    answer = world.client.post(REQUESTS, content=body.encode(), headers=headers)
    assert (answer.status_code, "same name twice" in answer.text) == (400, True)
    assert world.service.ledger.requests() == []


def test_health(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token: 200 while the ledger can be read, 503 with our own words when not."""
    assert world.client.get("/health").json() == {"status": "ok"}

    def fail(*_: object) -> None:
        raise RunError(PLANTED[0])

    monkeypatch.setattr(Ledger, "head", fail)
    answer = world.client.get("/health")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the ledger cannot be read.")


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_the_interface_is_described(world: World) -> None:
    """Every route is in the OpenAPI description with its methods, and nothing else; its limits are those of the intake."""
    described = world.client.get("/v1/openapi.json").json()
    listed = {(path, method) for path, entry in described["paths"].items() for method in entry if method != "parameters"}
    others = [f"/v1/{name}" for name in RESOURCES if f"/v1/{name}" != RESOURCE]
    routes = {
        (route.path, method.lower())
        for route in world.client.app.app.routes
        for method in route.methods - {"HEAD"}
        if not any(route.path.startswith(other) for other in others)
    }
    assert listed == routes
    listed_identities = described["components"]["schemas"]["Request"]["properties"]["subject_identities"]
    assert listed_identities["maxItems"] == MOST_IDENTITIES


def test_the_status_page(world: World) -> None:
    """Counts and deadlines for the operator alone, with a browser's password; no id, hash or name, no script, a strict policy."""
    world.post()
    world.post(submitted_time="2020-01-01T00:00:00Z")
    assert world.client.get("/status", headers=world.headers()).status_code == 403
    page = world.client.get("/status", auth=("anybody", world.tokens["operator"]))
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert "2 requests in total, 2 of them open" in page.text
    for request in world.service.ledger.requests():
        assert not any(value in page.text for value in (request.id, *request.subjects, request.first["external_id"]))


def test_deadlines_on_the_status_page(world: World) -> None:
    """Each open request is counted under its deadline, a closed one under none."""
    days = ["2026-01-01", "2026-01-20", "2026-01-25", "2026-02-10"]
    for day in days:
        world.post(submitted_time=f"{day}T00:00:00Z")
    page = status_page.render(world.service.ledger.requests(), date(2026, 2, 20))
    rows = dict(
        pair.split("</th><td>")
        for pair in page.replace('<tr><th scope="row">', "\n").replace("</td></tr>", "\n").split("\n")
        if "</th><td>" in pair
    )
    assert rows == {"received": "4", "overdue": "1", "in the next 7 days": "2", "in 8 to 30 days": "1", "later": "0"}


def test_headers_and_no_documentation(world: World) -> None:
    """Every answer carries the security headers and no server's name; there is no page that describes the interface."""
    for path in ("/", "/docs", "/redoc", "/openapi.json", "/v1/discovery", "/v1/requests/x"):
        answer = world.client.get(path, headers=world.headers())
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "server" not in answer.headers
        assert answer.status_code == (200 if path == "/v1/discovery" else 404)
    assert world.client.get("/v1/requests").status_code == 401
    assert world.client.put(REQUESTS, headers=world.headers()).status_code == 405


def test_tokens(tmp_path: Path) -> None:
    """Only digests are kept, in a file of the owner's; a damaged file, a second token and a bad name are refused."""
    path = tmp_path / "tokens"
    token = new_token(path, "shop")
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    tokens = Tokens.load(path)
    assert tokens.caller(token) == "shop"
    assert [tokens.caller(other) for other in ("", token[:-1], token + "x", "\udcff")] == [None] * 4
    with pytest.raises(InputError, match="already"):
        new_token(path, "shop")
    with pytest.raises(InputError, match="not a valid caller name"):
        new_token(path, "Zebedee Quillfeather")
    for content in ("", "shop\n", "shop abc\n", f"{path.read_text()}shop", f"Sh!op {'a' * 64}\n", "é"):
        path.write_text(content)
        with pytest.raises(InputError, match="not a token file"):
            Tokens.load(path)


def test_a_token_ends_with_its_line(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A service that runs reads the file again: a line taken out ends the token at once, a new one counts, and while the file is
    damaged or gone nobody is let in."""
    path = world.folder / "tokens"
    whole = path.read_text()

    def status(token: str) -> int:
        return int(world.client.get(f"{REQUESTS}/x", headers={"Authorization": f"Bearer {token}"}).status_code)

    old, clinic = world.tokens["shop"], world.tokens["clinic"]
    assert (status(old), status(clinic)) == (404, 404)
    path.write_text("".join(line for line in whole.splitlines(keepends=True) if not line.startswith("shop ")))
    assert (status(old), status(clinic)) == (401, 404)
    assert status(new_token(path, "shop")) == 404
    path.write_text("damaged")
    assert (status(clinic), "is not a token file" in caplog.text) == (401, True)
    path.unlink()
    assert status(clinic) == 401
    path.write_text(whole)
    assert (status(old), status(clinic)) == (404, 404)


def test_the_rate_limit(world: World) -> None:
    """So many requests at once and no more, for each caller by itself; time gives them back; memory is bounded."""
    now = [0.0]
    limit = RateLimit(60, most=3, clock=lambda: now[0])
    assert [limit.wait("a") > 0 for _ in range(61)] == [False] * 60 + [True]
    assert limit.wait("b") == 0
    now[0] += 1.0
    assert limit.wait("a") == 0
    assert limit.wait("a") == pytest.approx(1.0)
    for number in range(1000):
        limit.wait(f"address {number}")
    assert len(limit._buckets) == 3
    with TestClient(make_app(world.service, Tokens.load(world.folder / "tokens"), per_minute=3)) as client:
        answers = [client.get("/status", headers=world.headers("operator")) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert client.get("/v1/discovery").status_code == 200
        assert [client.get("/status").status_code for _ in range(4)] == [401, 401, 429, 429]


def test_a_body_is_read_no_further_than_its_limit(world: World) -> None:
    """A body that says it is too large is not read at all; one that does not say is left at the limit."""
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1 << 16
            yield b" " * (1 << 16)
            assert read <= 4 * LARGEST_BODY, "it was read on and on"

    headers = {**world.headers(), "Content-Type": "application/json"}
    assert world.client.post(REQUESTS, content=b"x", headers={**headers, "Content-Length": "99999999"}).status_code == 413
    body = json.dumps(good_request()).encode()
    assert world.client.post(REQUESTS, content=body.ljust(LARGEST_BODY), headers=headers).status_code == 201
    assert world.client.post(REQUESTS, content=body.ljust(LARGEST_BODY + 1), headers=headers).status_code == 413


def test_a_fault_inside_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the ledger fails, the answer and the log name neither the person nor the fault's own words."""

    def fail(*_: object) -> None:
        raise RuntimeError(PLANTED[0])

    monkeypatch.setattr(Ledger, "add", fail)
    with caplog.at_level(logging.DEBUG):
        answer = TestClient(world.client.app, raise_server_exceptions=False).post(
            REQUESTS, json=good_request(), headers=world.headers()
        )
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == 500
    assert not any(word in answer.text + caplog.text for word in PLANTED)
    assert "RuntimeError" in caplog.text


class Server:
    """A real uvicorn on a free port of the loopback."""

    def __init__(self, app: Any) -> None:
        self.config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=16 << 10,
            http=PromptProtocol,
            limit_concurrency=20,
        )
        self.server = uvicorn.Server(self.config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> "Server":
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=10)

    def send(self, request: bytes, truncated: bool = False) -> bytes:
        """The answer to some bytes; b"" where the server closes without one."""
        answer = b""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=10)) as connection:
            try:
                connection.sendall(request)
                if truncated:
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(1 << 16):
                    answer += part
            except (ConnectionResetError, BrokenPipeError):
                pass
        return answer


HEAD = b"GET /v1/discovery HTTP/1.1\r\nHost: x\r\n"


POST = b"POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SECOND = b"GET /v1/discovery HTTP/1.1\r\nHost: x\r\n\r\n"
AMBIGUOUS = {
    "a length beside chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a length that is none": POST + b"Content-Length: +0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "a bare line feed": b"GET /v1/discovery HTTP/1.1\nHost: x\r\n\r\n",
    "a bare line feed at the end": HEAD + b"\n",
    "a carriage return inside": b"GET /v1/discovery HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "a folded header": HEAD + b" folded: 1\r\n\r\n",
    "a space before the colon": HEAD + b"Content-Length : 0\r\n\r\n",
    "an oversized head in one piece": HEAD + b"X-A: " + b"a" * (LARGEST_HEAD + 1) + b"\r\n\r\n",
}


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_ambiguous_heads_are_refused(world: World) -> None:
    """400 and closed, whether the head comes alone, cut in two, or after a good request; what follows it gets no answer."""
    with Server(world.client.app) as server:
        for name, head in AMBIGUOUS.items():
            answer = server.send(head + SECOND)
            assert (answer[:12], answer.count(b"HTTP/1.1 ")) == (b"HTTP/1.1 400", 1), name
            assert b"connection: close" in answer.lower(), name
            assert server.send(SECOND + head + SECOND).count(b"HTTP/1.1 200") <= 1, name
        chunked = POST + f"Authorization: Bearer {world.tokens['shop']}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        answer = server.send(chunked + b"2\r\n{}\r\n0\r\n\r\n" + SECOND)
        assert (answer[:12], answer.count(b"HTTP/1.1 ")) == (b"HTTP/1.1 400", 1), "after a chunked body nothing is answered"


def test_heads_are_checked_at_any_cut() -> None:
    """Byte by byte or at once, the same is admitted: two requests with bodies, of which one looks like a bad head."""
    whole = POST + b"content-length: 12\r\n\r\nGET / H\n b\n\n" + HEAD + b"\r\n" + SECOND
    assert HeadCheck().admits(whole)
    assert not HeadCheck().admits(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n"), "too many digits to be read as a number"
    for good, content in [(True, whole), *((False, head + SECOND) for head in AMBIGUOUS.values())]:
        check = HeadCheck()
        assert all(check.admits(content[place : place + 1]) for place in range(len(content))) is good


@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"\r\n" + HEAD], ids=["silent", "half a head", "half of the second head"])
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_connections_that_say_nothing_are_closed(world: World, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many connections as there may be, none of which sends the head of a request: they are closed, and others are served."""
    monkeypatch.setattr("unlearn.requests.http.service.HEAD_SECONDS", 0.5)
    whole = HEAD + b"Connection: close\r\n\r\n"
    with Server(world.client.app) as server, ExitStack() as stack:
        silent = []
        for _ in range(25):
            silent.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10)))
            silent[-1].sendall(begun)
        for connection in silent:
            with suppress(ConnectionResetError):
                while connection.recv(1 << 16):  # until the server closes it
                    pass
        assert server.send(whole).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_without_a_token_no_body_is_waited_for(world: World) -> None:
    """As many callers without a token as there may be connections begin a body at a public address and never end it: each is
    refused at once, whatever way its length is told, and others are served."""
    begun = [HEAD + b"Content-Length: 10\r\n\r\n1", HEAD + b"Transfer-Encoding: chunked\r\n\r\na\r\n1"]
    with Server(world.client.app) as server, ExitStack() as stack:
        for number in range(25):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            connection.sendall(begun[number % 2])
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")
        assert server.send(HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_countless_chunks_are_not_read(world: World) -> None:
    """A body in chunks of one byte is cut off, as each costs as much as one of a thousand; in a thousand chunks it is read."""
    content = json.dumps(good_request()).encode()
    head = POST + f"Authorization: Bearer {world.tokens['shop']}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with Server(world.client.app) as server:
        answer = server.send(head + b"1\r\n \r\n" * 1000 + f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 201")
        assert server.send(head + b"1\r\n \r\n" * (1 << 18)) == b""
        assert server.send(HEAD + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    check, plain = HeadCheck(), HeadCheck()
    assert check.admits(head + b"\n" * MOST_LINES)
    assert not check.admits(b"\n")
    assert plain.admits(HEAD + b"Content-Length: 20000\r\n\r\n" + b"\n" * 20000 + SECOND), "lines of other bodies cost nothing"


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_other_protocols_are_not_spoken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks for one, as some programs do each time, is answered in HTTP/1.1; nothing is logged for it."""
    with Server(world.client.app) as server:
        for protocol in (b"h2c", b"websocket", b"x"):
            answer = server.send(HEAD + b"Connection: close, upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), protocol
    assert "pgrade" not in caplog.text


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_json_is_utf8(world: World) -> None:
    """As its standard says: other encodings are no JSON; a byte order mark is passed over."""
    headers = {**world.headers(), "Content-Type": "application/json"}
    for encoding, status in (("utf-16", 400), ("utf-16-le", 400), ("utf-32", 400), ("utf-8-sig", 201), ("utf-8", 201)):
        content = json.dumps(good_request()).encode(encoding)
        assert world.client.post(REQUESTS, content=content, headers=headers).status_code == status, encoding


@pytest.mark.slow
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_a_slow_answer_is_no_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is that of the head alone: what takes longer here, or is asked one after the other, is answered."""
    monkeypatch.setattr("unlearn.requests.http.service.HEAD_SECONDS", 0.3)
    add = Ledger.add
    monkeypatch.setattr(Ledger, "add", lambda *given: (time.sleep(0.8), add(*given))[1])
    body = json.dumps(good_request()).encode()
    head = f"POST {REQUESTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer {world.tokens['shop']}\r\n\r\n"
    with Server(world.client.app) as server:
        answer = server.send(head.encode() + body + HEAD + b"Connection: close\r\n\r\n")
    assert (answer.count(b"HTTP/1.1 201"), answer.count(b"HTTP/1.1 200")) == (1, 1)


def bombard(world: World, count: int) -> tuple[Counter[tuple[str, int]], bytes, float]:
    """Send bad requests to a real server: answers by sort and status, everything that came back, seconds."""
    counts: Counter[tuple[str, int]] = Counter()
    every = b""
    with Server(world.client.app) as server:
        started = time.monotonic()
        for sort, request in bad_requests(count, world.tokens["shop"]):
            answer = server.send(request, truncated=sort in ("truncated body", "no HTTP"))
            counts[sort, int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0] += 1
            every += answer
        seconds = time.monotonic() - started
        alive = server.send(b"GET /v1/discovery HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert alive.startswith(b"HTTP/1.1 200"), "the server did not live on"
    return counts, every, seconds


def rows_of(ledger: Ledger) -> Sequence[Any]:
    """Every event as the database has it."""
    with ledger._engine.connect() as connection:
        return connection.execute(sa.select(EVENTS)).all()


def require_nobody(world: World, *texts: str | bytes) -> None:
    """No planted identifier in texts, in any row of the ledger, or in any file of it."""
    contents = [text.encode() if isinstance(text, str) else text for text in texts]
    contents += [path.read_bytes() for path in world.folder.iterdir() if path.name.startswith("ledger.db")]
    contents += [repr(tuple(row)).encode() for row in rows_of(world.service.ledger)]
    for content in contents:
        assert not any(word.encode() in content for word in (*PLANTED, "zebedee", "quillfeather"))


@pytest.mark.slow
def test_a_thousand_bad_requests(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Bad tokens, oversized, malformed and cut-off bodies, methods, encodings: 4xx answers only, nobody named, nothing noted."""
    with caplog.at_level(logging.DEBUG):
        counts, every, _ = bombard(world, 1000)
    statuses = {status for _, status in counts}
    assert statuses - {0} <= set(range(400, 500)), counts
    # Without an answer: only where the client had gone, or sent no HTTP, or went on sending after the refusal.
    assert {sort for sort, status in counts if status == 0} <= {"truncated body", "no HTTP", "oversized", "oversized unsaid"}, (
        counts
    )
    assert {sort for sort, _ in counts} == set(SORTS)
    assert world.service.ledger.requests() == []
    require_nobody(world, every, caplog.text)


def test_many_at_once(world: World) -> None:
    """Ten clients add forty requests at the same time, one of them twice: each is in the ledger once, and the chain holds."""
    answers: list[int] = []
    twice = good_request()

    def send(number: int) -> None:
        for turn in range(4):
            body = json.dumps(twice if turn == 0 and number < 2 else good_request()).encode()
            head = f"POST {REQUESTS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            head += f"Authorization: Bearer {world.tokens['shop']}\r\nContent-Length: {len(body)}\r\n\r\n"
            answers.append(int(server.send(head.encode() + body)[9:12]))

    with Server(world.client.app) as server:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Counter(answers) == {201: 40}
    assert world.service.ledger.verify() == 39
    require_nobody(world)
    assert len({row.request for row in rows_of(world.service.ledger)}) == 39


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)
def test_the_database_lets_go_of_its_connections(world: World) -> None:
    """The database ends every connection, as a restart does: the next caller is served, and nothing is lost."""
    assert world.post().status_code == 201
    engine = sa.create_engine(world.service.ledger.url)
    with engine.begin() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = current_user"
        assert len(connection.execute(sa.text(others)).all()) > 0
    engine.dispose()
    assert world.post().status_code == 201
    assert world.service.ledger.verify() == 2


@pytest.mark.slow
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
def test_three_thousand_bad_requests(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The same, three times as many and otherwise drawn; none reaches a database."""
    with caplog.at_level(logging.INFO):
        counts, every, _ = bombard(world, 3_000)
    assert {status for _, status in counts} - {0} <= set(range(400, 500)), counts
    assert world.service.ledger.requests() == []
    require_nobody(world, every, caplog.text)


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is shown once; serving in the clear to other machines, half of TLS and a missing extra are refused."""
    assert unlearn.cli.main.main(["new-token", "shop", "--tokens", str(tmp_path / "tokens")]) == 0
    assert Tokens.load(tmp_path / "tokens").caller(capsys.readouterr().out.strip()) == "shop"
    command = ["serve", "--ledger", str(tmp_path / "ledger.db"), "--tokens", str(tmp_path / "tokens"), "--domain", "x.org"]
    command += ["--key", str(tmp_path / "receipts.key")]
    assert unlearn.cli.main.main([*command, "--host", "0.0.0.0"]) == 2
    assert "in the clear" in capsys.readouterr().err
    assert unlearn.cli.main.main([*command, "--certificate", "c.pem"]) == 2
    assert unlearn.cli.main.main([*command, "--per-minute", "0"]) == 2
    assert unlearn.cli.main.main([*command[:-3], "x.org\r\nSet-Cookie: a", *command[-2:]]) == 2
    assert unlearn.cli.main.main(command) == 2
    assert "keygen" in capsys.readouterr().err
    make_key(tmp_path / "receipts.key")
    served: list[dict[str, Any]] = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: served.append({"app": app, **options}))
    assert unlearn.cli.main.main(command) == 0
    assert (served[0]["host"], served[0]["access_log"], served[0]["http"]) == ("127.0.0.1", False, PromptProtocol)
    before = threading.active_count()
    assert unlearn.cli.main.main([*command, "--callback-hosts", "shop.example.org", "--callback-networks", "10.0.0.0/8"]) == 0
    assert threading.active_count() == before, "what makes callbacks ends with the service"
    assert unlearn.cli.main.main([*command, "--callback-hosts", "https://shop.example.org"]) == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert unlearn.cli.main.main(command) == 2
    assert "unlearn-verify[serve]" in capsys.readouterr().err

"""OpenDSR 1.0 service: deletion requests over HTTP, with the same intake and ledger as the command line.

    GET    /v1/discovery               supported versions, identities and request types
    POST   /v1/opengdpr_requests       an erasure request; 201 with a signed receipt
    GET    /v1/opengdpr_requests/ID    status of the request, signed
    DELETE /v1/opengdpr_requests/ID    withdraw it before anything is deleted; 202 with a signed receipt
    GET    /v1/processor.pub           public key for the signatures
    GET    /v1/openapi.json            description of this interface (OpenAPI 3.1)
    GET    /health                     whether the ledger can be read; 503 if not
    GET    /status                     counts and deadlines, for the operator's browser

The same request sent again by the same caller gets the same receipt; another one with its id is refused (409). The resource is also
available as /v1/opendsr_requests and /v1/requests, the names of later versions of the standard. Signatures are Ed25519 over the
body, which is canonical JSON (RFC 8785), in the header X-OpenDSR-Signature (base64). Three deviations from the specification
protect the data subjects or the server: the receipt does not repeat the request (`encoded_request`); callbacks are made only to
hosts that the operator names, and a request for others is refused (`unlearn.requests.http.callbacks`); and the key is a bare public
key, not a certificate from an authority.
"""

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Any

import h11
import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from securesystemslib.signer import CryptoSigner
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from unlearn.requests.http import status_page
from unlearn.requests.http.guard import Guard, RefusedError, error_body
from unlearn.requests.http.heads import HeadCheck
from unlearn.requests.http.openapi import description
from unlearn.requests.http.tokens import OPERATOR, Tokens
from unlearn.requests.ledger.callback_addresses import AllowedCallbacks
from unlearn.requests.ledger.deadlines import today
from unlearn.requests.ledger.intake import IDENTITY_TYPES, NO_CALLBACKS, OPENDSR_VERSION, from_opendsr, request_id
from unlearn.requests.ledger.ledger import Ledger
from unlearn.requests.ledger.request import Request as Known
from verify.data.identity import RecordKey
from verify.errors import InputError, RunError

HEAD_SECONDS = 10.0
"""Seconds that a caller may take to send the head of a request; `guard.BODY_SECONDS` limits the body."""
RESOURCES = ("opengdpr_requests", "opendsr_requests", "requests")
PENDING = ("received", "identity_verified", "matched", "planned")
DISCOVERY = {
    "api_version": OPENDSR_VERSION,
    "supported_identities": [{"identity_type": kind, "identity_format": "raw"} for kind in IDENTITY_TYPES],
    "supported_subject_request_types": ["erasure"],
}


@dataclass(frozen=True)
class Service:
    """Ledger, keys and names that the endpoints share.

    Attributes:
        ledger: where requests are recorded.
        key: hashes identifiers on arrival.
        signer: signs receipts.
        domain: the public host name of the service.
        country: ISO 3166 code of the country whose public holidays count, or None.
        callbacks: where callbacks may be made.
    """

    ledger: Ledger
    key: RecordKey
    signer: CryptoSigner
    domain: str
    country: str | None = None
    callbacks: AllowedCallbacks = NO_CALLBACKS

    def receive(self, body: bytes, caller: str) -> dict[str, Any]:
        """Record a request and return its receipt; the same body of the same caller gets the same receipt again.

        Raises:
            InputError: the request is invalid.
            RefusedError: 409, another request with its id is already in the ledger.
        """
        request = from_opendsr(body, self.key, self.country, self.callbacks)
        source, digest = f"http:{caller}", self.key.of(hashlib.sha256(body).hexdigest(), "request body")
        try:
            known = self.ledger.request(self.ledger.add(replace(request, source=source, body=digest)))
        except InputError:
            earlier = self.ledger.by_external_id(str(request.external_id))
            if earlier is None:
                raise
            if (earlier.first.get("source"), earlier.first.get("body")) != (source, digest):
                message = "another request with this subject_request_id was already received; this one was not added."
                raise RefusedError(409, message) from None
            known = earlier
        first = known.steps[0]
        moment = {"received_time": _iso(datetime.fromisoformat(first.at)), "ledger_head": self.ledger.head(first.sequence)}
        return {**self._named(known, caller, known.deadlines.answer), **moment}

    def status(self, external_id: str, caller: str) -> dict[str, Any]:
        """Return the status of a request.

        Raises:
            RefusedError: 404, this caller sent no such request.
        """
        request = self._own(external_id, caller)
        facts = {**self._named(request, caller, request.due), "request_status": _status_word(request)}
        return facts if request.outcome is None else {**facts, "outcome": request.outcome}

    def withdraw(self, external_id: str, caller: str) -> dict[str, Any]:
        """Withdraw a request.

        Raises:
            RefusedError: 404, this caller sent no such request; 409, it can no longer be withdrawn.
        """
        request = self._own(external_id, caller)
        try:
            self.ledger.advance(request.id, "withdrawn")
        except InputError as error:
            raise RefusedError(409, str(error)) from None
        return {**self._named(request, caller, request.due), "received_time": _now(), "ledger_head": self.ledger.head()}

    def callback(self, name: str, url: str) -> tuple[str, dict[str, Any]]:
        """Return the status of a request, and what an address is sent about it: the fields that OpenDSR requires, no others."""
        request = self.ledger.request(name)
        status, caller = _status_word(request), str(request.first["source"]).removeprefix("http:")
        facts = {**self._named(request, caller, request.due), "request_status": status, "status_callback_url": url}
        del facts["api_version"]
        return status, facts

    def _own(self, external_id: str, caller: str) -> Known:
        """Return the request with this id if this caller sent it; others get the same 404 as for an unknown id."""
        try:
            request = self.ledger.by_external_id(request_id(external_id))
        except InputError:
            request = None
        if request is None or request.first.get("source") != f"http:{caller}":
            raise RefusedError(404, "there is no request with this subject_request_id.")
        return request

    def _named(self, request: Known, caller: str, due: date) -> dict[str, Any]:
        return {
            "api_version": OPENDSR_VERSION,
            "controller_id": caller,
            "subject_request_id": request.first["external_id"],
            "expected_completion_time": _iso(datetime.combine(due, time(23, 59, 59)).astimezone()),
        }

    def signed(self, content: Mapping[str, Any], status: int = 200) -> Response:
        """Return a response of canonical JSON with its signature in the headers."""
        body, headers = self.sealed(content)
        return Response(body, status, headers, "application/json")

    def sealed(self, content: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Return canonical JSON, and the headers with its signature."""
        body = rfc8785.dumps(dict(content))
        signature = base64.b64encode(bytes.fromhex(self.signer.sign(body).signature)).decode()
        headers = {f"X-{name}-Signature": signature for name in ("OpenDSR", "OpenGDPR")}
        return body, headers | {f"X-{name}-Processor-Domain": self.domain for name in ("OpenDSR", "OpenGDPR")}

    def public_key(self) -> bytes:
        """Return the public key as PEM."""
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.signer.public_key.keyval["public"]))
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _now() -> str:
    return _iso(datetime.now(UTC))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _status_word(request: Known) -> str:
    """Return OpenDSR's status word for a request."""
    if request.state == "withdrawn" or request.outcome == "withdrawn":
        return "cancelled"
    if request.state == "closed":
        return "completed"
    return "pending" if request.state in PENDING else "in_progress"


def make_app(service: Service, tokens: Tokens, per_minute: int = 600) -> Guard:
    """Build the service as an ASGI application.

    Args:
        service: ledger, keys and names.
        tokens: the admitted callers.
        per_minute: requests per minute of each caller, and of each address without a token.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    @app.get("/v1/discovery")
    def discovery() -> Response:
        return service.signed({**DISCOVERY, "processor_certificate": f"https://{service.domain}/v1/processor.pub"})

    @app.get("/v1/processor.pub")
    def processor() -> Response:
        return Response(service.public_key(), media_type="application/x-pem-file")

    @app.get("/v1/openapi.json")
    def openapi() -> Response:
        return Response(description(service.domain), media_type="application/json")

    @app.get("/health")
    def health() -> Response:
        try:
            service.ledger.head()
        except RunError:
            raise RefusedError(503, "the ledger cannot be read.") from None
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.get("/status")
    def status(request: Request) -> Response:
        if request.scope["caller"] != OPERATOR:
            raise RefusedError(403, f"the status page is only for the caller named {OPERATOR}.")
        page = status_page.render(service.ledger.requests(), today())
        return Response(page, headers=status_page.HEADERS, media_type="text/html")

    for resource in RESOURCES:
        _add_resource(app, f"/v1/{resource}", service)
    _add_errors(app)
    return Guard(app, tokens, service.key, per_minute)


class PromptProtocol(H11Protocol):
    """HTTP/1.1 protocol of uvicorn with a timeout for the next request head, and without ambiguous heads (`HeadCheck`).

    uvicorn itself waits forever and counts silent connections as busy: a few hundred of them would lock everybody out.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request head."""
        self._heads = HeadCheck()
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Start the timeout of the next request head, as any byte ends uvicorn's own keep-alive timeout."""
        if not self._heads.admits(data):
            if self._heads.final:  # its body, which nobody need wait for, is cut into countless chunks
                self.transport.abort()
            else:
                self._refuse()
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._waiting is None:
            self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._stop()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        """Speak HTTP/1.1 alone, as RFC 9110 allows: another protocol would bypass the limits, and uvicorn logs each attempt."""
        return False

    def _refuse(self) -> None:
        """Answer 400 and close; where an earlier request is still being answered, close after that."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.transport.pause_reading()
            return
        try:
            self.send_400_response("Invalid HTTP request received.")
        except h11.LocalProtocolError:
            self.transport.abort()

    def _start(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def _add_resource(app: FastAPI, path: str, service: Service) -> None:
    @app.post(path)
    async def receive(request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "send the request with Content-Type: application/json.")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "send the request without Content-Encoding.")
        body = await request.body()
        facts = await run_in_threadpool(service.receive, body, request.scope["caller"])
        return service.signed(facts, 201)

    @app.get(path + "/{external_id}")
    def status(external_id: str, request: Request) -> Response:
        return service.signed(service.status(external_id, request.scope["caller"]))

    @app.delete(path + "/{external_id}")
    def withdraw(external_id: str, request: Request) -> Response:
        return service.signed(service.withdraw(external_id, request.scope["caller"]), 202)


def _add_errors(app: FastAPI) -> None:
    """Format every error as an OpenDSR object with our own text; library messages may repeat what was sent."""

    def refuse(_: Request, error: Exception) -> Response:
        if isinstance(error, RefusedError):
            return _error(error.status, error.message, error.headers)
        if isinstance(error, HTTPException):
            message = _MESSAGES.get(error.status_code, "the request cannot be served.")
            return _error(error.status_code, message, dict(error.headers or {}))
        return _error(400, str(error)) if isinstance(error, InputError) else _error(500, "internal error; try again.")

    for kind in (RefusedError, HTTPException, InputError, Exception):
        app.add_exception_handler(kind, refuse)


_MESSAGES = {404: "no such resource. GET /v1/discovery describes the service.", 405: "this method is not supported here."}


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error_body(status, message), status, dict(headers or {}), "application/json")

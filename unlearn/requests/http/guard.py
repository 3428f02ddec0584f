"""Guard of the HTTP service: authentication, rate and size limits, response headers, access log.

Before the application runs, it checks the caller's token, the rate limit and the size of the body, in this order; a body is never
read beyond its limit, and none without a token. Afterwards every response gets security headers and one line in the access log.
Neither a response nor a log line repeats anything that was sent: no path, query or body, and addresses only as keyed hashes.
"""

import asyncio
import base64
import binascii
import ipaddress
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unlearn.requests.http.tokens import Tokens
from unlearn.requests.ledger.intake import LARGEST_BODY
from verify.data.identity import RecordKey

BODY_SECONDS = 30.0
LOG = logging.getLogger("unlearn.access")
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
}
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PUBLIC = ("/v1/discovery", "/v1/processor.pub", "/v1/openapi.json", "/health")
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="unlearn", Basic realm="unlearn"'}


class RefusedError(Exception):
    """Refusal of an HTTP request, with the status and message of the response."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


@dataclass
class RateLimit:
    """Token-bucket rate limit per caller; a burst may use a whole minute's allowance.

    Attributes:
        per_minute: requests per minute, which is also the size of the bucket.
        most: maximum number of remembered callers; beyond it the least recently seen one is dropped.
        clock: returns the time in seconds; replaced in tests.
    """

    per_minute: int
    most: int = 10_000
    clock: Callable[[], float] = time.monotonic
    _buckets: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict, repr=False)

    def wait(self, caller: str) -> float:
        """Count a request; return 0 if it is allowed, else the seconds to wait."""
        now, rate = self.clock(), self.per_minute / 60
        left, since = self._buckets.pop(caller, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - since) * rate)
        allowed = left >= 1
        self._buckets[caller] = (left - allowed, now)
        if len(self._buckets) > self.most:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / rate


def error_body(status: int, message: str) -> bytes:
    """Build an OpenDSR error object."""
    return json.dumps({"error": {"code": status, "message": message}}).encode()


class Guard:
    """ASGI middleware that authenticates, limits and logs."""

    def __init__(self, app: ASGIApp, tokens: Tokens, key: RecordKey, per_minute: int) -> None:
        self.app, self.tokens, self.key = app, tokens, key
        self.limit = RateLimit(per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; close anything but HTTP."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # After a chunked body no further request is read on the connection (`unlearn.requests.http.heads`).
        started, answer = time.monotonic(), _Answer(send, last=any(name == b"transfer-encoding" for name, _ in scope["headers"]))
        scope["caller"] = None
        try:
            scope["caller"] = self._admit(scope)
            if scope["caller"] is None and _has_body(scope):
                raise RefusedError(413, "a body is read only from a caller with a token.")
            body = await asyncio.wait_for(_read(scope, receive), BODY_SECONDS)
            await self.app(scope, _replay(body), answer)
        except RefusedError as refused:
            await answer.refuse(refused.status, refused.message, refused.headers)
        except TimeoutError:
            await answer.refuse(408, "the body did not arrive in time; send it again.")
        except Exception as error:  # noqa: BLE001 - the server keeps running, and the response reveals no internals
            LOG.error("failed: %s", type(error).__name__)
            await answer.refuse(500, "internal error; the request was not processed. Try again.")
        # The route template from our own code, never the path that was sent.
        route = getattr(scope.get("route"), "path", "-")
        method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS") else "-"
        milliseconds = round(1000 * (time.monotonic() - started))
        LOG.info("%s %s %s %s %s %dms", self._address(scope), scope["caller"] or "-", method, route, answer.status, milliseconds)

    def _admit(self, scope: Scope) -> str | None:
        """Authenticate and rate-limit the caller.

        Raises:
            RefusedError: 401 or 429.
        """
        token = _token(scope)
        caller = self.tokens.caller(token) if token else None
        if wait := self.limit.wait(f"token {caller}" if caller else f"address {self._address(scope)}"):
            seconds = str(int(wait) + 1)
            raise RefusedError(429, f"too many requests; try again in {seconds} seconds.", {"Retry-After": seconds})
        if caller is None and scope["path"] not in PUBLIC:
            raise RefusedError(401, "a token is required: Authorization: Bearer TOKEN.", CHALLENGE)
        return caller

    def _address(self, scope: Scope) -> str:
        """Return a keyed hash of the caller's address; for IPv6, of its /64 network, as one machine can use all of it."""
        host = (scope.get("client") or ("", 0))[0]
        try:
            parsed = ipaddress.ip_address(host)
            host = str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else host
        except ValueError:
            pass
        return self.key.of(host, "address")[:12]


class _Answer:
    """Response wrapper that adds headers and records the status; a status of 0 means that no response has started.

    The connection is closed after the `last` one.
    """

    def __init__(self, send: Send, last: bool = False) -> None:
        self._send, self.status, self._last = send, 0, last

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [(name, value) for name, value in message.get("headers", []) if name.lower() != b"server"]
            given = {name.lower() for name, _ in headers}
            ours = {**SECURITY_HEADERS, "Content-Security-Policy": NO_CONTENT_POLICY}
            ours |= {"Connection": "close"} if self._last else {}
            headers += [(name.encode(), value.encode()) for name, value in ours.items() if name.lower().encode() not in given]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        if self.status:  # too late: a response has started
            return
        body = error_body(status, message)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
        encoded = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
        await self({"type": "http.response.start", "status": status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})


def _token(scope: Scope) -> str:
    """Return the bearer token or the password of basic authentication; "" if there is none."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1:
        return ""
    kind, _, value = given[0].decode("latin-1").partition(" ")
    if kind.lower() == "bearer":
        return str(value.strip())
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in scope["headers"]
    )


async def _read(scope: Scope, receive: Receive) -> bytes:
    """Read the whole body, up to the size limit.

    Raises:
        RefusedError: 413 if it is too large, 400 if the connection ended early.
    """
    too_large = RefusedError(413, f"the body is larger than {LARGEST_BODY} bytes.")
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if any(not value.isdigit() or int(value[:20]) > LARGEST_BODY for value in lengths):
        raise too_large
    parts, size = [], 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the body is incomplete; send the request again.")
        part = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes) -> Receive:
    """Return a receiver that replays a body already read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive

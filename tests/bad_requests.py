"""Bad HTTP requests, as bytes: each holds identifiers of people that must turn up nowhere."""

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

PLANTED = ("zebedee.quillfeather@example.com", "Zebedee Quillfeather", "+49 555 0123456")


def good_request(**changes: Any) -> dict[str, Any]:
    """A whole OpenDSR request about one person."""
    identity = {"identity_type": "email", "identity_value": PLANTED[0], "identity_format": "raw"}
    return {
        "regulation": "gdpr",
        "subject_request_id": str(uuid.uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": "2026-10-02T15:00:00Z",
        "subject_identities": [identity],
        "api_version": "1.0",
        **changes,
    }


def raw(method: str, path: str, body: bytes = b"", token: str | None = None, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    given = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def bad_requests(count: int, token: str, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many bad requests of all sorts, in turn: (sort, bytes)."""
    draw = random.Random(seed)
    for number in range(count):
        sort = SORTS[number % len(SORTS)]
        yield sort, _make(sort, draw, token)


SORTS = (
    *("no token", "bad token", "two tokens", "basic", "oversized", "oversized unsaid", "huge length", "negative length"),
    *("not JSON", "cut JSON", "deep JSON", "bytes", "utf-16", "surrogate", "wrong types", "wrong value", "no identity"),
    *("method", "path", "identifier in path", "query", "content type", "content encoding", "truncated body", "no HTTP"),
    *("long header", "binary header", "unknown id", "malformed id", "bad chunk", "other version", "huge number"),
)


def _make(sort: str, draw: random.Random, token: str) -> bytes:
    post, body = "/v1/opengdpr_requests", json.dumps(good_request()).encode()
    noise = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 200)))
    person = PLANTED[0]
    wrong_types = [True, 5, 1.5e308, [], {}, [[]], {"identity_value": person}, person * 50]
    name = draw.choice(["regulation", "subject_request_id", "subject_request_type", "submitted_time", "subject_identities"])
    makers = {
        "no token": lambda: raw("POST", post, body),
        "bad token": lambda: raw("POST", post, body, token[:-1] + draw.choice("é\x7f_") + person),
        "two tokens": lambda: raw("POST", post, body, token, authorization=f"Bearer {token}"),
        "basic": lambda: raw("POST", post, body, Authorization="Basic " + draw.choice(["!!!", "enp6OnF1ZWVy", ""])),
        "oversized": lambda: raw("POST", post, body + b" " * (1 << 20), token),
        "oversized unsaid": lambda: _chunked(post, [b" " * (1 << 18)] * 5 + [body], token),
        "huge length": lambda: raw("POST", post, body, token, Content_Length="9" * draw.randrange(10, 30)),
        "negative length": lambda: raw("POST", post, body, token, Content_Length="-5"),
        "not JSON": lambda: raw("POST", post, f"please delete {person}".encode(), token),
        "cut JSON": lambda: raw("POST", post, body[: draw.randrange(len(body))], token),
        "deep JSON": lambda: raw("POST", post, b'{"a":' * 50_000 + person.encode(), token),
        "bytes": lambda: raw("POST", post, noise, token),
        "utf-16": lambda: raw("POST", post, body.decode().replace("erasure", "access").encode("utf-16"), token),
        "surrogate": lambda: raw("POST", post, body.replace(b"zebedee", b"\\ud800"), token),
        "wrong types": lambda: raw("POST", post, json.dumps(good_request(**{name: draw.choice(wrong_types)})).encode(), token),
        "wrong value": lambda: raw("POST", post, json.dumps(good_request(**{name: f"{person}\x00\u202e"})).encode(), token),
        "no identity": lambda: raw(
            "POST", post, json.dumps(good_request(subject_identities=[{"name": PLANTED[1]}])).encode(), token
        ),
        "method": lambda: raw(draw.choice(["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "FROB"]), post, body, token),
        "path": lambda: raw("GET", draw.choice(["/", "/docs", "/openapi.json", "/v1/../etc", "//", "/v2/requests"]), b"", token),
        "identifier in path": lambda: raw("GET", f"/v1/requests/{person}", b"", token),
        "query": lambda: raw("GET", f"/status?name={person}", b"", token),
        "content type": lambda: raw("POST", post, body, token, Content_Type="text/plain; name=" + person),
        "content encoding": lambda: raw("POST", post, body, token, Content_Encoding="gzip"),
        "truncated body": lambda: raw("POST", post, body, token, Content_Length=str(len(body) + 100)),
        "no HTTP": lambda: noise + b"\r\n\r\n",
        "long header": lambda: raw("GET", "/status", b"", token, X_Name=person * 2000),
        "binary header": lambda: raw("POST", post, body, None, X_Name="a\x01b").replace(b"a\x01b", b"\xff\xfe" + person.encode()),
        "unknown id": lambda: raw(draw.choice(["GET", "DELETE"]), f"{post}/{uuid.UUID(int=draw.getrandbits(128))}", b"", token),
        "malformed id": lambda: raw("GET", f"{post}/%00%ff%2e%2e%2f{noise.hex()}", b"", token),
        "bad chunk": lambda: raw("POST", post, b"zz\r\n" + body, token, Transfer_Encoding="chunked"),
        "other version": lambda: raw("POST", post, json.dumps(good_request(api_version="9.9")).encode(), token),
        "huge number": lambda: raw("POST", post, b'{"subject_request_id": ' + b"9" * 10_000 + b"}", token),
    }
    return makers[sort]()


def _chunked(path: str, parts: list[bytes], token: str) -> bytes:
    """A body whose size is not said beforehand."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n"
    body = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)
    return head.encode() + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"

"""Description of the HTTP service for other programs: OpenAPI 3.1."""

import json
from typing import Any

from unlearn.requests.ledger.callback_addresses import LONGEST_ADDRESS, MOST_ADDRESSES
from unlearn.requests.ledger.deadlines import REGIMES
from unlearn.requests.ledger.intake import IDENTITY_TYPES, LONGEST_IDENTITY, MOST_IDENTITIES, OPENDSR_VERSION

RESOURCE = "/v1/opendsr_requests"
"""The other names of the resource are not listed."""

_ID = {"name": "external_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
_REQUEST = {
    "type": "object",
    "required": ["subject_request_id", "subject_request_type", "subject_identities"],
    "properties": {
        "api_version": {"const": OPENDSR_VERSION},
        "regulation": {"enum": list(REGIMES), "default": "gdpr"},
        "subject_request_id": {"type": "string", "format": "uuid"},
        "subject_request_type": {"const": "erasure"},
        "submitted_time": {"type": "string", "format": "date-time"},
        "status_callback_urls": {
            "type": "array",
            "maxItems": MOST_ADDRESSES,
            "items": {"type": "string", "format": "uri", "maxLength": LONGEST_ADDRESS},
        },
        "subject_identities": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_IDENTITIES,
            "items": {
                "type": "object",
                "required": ["identity_type", "identity_value"],
                "properties": {
                    "identity_type": {"enum": list(IDENTITY_TYPES)},
                    "identity_value": {"type": "string", "maxLength": LONGEST_IDENTITY},
                    "identity_format": {"const": "raw"},
                },
            },
        },
    },
}


def description(domain: str) -> str:
    """Return the description of the service at a host name, as JSON."""
    content = {
        "openapi": "3.1.0",
        "info": {"title": "Deletion requests (OpenDSR)", "version": OPENDSR_VERSION},
        "servers": [{"url": f"https://{domain}"}],
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}, "schemas": {"Request": _REQUEST}},
        "paths": {
            "/v1/discovery": {"get": _operation("Supported versions, identities and request types", "200", public=True)},
            "/v1/processor.pub": {"get": _operation("Public key of the signatures (PEM)", "200", public=True)},
            "/v1/openapi.json": {"get": _operation("This description", "200", public=True)},
            "/health": {"get": _operation("Whether the ledger can be read", "200", "503", public=True)},
            "/status": {"get": _operation("Counts and deadlines, for the operator", "200", "403")},
            RESOURCE: {"post": _operation("Send an erasure request; signed receipt", "201", "400", "409", "413", "415") | _BODY},
            f"{RESOURCE}/{{external_id}}": {
                "parameters": [_ID],
                "get": _operation("Status of a request, signed", "200", "404"),
                "delete": _operation("Withdraw a request before anything is deleted; signed receipt", "202", "404", "409"),
            },
        },
    }
    return json.dumps(content)


_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}}},
}


def _operation(summary: str, *statuses: str, public: bool = False) -> dict[str, Any]:
    codes = (*statuses, "429") if public else (*statuses, "401", "429")
    answers = {code: {"description": _MEANINGS[code]} for code in codes}
    return {"summary": summary, "responses": answers} | ({"security": []} if public else {})


_MEANINGS = {
    "200": "found",
    "201": "recorded; the same request sent again gets the same answer",
    "202": "withdrawn",
    "400": "the request is invalid; the message says why and repeats nothing of it",
    "401": "a token is required",
    "403": "not for this caller",
    "404": "there is no such request of this caller",
    "409": "it can no longer be done, or another request has this id",
    "413": "the body is too large",
    "415": "not application/json, or compressed",
    "429": "too many requests; Retry-After says how long to wait",
    "503": "the ledger cannot be read",
}

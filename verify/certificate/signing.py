"""Statement form and signatures of certificates. Imports no torch: a check takes well under a second."""

from typing import Any

from securesystemslib.signer import CryptoSigner

from verify.io.envelopes import enveloped, load_public_key, load_signer, make_key

__all__ = [
    "PAYLOAD_TYPE",
    "PROVENANCE",
    "REEXECUTION",
    "SCHEMA",
    "STATEMENT_TYPE",
    "TEST_RESULT",
    "TRAINING_LOGS",
    "Statement",
    "load_public_key",
    "load_signer",
    "make_key",
    "sign",
]

SCHEMA = "unlearn-verify/certificate/1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
REEXECUTION = "urn:unlearn-verify:reexecution:1"
TRAINING_LOGS = "training logs before deletion"
"""Name of the dependency, in an operator's statement, whose digest is the root of the commitment to these logs."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"

Statement = dict[str, Any]


def sign(statement: Statement, signer: CryptoSigner) -> dict[str, Any]:
    """Sign a statement in canonical form (RFC 8785) and return the DSSE envelope as JSON.

    Raises:
        InputError: it holds a number that has no canonical form, such as an integer beyond 2**53.
    """
    return enveloped(statement, PAYLOAD_TYPE, signer)

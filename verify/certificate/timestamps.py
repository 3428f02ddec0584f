"""Time stamps (RFC 3161): an independent authority signs that a file existed at a time, which the signers' own clocks cannot show.

The authority sees a SHA-512 digest only. A stamp is the file that the authority answers with (`.tsr`), as `openssl ts` reads and
writes it. It is checked against the authority's root certificate, which the reader gets from the authority itself; whether a
certificate was revoked since is not looked up.
"""

import hashlib
import importlib.util
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from verify.errors import InputError, IntegrityError, RunError
from verify.io.extras import missing
from verify.io.files import atomic_file

SUFFIX = ".tsr"
LARGEST_REPLY = 1 << 20
"""Size limit of a stamp in bytes; with a chain of certificates it has some ten kilobytes."""
SECONDS = 30.0


@dataclass(frozen=True)
class Stamp:
    """A stamp that verified.

    Attributes:
        at: the time that the authority signed, in UTC.
        authority: the subject of its certificate.
    """

    at: datetime
    authority: str


def stamp_query(content: bytes) -> Any:
    """Return the request for a stamp on some content: digest, nonce, and a wish for the authority's certificates.

    Returns:
        a `rfc3161_client.TimeStampRequest`; its `as_bytes()` is what an authority reads.

    Raises:
        InputError: the library is not installed, or the content is empty.
    """
    from_library = _library()
    if not content:
        raise InputError("an empty file is not stamped. Name the file that was written.")
    return from_library.TimestampRequestBuilder().data(content).build()


def stamp_file(path: str | Path, url: str) -> Path:
    """Get a stamp on a file from an authority and write it beside the file, unless it is there; return its path.

    Args:
        path: the file.
        url: URL of the authority (http or https).

    Raises:
        InputError: the library is not installed, the file cannot be read, the URL is invalid, or the stamp that is there is on
            other content.
        RunError: the authority cannot be reached, or answers with something else than a stamp on this file.
    """
    output = Path(f"{path}{SUFFIX}")
    if output.exists():
        there = _decoded(_read(output))
        if there is None or not _is_about(there, _read(path)):
            raise InputError(f"{output} is not a time stamp on {path} as it is now. Move it away, then run the same command again.")
        return output
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is not a URL of a time-stamping authority. Give one that begins with https:// or http://.")
    content = _read(path)
    query = stamp_query(content)
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    request = urllib.request.Request(url, query.as_bytes(), headers)  # noqa: S310 - the scheme was checked above
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            reply = answer.read(LARGEST_REPLY + 1)
    except (OSError, ValueError) as error:
        raise RunError(
            f"the time-stamping authority cannot be reached ({type(error).__name__}). Run the same command again later."
        ) from None
    decoded = _decoded(reply)
    if decoded is None or decoded.tst_info.nonce != query.nonce or not _is_about(decoded, content):
        raise RunError("the time-stamping authority did not answer with a stamp on this file. Try another authority.")
    with atomic_file(output) as stream:
        stream.write(reply)
    return output


def check_stamp(stamp: str | Path, content: bytes, authorities: Sequence[str | Path]) -> Stamp:
    """Check a stamp on some content.

    Args:
        stamp: the stamp's file.
        content: what was stamped.
        authorities: files with root certificates that the reader trusts (PEM).

    Raises:
        InputError: the library is not installed, or a file cannot be read.
        IntegrityError: it is not a stamp, on another content, or by an authority that does not lead to these certificates.
    """
    library, decoded = _library(), _decoded(_read(stamp))
    if decoded is None:
        raise IntegrityError(f"{stamp} is not a time stamp (RFC 3161)")
    if not _is_about(decoded, content):
        raise IntegrityError(f"{stamp} is a time stamp on another file")
    builder = library.VerifierBuilder(roots=[root for path in authorities for root in _roots(path)])
    try:
        builder.build().verify_message(decoded, content)
        signer = _signer(decoded)
    except (library.VerificationError, ValueError) as error:
        raise IntegrityError(f"{stamp} was not signed by an authority that you trust: {error}") from None
    return Stamp(decoded.tst_info.gen_time, signer.subject.rfc4514_string())


def _library() -> Any:
    if importlib.util.find_spec("rfc3161_client") is None:
        raise missing("a time stamp (RFC 3161)", "timestamps")
    import rfc3161_client

    return rfc3161_client


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Name an existing file.") from None


def _decoded(reply: bytes) -> Any:
    """Return a decoded stamp that was granted; None for anything else."""
    if len(reply) > LARGEST_REPLY:
        return None
    library = _library()
    try:
        decoded = library.decode_timestamp_response(reply)
        # The signed part is parsed when it is first read.
        whole = decoded.tst_info.message_imprint is not None
        return decoded if whole and library.PKIStatus(decoded.status) == library.PKIStatus.GRANTED else None
    except (ValueError, TypeError):
        return None


def _is_about(decoded: Any, content: bytes) -> bool:
    """Return whether a stamp's digest, by whichever algorithm it names, is that of the content."""
    algorithms = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
    imprint = decoded.tst_info.message_imprint
    name = algorithms.get(imprint.hash_algorithm.dotted_string)
    return name is not None and hashlib.new(name, content).digest() == imprint.message


def _signer(decoded: Any) -> x509.Certificate:
    """Return the certificate whose key signed; the verifier has checked that there is exactly one signer."""
    (signer,) = decoded.signed_data.signer_infos
    certificates = [x509.load_der_x509_certificate(one) for one in decoded.signed_data.certificates]
    found = [one for one in certificates if (one.issuer, one.serial_number) == (signer.issuer, signer.serial_number)]
    if not found:
        raise ValueError("the signer's certificate is not in it")
    return found[0]


def _roots(path: str | Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise InputError(f"{path} holds no certificate (PEM). Give the root certificate of the authority.") from None

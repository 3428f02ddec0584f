"""Ed25519 keys and DSSE envelopes of signed JSON. Imports no torch: a check takes well under a second."""

import os
import shlex
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from verify.errors import InputError
from verify.io.files import atomic_file, write_text


def make_key(private: str | Path) -> str:
    """Make an Ed25519 key pair and return the key's id.

    Args:
        private: file of the private key (mode 0600, PKCS#8 PEM, unencrypted); the public key gets the same name with `.pub`.

    Raises:
        InputError: one of the files exists; a key is never replaced.
    """
    private = Path(private)
    public = private.with_name(private.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise InputError(f"{path} exists, and a signing key is never replaced. Name another file.")
    key = Ed25519PrivateKey.generate()
    form = serialization.NoEncryption()
    with atomic_file(private, mode=0o600) as stream:
        stream.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form))
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_text(public, pem.decode("ascii"))
    return str(SSlibKey.from_crypto(key.public_key()).keyid)


def load_signer(path: str | Path) -> CryptoSigner:
    """Read a private key.

    Args:
        path: a file; or, for a key that is not on the disk, `fd:N` (an open file descriptor) or `command:WORDS` (a command that
            prints the key, such as `command:pass show signing-key`).

    Raises:
        InputError: there is no Ed25519 private key.
    """
    try:
        key = serialization.load_pem_private_key(_private_pem(str(path)), password=None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an Ed25519 private key (PEM). Make one with `verify-unlearning keygen --output FILE`.")
    return CryptoSigner(key)


def _private_pem(source: str) -> bytes:
    """Return a private key's PEM text from a file, a descriptor or a command."""
    return _asked_once(source) if source.startswith(("fd:", "command:")) else Path(source).read_bytes()


@lru_cache
def _asked_once(source: str) -> bytes:
    """Return what a descriptor or a command gives, and keep it: a descriptor is read once, and a person should be asked once."""
    if source.startswith("fd:"):
        with os.fdopen(int(source.removeprefix("fd:")), "rb") as stream:
            return stream.read()
    words = shlex.split(source.removeprefix("command:"))
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False) if words else None
    if done is None or done.returncode:
        raise ValueError("the command failed")
    return done.stdout


def load_public_key(path: str | Path) -> SSlibKey:
    """Read a public key.

    Raises:
        InputError: the file is missing or holds no Ed25519 public key.
    """
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 public key (PEM). Ask the signer for the .pub file that `keygen` wrote.")
    return SSlibKey.from_crypto(key)


def enveloped(content: dict[str, Any], payload_type: str, signer: CryptoSigner | None) -> dict[str, Any]:
    """Put JSON in canonical form (RFC 8785) into a DSSE envelope, signed where a key is given, and return the envelope as JSON.

    Raises:
        InputError: it holds a number that has no canonical form, such as an integer beyond 2**53.
    """
    try:
        payload = rfc8785.dumps(content)
    except rfc8785.CanonicalizationError as error:
        raise InputError(f"this cannot be signed: {error}. Leave that number out of the model's facts.") from None
    envelope = Envelope(payload, payload_type, {})
    if signer is not None:
        envelope.sign(signer)
    return dict(envelope.to_dict())


def signed_by(envelope: Envelope, key: SSlibKey) -> bool:
    """Return whether an envelope has a valid signature of this Ed25519 key."""
    given = envelope.signatures.get(key.keyid)
    if given is None:
        return False
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
        # DSSE signs type and payload together (pre-authentication encoding).
        public.verify(bytes.fromhex(given.signature), envelope.pae())
    except (InvalidSignature, ValueError, TypeError, AttributeError):  # the library checks no types of what a file holds
        return False
    return True

"""Keyed hashes in place of identifiers and texts.

A plain hash of a name can be reversed by hashing a telephone book; an HMAC cannot, as long as its key is kept separately. All files
that this project writes name records by `RecordKey.of(...)`. Destroying the key file makes all of these names meaningless at once.
"""

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from verify.data.canonical import canonical
from verify.errors import InputError

KEY_BYTES = 32
HASH_CHARACTERS = 32
KEY_VARIABLE = "UNLEARN_VERIFY_KEY_FILE"
SHORTEST_PART = 4
"""Smallest number of characters of a part of an identifier that can reveal a person; shorter ones occur in any word."""


def set_digest(hashes: Iterable[str]) -> str:
    """Compute SHA-256 over keyed hashes in any order, which identifies the set of records and reveals nothing about them."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def plainly(text: str) -> str:
    """Reduce a text to letters and digits without case and accents: files may be named after persons in any spelling."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text).casefold() if letter.isalnum())


def telling_parts(identifier: str) -> set[str]:
    """Return the parts of an identifier, reduced by `plainly`, that would reveal the person within another name.

    Only the part of a mail address before the @ is split further: other persons share its domain.
    """
    own = unicodedata.normalize("NFC", identifier.partition("@")[0])  # a separate combining accent would act as a separator
    parts = (plainly(part) for part in re.split(r"[\W_]+", own))
    whole = {plain for plain in (plainly(identifier), plainly(own)) if len(plain) > 1}
    return whole | {part for part in parts if len(part) >= SHORTEST_PART}


@dataclass(frozen=True, repr=False)
class RecordKey:
    """A secret key that turns identifiers into names only its holder can connect.

    Attributes:
        secret: 32 random bytes.
    """

    secret: bytes

    def of(self, value: str, purpose: str = "record") -> str:
        """Compute HMAC-SHA256 of `value`, truncated to 128 bits, as 32 hexadecimal characters.

        Args:
            value: identifier, fingerprint or text.
            purpose: name space: a subject and a record of the same name get different hashes.
        """
        message = f"{purpose}\x00{value}".encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:HASH_CHARACTERS]

    def of_person(self, identifier: str) -> str:
        """Compute the keyed hash of a personal identifier in its canonical form (`verify.data.canonical`)."""
        return self.of(canonical(identifier), "subject")

    def names_of_person(self, identifier: str) -> tuple[str, ...]:
        """Return all keyed hashes that may stand for a person: that of the canonical form, then that of release 0.1.0.

        Ledgers and suppression lists of release 0.1.0 hold hashes of identifiers as they were spelled.
        """
        return self.names_of_form(canonical(identifier), identifier)

    def names_of_form(self, form: str, identifier: str) -> tuple[str, ...]:
        """Return the same as `names_of_person`, from a known canonical form."""
        before = identifier.strip()
        return (self.of(form, "subject"),) if form == before else (self.of(form, "subject"), self.of(before, "subject"))

    @property
    def check(self) -> str:
        """Check value that identifies the key and reveals nothing else about it."""
        return self.of("", "key check")

    def __repr__(self) -> str:
        return "RecordKey(secret=<hidden>)"

    @staticmethod
    def default_path() -> Path:
        """Return the key file: $UNLEARN_VERIFY_KEY_FILE, or `unlearn-verify/record.key` in the user's data folder."""
        if named := os.environ.get(KEY_VARIABLE):
            return Path(named)
        data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(data_home) / "unlearn-verify" / "record.key"

    @classmethod
    def load(cls, path: str | Path | None = None) -> "RecordKey":
        """Read the key file; the first use creates it (mode 0600).

        Raises:
            InputError: the file does not hold a key of 64 hexadecimal characters.
        """
        path = Path(path) if path is not None else cls.default_path()
        if not path.exists():
            _create_once(path)
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise InputError(
                f"{path} is not a record key (64 hexadecimal characters). Restore it from its backup, "
                f"or name another file in ${KEY_VARIABLE}; hashes made under a lost key cannot be matched again."
            )
        return cls(secret)


def _create_once(path: Path) -> None:
    """Write a fresh key unless another process was first: link() fails if the name exists, so that one complete key wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()

"""Keyed hashes in place of identifiers and texts.

A plain hash of a name can be found again by hashing a telephone book; an HMAC cannot, as long as its key is kept apart.
Everything this project writes names a record by `RecordKey.of(...)`. Destroying the key file makes all of those names
meaningless at once.
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

from verify.canonical import canonical
from verify.errors import InputError

KEY_BYTES = 32
HASH_CHARACTERS = 32
KEY_VARIABLE = "UNLEARN_VERIFY_KEY_FILE"
SHORTEST_PART = 4
"""Characters of a part of an identifier that tells of a person by itself; shorter ones stand in any word."""


def set_digest(hashes: Iterable[str]) -> str:
    """SHA-256 over keyed hashes in any order: it names exactly this set of records and says nothing about them."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def plainly(text: str) -> str:
    """Letters and digits alone, without case and accents: a file may be named after a person in any spelling."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text).casefold() if letter.isalnum())


def telling_parts(identifier: str) -> set[str]:
    """What tells of a person in another name, spelled plainly: the identifier, and each of its longer parts.

    Of a mail address the part before the @ tells by itself, and it alone is taken apart: its domain is other people's too.
    """
    own = unicodedata.normalize("NFC", identifier.partition("@")[0])  # an accent that stands alone would be a separator
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
        """HMAC-SHA256 of `value`, cut to 128 bits, as 32 hexadecimal characters.

        `purpose` separates name spaces: a subject and a record of the same name get different hashes.
        """
        message = f"{purpose}\x00{value}".encode()
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:HASH_CHARACTERS]

    def of_person(self, identifier: str) -> str:
        """Keyed hash of a personal identifier, the same for all spellings that are one by standard (`verify.canonical`)."""
        return self.of(canonical(identifier), "subject")

    def names_of_person(self, identifier: str) -> tuple[str, ...]:
        """All keyed hashes under which a person may be known: that of the canonical form, then that of release 0.1.0.

        Ledgers and suppression lists from before there was a canonical form hold hashes of identifiers as they were spelled.
        """
        return self.names_of_form(canonical(identifier), identifier)

    def names_of_form(self, form: str, identifier: str) -> tuple[str, ...]:
        """As `names_of_person`, where the canonical form is at hand."""
        before = identifier.strip()
        return (self.of(form, "subject"),) if form == before else (self.of(form, "subject"), self.of(before, "subject"))

    @property
    def check(self) -> str:
        """A check value of the key: whoever keeps it sees later whether a key is the same, and nothing else of it."""
        return self.of("", "key check")

    def __repr__(self) -> str:
        return "RecordKey(secret=<hidden>)"

    @staticmethod
    def default_path() -> Path:
        """The key file: $UNLEARN_VERIFY_KEY_FILE, or `unlearn-verify/record.key` in the user's data folder."""
        if named := os.environ.get(KEY_VARIABLE):
            return Path(named)
        data_home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(data_home) / "unlearn-verify" / "record.key"

    @classmethod
    def load(cls, path: str | Path | None = None) -> "RecordKey":
        """Read the key file, making it (mode 0600) at first use.

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
    """Write a fresh key unless another process was first: link() fails where the name exists, so one key wins whole."""
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

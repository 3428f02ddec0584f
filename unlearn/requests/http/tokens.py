"""API tokens: one random token per caller, of which only a digest is stored.

A token is 256 random bits, so that a plain SHA-256 of it can be kept: nobody can try them all. The file has one line for each
caller, `name digest`. A lost token is replaced by taking its line out and making another; a service that runs reads the file again
when it changed, so that the token ends at once.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from verify.errors import InputError
from verify.io.files import write_text

OPERATOR = "operator"
"""The caller who may see the status page."""
LOG = logging.getLogger("unlearn.access")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass
class Tokens:
    """Callers and token digests, reread when their file changes.

    Attributes:
        digests: SHA-256 of the token in hexadecimal, by caller.
        path: the file, read again where `stamp` is no longer its own; None where there is none.
        stamp: the file's inode, time and size as it was read; None where it could not be read.
    """

    digests: Mapping[str, str]
    path: Path | None = None
    stamp: tuple[int, int, int] | None = None

    @classmethod
    def load(cls, path: str | Path) -> "Tokens":
        """Read a token file.

        Raises:
            InputError: it is missing, empty or damaged.
        """
        stamp = _stamp(Path(path))  # before the file is read: what changes in between is read once more
        try:
            lines = [line.split() for line in Path(path).read_text(encoding="ascii").splitlines() if line.strip()]
            found = {name: digest for name, digest in lines if _NAME.fullmatch(name) and re.fullmatch("[0-9a-f]{64}", digest)}
        except (OSError, ValueError):
            lines, found = [], {}
        if not found or len(found) != len(lines):
            raise InputError(f"{path} is no token file. Make one with `unlearn new-token NAME --tokens FILE`.")
        return cls(found, Path(path), stamp)

    def caller(self, token: str) -> str | None:
        """Return the caller of a token, or None. Compares every digest, so that timing reveals nothing."""
        self._read_again()
        given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found

    def _read_again(self) -> None:
        """Reload the file if it changed. A damaged or missing file admits nobody."""
        if self.path is None or (stamp := _stamp(self.path)) == self.stamp:
            return
        try:
            self.digests = Tokens.load(self.path).digests
        except InputError as error:
            self.digests = {}
            LOG.error("no caller is let in: %s", error)
        self.stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def new_token(path: str | Path, name: str) -> str:
    """Create a token for a caller, add its digest to the file (mode 0600), and return the token, which is stored nowhere.

    Raises:
        InputError: the name cannot be used, or has a token already.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a caller. Use at most 40 lower-case letters, digits and hyphens.")
    known = dict(Tokens.load(path).digests) if Path(path).exists() else {}
    if name in known:
        raise InputError(f"{name} has a token already. Take its line out of {path} first; the old token ends with that.")
    token = secrets.token_urlsafe(32)
    known[name] = hashlib.sha256(token.encode()).hexdigest()
    write_text(path, "".join(f"{own} {digest}\n" for own, digest in known.items()), mode=0o600)
    return token

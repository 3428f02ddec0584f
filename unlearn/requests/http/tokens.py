"""API tokens: one random token per caller, stored only as a digest.

A token has 256 random bits, so a plain SHA-256 digest is safe to store: it cannot be found by exhaustive search. The file has one
line per caller, `name digest`. To replace a lost token, remove its line and create a new one. A running service rereads the file
when it changes, so a removed token stops working at once.
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
"""Name of the caller who may see the status page."""
LOG = logging.getLogger("unlearn.access")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass
class Tokens:
    """Callers and their token digests, reread when the file changes.

    Attributes:
        digests: SHA-256 of the token in hexadecimal, by caller.
        path: the file, reread when its `stamp` changes; None for tokens without a file.
        stamp: inode, modification time and size of the file when it was read; None if that failed.
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
        stamp = _stamp(Path(path))  # taken before reading: a change in between causes one more reread
        try:
            lines = [line.split() for line in Path(path).read_text(encoding="ascii").splitlines() if line.strip()]
            found = {name: digest for name, digest in lines if _NAME.fullmatch(name) and re.fullmatch("[0-9a-f]{64}", digest)}
        except (OSError, ValueError):
            lines, found = [], {}
        if not found or len(found) != len(lines):
            raise InputError(f"{path} is not a token file. Create one with `unlearn new-token NAME --tokens FILE`.")
        return cls(found, Path(path), stamp)

    def caller(self, token: str) -> str | None:
        """Return the caller of a token, or None; compares every digest, so that timing reveals nothing."""
        self._reload_if_changed()
        presented = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(presented, digest):
                found = name
        return found

    def _reload_if_changed(self) -> None:
        """Reload the file if it changed; a damaged or missing file admits nobody."""
        if self.path is None or (stamp := _stamp(self.path)) == self.stamp:
            return
        try:
            self.digests = Tokens.load(self.path).digests
        except InputError as error:
            self.digests = {}
            LOG.error("all callers are refused: %s", error)
        self.stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def new_token(path: str | Path, name: str) -> str:
    """Create a caller's token, add its digest to the file (mode 0600) and return the token, which is stored nowhere.

    Raises:
        InputError: the name is invalid or already has a token.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a valid caller name. Use at most 40 lower-case letters, digits and hyphens.")
    known = dict(Tokens.load(path).digests) if Path(path).exists() else {}
    if name in known:
        raise InputError(
            f"{name} already has a token. To replace it, first remove its line from {path}, which revokes the old token."
        )
    token = secrets.token_urlsafe(32)
    known[name] = hashlib.sha256(token.encode()).hexdigest()
    write_text(path, "".join(f"{own} {digest}\n" for own, digest in known.items()), mode=0o600)
    return token

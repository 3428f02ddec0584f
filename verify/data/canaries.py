"""Canaries: pairs of random texts, one of each pair trained as assigned by a fair coin.

Everything follows from one secret of 32 random bytes: the texts, and through a keyed hash the coins. The secret's digest is the
commitment; who publishes it before training cannot choose other coins afterwards. The manifest holds the secret, so it is
readable by its owner only; the auditor reads it after deletion. It holds no personal data: the texts are noise.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verify.data.records import Record
from verify.errors import InputError
from verify.io.digests import tokenizer_digest
from verify.io.files import read_json, write_json

CANARIES_NAME = "canaries.json"
SCHEMA = "unlearn-verify/canaries/1"
SECRET_BYTES = 32
CANARY_TOKENS = 16
"""Long enough to be told apart from every other text, short enough for a small adapter to learn."""


@dataclass(frozen=True, repr=False)
class Canaries:
    """Pairs of random texts and the coin flips that assign which are trained.

    Attributes:
        secret: what everything follows from.
        pairs: m, the number of coins.
        tokenizer: digest of the tokenizer whose vocabulary the texts are drawn from.
    """

    secret: bytes
    pairs: int
    tokenizer: str

    @classmethod
    def draw(cls, pairs: int, tokenizer: Any) -> "Canaries":
        """Draw fresh canaries from the operating system's randomness.

        Raises:
            InputError: fewer than one pair.
        """
        if pairs < 1:
            raise InputError(f"--canaries must be at least 1 pair, got {pairs}; 300 is the usual number.")
        return cls(secrets.token_bytes(SECRET_BYTES), pairs, tokenizer_digest(tokenizer))

    @property
    def commitment(self) -> str:
        """Compute a SHA-256 commitment to the canaries and their assignment."""
        return hashlib.sha256(b"canaries\x00" + self.secret + f"\x00{self.pairs}\x00{self.tokenizer}".encode()).hexdigest()

    def assignments(self) -> np.ndarray:
        """Return whether the first member of each pair is trained, bool [m]: one bit of HMAC-SHA256 each."""
        return np.array([self._hash(f"coin {number}")[0] & 1 == 1 for number in range(self.pairs)])

    def records(self, tokenizer: Any) -> list[Record]:
        """Return both members of every pair, [2 m]: rows 2j and 2j + 1 are pair j.

        Raises:
            InputError: another tokenizer than the one they were drawn for.
        """
        if tokenizer_digest(tokenizer) != self.tokenizer:
            raise InputError("the canaries were drawn for another tokenizer. Give the canaries.json that belongs to this model.")
        words = _plain_tokens(tokenizer)
        return [
            Record(example_id=f"canary-{number // 2}{'ab'[number % 2]}", completion=text)
            for number, text in enumerate(self._texts(tokenizer, words))
        ]

    def trained_records(self, tokenizer: Any) -> list[Record]:
        """Return the trained members, [m]."""
        return [record for record, chosen in zip(self.records(tokenizer), self.included(), strict=True) if chosen]

    def included(self) -> np.ndarray:
        """Return which of `records` were trained, bool [2 m]."""
        first = self.assignments()
        return np.stack([first, ~first], axis=1).ravel()

    def save(self, path: str | Path) -> None:
        """Write the manifest, atomically, readable by the owner only."""
        content = {"schema": SCHEMA, "secret": self.secret.hex(), "pairs": self.pairs, "tokenizer": self.tokenizer}
        write_json(path, {**content, "commitment": self.commitment}, mode=0o600)

    @classmethod
    def load(cls, path: str | Path) -> "Canaries":
        """Read a manifest.

        Raises:
            InputError: it is missing, damaged, of another version, or does not keep to its commitment.
        """
        content = read_json(path)
        try:
            found = cls(bytes.fromhex(content["secret"]), int(content["pairs"]), str(content["tokenizer"]))
            whole = content["schema"] == SCHEMA and len(found.secret) == SECRET_BYTES and found.pairs >= 1
            kept = hmac.compare_digest(found.commitment, str(content["commitment"]))
        except (KeyError, TypeError, ValueError):
            whole = kept = False
        if not whole or not kept:
            raise InputError(f"{path} is not a whole canary manifest ({SCHEMA}). Restore it: without it, its coins prove nothing.")
        return found

    def _hash(self, what: str) -> bytes:
        return hmac.new(self.secret, what.encode(), hashlib.sha256).digest()

    def _texts(self, tokenizer: Any, words: np.ndarray) -> Iterator[str]:
        """Draw 2 m distinct texts; a duplicate (possible in tiny vocabularies) is drawn again."""
        seen: set[str] = set()
        for number in range(2 * self.pairs):
            for attempt in range(100):
                rng = np.random.default_rng(np.frombuffer(self._hash(f"text {number} {attempt}"), dtype=np.uint32))
                text = str(tokenizer.decode(rng.choice(words, CANARY_TOKENS), skip_special_tokens=True)).strip()
                if text and text not in seen:
                    break
            else:
                raise InputError("the vocabulary is too small for so many different canaries. Ask for fewer with --canaries.")
            seen.add(text)
            yield text

    def __repr__(self) -> str:
        return f"Canaries(pairs={self.pairs}, secret=<hidden>)"


def _plain_tokens(tokenizer: Any) -> np.ndarray:
    """Return the ids of tokens that decode to printable text, without special tokens."""
    special = set(tokenizer.all_special_ids)
    candidates = [index for index in range(len(tokenizer)) if index not in special]
    texts = tokenizer.batch_decode([[index] for index in candidates])
    plain = [
        index for index, text in zip(candidates, texts, strict=True) if text.strip() and text.isprintable() and "\ufffd" not in text
    ]
    if len(plain) < 2:
        raise InputError("the tokenizer's vocabulary holds no printable tokens to make canaries of.")
    return np.array(plain)


def find_canaries(model: Any) -> Canaries | None:
    """Load the canaries in a model's folder, or return None."""
    if isinstance(model, (str, Path)) and (Path(model) / CANARIES_NAME).is_file():
        return Canaries.load(Path(model) / CANARIES_NAME)
    return None

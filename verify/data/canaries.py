"""Canaries: pairs of random texts, one of each pair assigned to the training data at random.

Texts and assignments are derived from one secret of 32 random bytes by a keyed hash. A digest of the secret is the commitment: once
it is published before training, the assignments cannot be changed afterwards. The manifest holds the secret, so it is readable by
its owner only; the auditor reads it after deletion. It holds no personal data, as the texts are noise.
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
"""Length of a canary in tokens: long enough to be unique, short enough for a small adapter to learn."""


@dataclass(frozen=True, repr=False)
class Canaries:
    """Pairs of random texts and their random assignments to the training data.

    Attributes:
        secret: 32 bytes from which texts and assignments are derived.
        pairs: m, the number of assignments.
        tokenizer: digest of the tokenizer, from the vocabulary of which the texts are drawn.
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
        """SHA-256 commitment to the canaries and their assignments, in hexadecimal."""
        return hashlib.sha256(b"canaries\x00" + self.secret + f"\x00{self.pairs}\x00{self.tokenizer}".encode()).hexdigest()

    def assignments(self) -> np.ndarray:
        """Return whether the first of each pair is assigned to training, bool [m]: one bit of HMAC-SHA256 each."""
        return np.array([self._hash(f"coin {number}")[0] & 1 == 1 for number in range(self.pairs)])

    def records(self, tokenizer: Any) -> list[Record]:
        """Return both texts of every pair as records [2 m]; rows 2j and 2j + 1 are pair j.

        Raises:
            InputError: the tokenizer is not the one they were drawn for, or its vocabulary is too small.
        """
        if tokenizer_digest(tokenizer) != self.tokenizer:
            raise InputError("the canaries were drawn for another tokenizer. Give the canaries.json that belongs to this model.")
        words = _plain_tokens(tokenizer)
        return [
            Record(example_id=f"canary-{number // 2}{'ab'[number % 2]}", completion=text)
            for number, text in enumerate(self._texts(tokenizer, words))
        ]

    def trained_records(self, tokenizer: Any) -> list[Record]:
        """Return the records assigned to training [m]."""
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
            InputError: it is missing, damaged, of another version, or does not match its commitment.
        """
        content = read_json(path)
        try:
            found = cls(bytes.fromhex(content["secret"]), int(content["pairs"]), str(content["tokenizer"]))
            whole = content["schema"] == SCHEMA and len(found.secret) == SECRET_BYTES and found.pairs >= 1
            kept = hmac.compare_digest(found.commitment, str(content["commitment"]))
        except (KeyError, TypeError, ValueError):
            whole = kept = False
        if not whole or not kept:
            raise InputError(
                f"{path} is not a whole canary manifest ({SCHEMA}). Restore it: without it the canaries prove nothing."
            )
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
                raise InputError("the vocabulary is too small for this many different canaries. Ask for fewer with --canaries.")
            seen.add(text)
            yield text

    def __repr__(self) -> str:
        return f"Canaries(pairs={self.pairs}, secret=<hidden>)"


def _plain_tokens(tokenizer: Any) -> np.ndarray:
    """Return the ids of tokens that decode to printable text, without special tokens.

    Raises:
        InputError: the vocabulary has fewer than two such tokens.
    """
    special = set(tokenizer.all_special_ids)
    candidates = [index for index in range(len(tokenizer)) if index not in special]
    texts = tokenizer.batch_decode([[index] for index in candidates])
    plain = [
        index for index, text in zip(candidates, texts, strict=True) if text.strip() and text.isprintable() and "\ufffd" not in text
    ]
    if len(plain) < 2:
        raise InputError("the tokenizer's vocabulary has no printable tokens to make canaries of. Leave out --canaries.")
    return np.array(plain)


def find_canaries(model: Any) -> Canaries | None:
    """Load the canaries in a model's folder; None if it has none, or the model is not a folder."""
    if isinstance(model, (str, Path)) and (Path(model) / CANARIES_NAME).is_file():
        return Canaries.load(Path(model) / CANARIES_NAME)
    return None

"""Rewordings of an audit: where they come from, and the commitment to them that a registration holds.

Rewordings that the model's maker knows can be trained on. So a registration holds only a digest of them under a random
salt, from which nothing can be guessed; after the model is handed in, the audit opens it with the file and its salt. That shows
that the auditor did not choose the wordings by what they find.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.data.rewording_files import RewordingSource, content_digest, load_rewordings, read_source
from verify.data.rewordings import USUAL, Rewordings
from verify.errors import InputError
from verify.io.files import write_text
from verify.models.loading import LoadedModel, load_model
from verify.models.paraphrases import reword_by_model
from verify.schema.inputs import RewordingsUsed
from verify.schema.parts import SetRole
from verify.schema.settings import Settings
from verify.scores.table import ScoreTable

SALT = ".salt"
"""Ending of the file with the salt, beside the file of rewordings."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, repr=False)
class Wording:
    """The other words that an audit asks in.

    Attributes:
        rewordings: rewordings of its records; None where there are none.
        committed: whether they were registered before unlearning.
    """

    rewordings: Rewordings | None
    committed: bool

    def used(self, table: ScoreTable, key: RecordKey) -> RewordingsUsed | None:
        """Return what the evidence says about the rewordings; None where no model was asked in other words."""
        words = self.rewordings
        if words is None or "rewording 1" not in table.channels():
            return None
        digest = key.of(words.digest, "rewordings")
        return RewordingsUsed(source=words.source, count=words.count, digest=digest, committed=self.committed, model=words.model)


def commit(source: str | Path) -> str:
    """Return the commitment to a file of rewordings or templates; its salt is written beside it, once.

    Raises:
        InputError: the file cannot be read, or its salt is damaged.
    """
    salted = _salt_path(source)
    if not salted.exists():
        write_text(salted, secrets.token_hex(32) + "\n", mode=0o600)
    return commitment_of(source)


def commitment_of(source: str | Path) -> str:
    """Compute the commitment to a file from its content and its salt.

    Raises:
        InputError: one of them is missing or damaged.
    """
    salted = _salt_path(source)
    try:
        salt = salted.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        salt = ""
    if not _HEX.fullmatch(salt):
        raise InputError(
            f"{salted} is missing or damaged. It holds the salt of the registered commitment to {source}: `register --rewordings` "
            "wrote it there. Put it back beside the file; without it the commitment cannot be opened."
        )
    return hashlib.sha256(f"unlearn-verify/rewordings\x00{salt}\x00{content_digest(read_source(source))}".encode()).hexdigest()


def require_committable(source: str | Path) -> None:
    """Check that `commit` can be given a file: that the salt beside it, if there is one already, is whole.

    Raises:
        InputError: the file cannot be read, or its salt is damaged.
    """
    if _salt_path(source).exists():
        commitment_of(source)


def require_opened(commitment: str | None, rewordings: RewordingSource | None, model: Any) -> bool:
    """Check that rewordings are those that were committed to; return whether they were.

    Args:
        commitment: the registration's; None without a registration, or where it holds none.
        rewordings, model: as for `verify.audit`.

    Raises:
        InputError: there is a commitment, and they do not open it.
    """
    if commitment is None:
        return False
    if model is not None or not isinstance(rewordings, str | Path):
        raise InputError(
            "the registration holds a commitment to rewordings, so they must be those. Give the registered file with "
            "--rewordings FILE."
        )
    if commitment_of(rewordings) != commitment:
        raise InputError(
            f"{rewordings} does not hold the rewordings that were registered, or the salt beside it is another one. Give the "
            "registered file with its salt."
        )
    return True


def find_rewordings(
    rewordings: RewordingSource | None,
    model: Any,
    sets: Mapping[SetRole, Sequence[Record]],
    settings: Settings,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> Rewordings | None:
    """Read the rewordings of an audit, or have a model make them; None where there are none.

    Args:
        rewordings, model: as for `verify.audit`.
        sets: the audit's records.
        settings: which channels are asked for, and the seed.
        progress: callback `(message, fraction_done)`.

    Raises:
        InputError: both are given, the channels leave rewordings out, or they cannot be used.
    """
    if rewordings is None and model is None:
        return None
    if rewordings is not None and model is not None:
        raise InputError("--rewordings and --rewording-model are two sources of the same. Give one of them.")
    if settings.rule == 1:
        raise InputError("the registration is of an earlier version, whose audits ask in no other words. Leave rewordings out.")
    if settings.channels is not None and "rewordings" not in settings.channels:
        raise InputError("rewordings are given, but --channels does not name them. Add `rewordings` to it, or leave them out.")
    if rewordings is not None:
        return load_rewordings(rewordings, sets)
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    records = [*sets["forget"], *sets.get("holdout", ())]
    return reword_by_model(loaded, records, USUAL, settings.seed, lambda done: progress("wording the records differently", done))


def _salt_path(source: str | Path) -> Path:
    path = Path(source)
    return path.with_name(path.name + SALT)

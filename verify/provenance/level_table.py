"""Level table: losses of records under models that never saw them, measured before any request and signed.

A pool of M models was trained like the original, each on a part of the subjects. Every record was scored by all of them, and so
were never-trained controls; then the pool was destroyed. The table replaces retrained references: every later deletion is judged
by one forward pass. It belongs to one original, and is refused for any other.
"""

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785
from numpy.typing import NDArray
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from verify.errors import InputError
from verify.io.envelopes import enveloped, load_public_key, signed_by
from verify.io.files import read_json, write_json, write_manifest
from verify.io.strict_json import parse_json
from verify.provenance.level_rows import REMEDY, LevelRows, load_leaves, merkle_root, save_leaves
from verify.provenance.training_history import UNLEARNED_FROM, history_of
from verify.schema.level_table import Half, LevelTableHeader, PoolDesign

FOLDER, DESIGN, HEADER = "level-table", "design.json", "table.json"
"""The table's folder in that of its model, and files in it; the header is a DSSE envelope."""
KIND = "level table"
"""Kind of the folder in its manifest."""
PAYLOAD_TYPE = "application/vnd.unlearn-verify.level-table+json"
LARGEST_HEADER = 16 << 20
"""Size limit of the header, in bytes."""


@dataclass(frozen=True, eq=False)
class LevelTable:
    """A level table, read and checked against its header.

    Attributes:
        folder: where it lies.
        header, design: its documents.
        signer: id of the key whose signature was verified; None where no key was given to verify with.
        signatures: ids of all keys that are said to have signed.
        rows: the rows that are still there.
    """

    folder: Path
    header: LevelTableHeader
    design: PoolDesign
    signer: str | None
    signatures: tuple[str, ...]
    rows: LevelRows

    @classmethod
    def open(cls, folder: str | Path, public_key: str | Path | SSlibKey | None = None) -> "LevelTable":
        """Read a table, and check signature, design and every row against the header.

        Args:
            folder: the table's folder.
            public_key: public key of the signer, or its file; None checks the rows against the header alone.

        Raises:
            InputError: a file is missing, damaged or of another version, the signature is not of this key or does not hold, the
                design is another one, or a row was changed, added or exchanged.
        """
        folder = Path(folder)
        header, signer, signatures = _header(folder / HEADER, public_key)
        design = PoolDesign.load(folder / DESIGN)
        _require_design(folder, header, design)
        rows = LevelRows.load(folder, len(header.pool), header.channels)
        _require_rows(folder, header, rows)
        return cls(folder, header, design, signer, signatures, rows)

    @property
    def digest(self) -> str:
        """SHA-256 of the header."""
        return self.header.digest

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that every model was scored on, "exact text" first."""
        return self.header.channels

    @property
    def models(self) -> int:
        """Number of models of the pool, M."""
        return len(self.header.pool)

    @property
    def design_seed(self) -> int:
        """Seed of the design, which was committed to before the pool was trained."""
        return self.design.seed

    def models_of(self, half: Half) -> tuple[int, ...]:
        """Return the numbers of the models that one half may read where the method reads the table too.

        Raises:
            InputError: the design has no halves.
        """
        if not self.design.method_models:
            raise InputError(
                f"every subject is left out of {self.design.left_out} models of {self.folder}, which cannot be divided between "
                "method and audit. Use another source of the level, or make the table with M such that this number is even."
            )
        chosen = set(self.design.method_models)
        return tuple(number for number in range(self.models) if (number in chosen) == (half == "method"))

    def controls(self, half: Half | None = None) -> tuple[str, ...]:
        """Return keyed hashes of the controls of one half, or of both."""
        return tuple(
            name for name, own in zip(self.rows.records, self.rows.halves, strict=True) if own is not None and half in (None, own)
        )

    def __contains__(self, record: object) -> bool:
        """Return whether the table has a row of this record (a keyed hash)."""
        return record in self._columns

    def subjects(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Return the keyed hash of the subject of every record; near-duplicates share one.

        Raises:
            InputError: the table has no row of some of them.
        """
        return tuple(self.rows.subjects[column] for column in self._of(keys))

    def losses(self, keys: Sequence[str], channel: str, models: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return mean losses under the models that never saw the records, nats per token [M, K].

        Args:
            keys: keyed hashes of K records.
            channel: one of `channels`.
            models: numbers of the models to read; None for all.

        Returns:
            NaN where the model was trained on the record, or the record was not scored on the channel.

        Raises:
            InputError: there is no such channel, or no row of some of the records.
        """
        if channel not in self.rows.losses:
            raise InputError(f"the level table {self.folder} has no channel {channel!r}. It has: {', '.join(self.channels)}.")
        chosen = np.ix_(range(self.models) if models is None else models, self._of(keys))
        return np.where(self.rows.trained_on[chosen], np.nan, self.rows.losses[channel][chosen])

    def require_fits(self, original_digest: str | Collection[str], tokenizer_digest: str, recipe: str | None = None) -> None:
        """Refuse the table of another model.

        Args:
            original_digest: digest of the weights of the model before unlearning; where earlier deletions made it, also of those
                that it was made from (`ancestors_by_deletion`), one of which must be the table's.
            tokenizer_digest: digest of its tokenizer.
            recipe: digest of its training's recipe (`verify.provenance.recipe`); None where its log is not there.

        Raises:
            InputError: one of them is not the table's.
        """
        header = self.header
        originals = (original_digest,) if isinstance(original_digest, str) else tuple(original_digest)
        for what, own, given in (
            ("model before unlearning", header.original, originals),
            ("tokenizer", header.tokenizer, (tokenizer_digest,)),
            ("training recipe", header.recipe, () if recipe is None else (recipe,)),
        ):
            if given and own not in given:
                raise InputError(
                    f"the level table {self.folder} belongs to another {what}: it names {own[:16]}, given was {given[0][:16]}. A "
                    "table serves one model only; after a retraining make another one with `unlearn train ... --level-table M`."
                )

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.rows.records)}

    def _of(self, keys: Sequence[str]) -> list[int]:
        columns = self._columns
        missing = [number for number, name in enumerate(keys, 1) if name not in columns]
        if missing:
            shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise InputError(
                f"the level table {self.folder} has no row of {len(missing)} of {len(keys)} records (numbers {shown}): they were "
                "not in the training data or among its controls, were named under another record key, or left at an earlier "
                "deletion. Give records that the model was trained on, or audit with --references."
            )
        return [columns[name] for name in keys]


def ancestors_by_deletion(source: Any) -> tuple[str, ...]:
    """Return digests of a model's weights, and of those that it was made from by unlearning alone, the nearest first.

    What a table says of a record's level holds for all of them: a deletion adds no data.

    Args:
        source: a model, as passed to an audit; without a folder nothing is known of it.

    Raises:
        InputError: a log or manifest is damaged.
    """
    history = history_of(source)
    if history is None:
        return ()
    found = [history.weights or history.last.final]
    for stage in reversed(history.stages):
        if "method" not in stage.about:
            break
        earlier = stage.about.get(UNLEARNED_FROM)
        found += [stage.about.get("weights_before"), *(earlier if isinstance(earlier, list) else ())]
    return tuple(dict.fromkeys(digest for digest in found if isinstance(digest, str)))


def write_table(folder: Path, header: LevelTableHeader, rows: LevelRows, signer: CryptoSigner | None) -> None:
    """Write rows, leaves and header beside the design; `finish_table` makes it complete.

    Args:
        folder: the table's folder, which holds the design.
        header: its root must be that of the rows.
        rows: all rows.
        signer: the operator's key; None leaves the header unsigned.

    Raises:
        RunError: the disk is full.
    """
    leaves = rows.leaves()
    assert merkle_root(leaves) == header.root, "the header is made from these rows"
    rows.save(folder)
    save_leaves(folder, leaves)
    envelope = enveloped(header.model_dump(mode="json", by_alias=True), PAYLOAD_TYPE, signer)
    write_json(folder / HEADER, envelope)


def finish_table(folder: Path) -> LevelTable:
    """Check a table that was written, write its manifest, and return it.

    Raises:
        InputError: the table cannot be read.
    """
    table = LevelTable.open(folder)
    write_manifest(folder, KIND, _about(table.header))
    return table


def sign_table(table: LevelTable, signer: CryptoSigner) -> LevelTable:
    """Sign the header of a finished table; content and digest of the header stay as they are.

    Raises:
        InputError: the table cannot be read.
        RunError: the disk is full.
    """
    envelope = Envelope.from_dict(read_json(table.folder / HEADER))
    envelope.sign(signer)
    write_json(table.folder / HEADER, dict(envelope.to_dict()))
    return finish_table(table.folder)


def remove_rows(folder: str | Path, records: Collection[str]) -> int:
    """Take rows out of a table; their leaves stay. Return the number of rows that were there.

    Args:
        folder: the table's folder.
        records: keyed hashes.

    Raises:
        InputError: the table cannot be read.
        RunError: the disk is full; the table is as it was.
    """
    table = LevelTable.open(folder)
    left = table.rows.without(records)
    gone = len(table.rows.records) - len(left.records)
    if gone:
        left.save(table.folder)
    write_manifest(table.folder, KIND, _about(table.header))  # also after a kill between the two
    return gone


def _about(header: LevelTableHeader) -> dict[str, Any]:
    """Return what a table's manifest says of it."""
    return {"original": header.original, "header": header.digest, "root": header.root}


def _header(path: Path, public_key: str | Path | SSlibKey | None) -> tuple[LevelTableHeader, str | None, tuple[str, ...]]:
    """Open the envelope; return the header, the id of the verified key, and those that are said to have signed."""
    if path.is_file() and path.stat().st_size > LARGEST_HEADER:
        raise InputError(f"{path} has {path.stat().st_size} bytes; a header is far smaller. {REMEDY}")
    content = read_json(path)
    try:
        envelope = Envelope.from_dict(deepcopy(content))
    except Exception:  # noqa: BLE001 - whatever a hostile envelope makes the library raise, it is not an envelope
        raise InputError(f"{path} is not a signed header of a level table. {REMEDY}") from None
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InputError(f"{path} is a signed file of another kind, not the header of a level table. {REMEDY}")
    signer = None if public_key is None else _verified(path, envelope, public_key)
    header = LevelTableHeader.parse(envelope.payload, str(path))
    if rfc8785.dumps(parse_json(envelope.payload)) != envelope.payload:
        raise InputError(f"{path}: the signed content is not in canonical form (RFC 8785). {REMEDY}")
    return header, signer, tuple(map(str, envelope.signatures))


def _verified(path: Path, envelope: Envelope, public_key: str | Path | SSlibKey) -> str:
    """Return the id of the key, having verified its signature."""
    key = public_key if isinstance(public_key, SSlibKey) else load_public_key(public_key)
    if key.keyid not in envelope.signatures:
        signers = ", ".join(name[:16] for name in envelope.signatures) or "nobody"
        raise InputError(
            f"{path} is signed by {signers}, not by the key that you gave ({key.keyid[:16]}). Give the signer's .pub file, or none "
            "to read the table unverified."
        )
    if not signed_by(envelope, key):
        raise InputError(f"{path}: the signature of {key.keyid[:16]} does not match the content, which was changed. {REMEDY}")
    return str(key.keyid)


def _require_design(folder: Path, header: LevelTableHeader, design: PoolDesign) -> None:
    if design.digest != header.design or design.models != len(header.pool):
        raise InputError(f"{folder / DESIGN} is not the design that the table's header names. {REMEDY}")
    for name in ("original", "base", "tokenizer", "recipe"):
        if getattr(design, name) != getattr(header, name):
            raise InputError(f"{folder / DESIGN} and the table's header name another {name}. {REMEDY}")


def _require_rows(folder: Path, header: LevelTableHeader, rows: LevelRows) -> None:
    """Compare every row with its leaf, and the leaves with the signed root."""
    leaves = load_leaves(folder, header.rows)
    if merkle_root(leaves) != header.root:
        raise InputError(f"the digests of the rows of {folder} are not those that the header binds. {REMEDY}")
    places = rows.places.tolist()
    if len(set(places)) < len(places) or any(not 0 <= place < header.rows for place in places):
        raise InputError(f"{folder} has more rows than its header says, or one of them twice. {REMEDY}")
    changed = sum(leaves[place] != leaf for place, leaf in zip(places, rows.leaves(), strict=True))
    if changed:
        raise InputError(f"{changed} of {len(places)} rows of {folder} are not those that the header binds. {REMEDY}")

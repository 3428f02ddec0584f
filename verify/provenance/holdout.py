"""Holdout splitting between unlearning method and audit, and a check that the two halves were kept apart.

A method that calibrates, stops or selects on the audit's holdout records is judged on what it was fitted to. So the never-trained
records are split by subject: one half for the method, the other for the audit alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.data.sources import load_records, stream_rows
from verify.data.subjects import MergedNames, subject_groups
from verify.errors import InputError
from verify.io.arguments import checked
from verify.io.files import write_text
from verify.provenance.training_history import HOLDOUT_USED, history_of, holdout_used
from verify.schema.inputs import HoldoutCheck

SMALLEST_HALF = 2
"""Smallest usable half: an audit needs at least this many holdout records."""
FOR_METHOD, FOR_AUDIT = "holdout-method.jsonl", "holdout-audit.jsonl"
CONTROLS, KIND = "holdout", "holdout"
"""Folder, in that of a model, with the records that its training held out, and its kind in its manifest: it has one of its own, as
rows leave it when a person asks."""


@dataclass(frozen=True, repr=False)
class HoldoutSplit:
    """Two halves of the never-trained records.

    Attributes:
        method: records for the unlearning method; empty where they cannot be split.
        audit: records for the audit alone.
    """

    method: list[Record]
    audit: list[Record]

    @property
    def note(self) -> str | None:
        """Why the method gets no records; None where it gets some."""
        if self.method:
            return None
        return (
            f"the {len(self.audit)} holdout records cannot be split by subject into two halves of at least {SMALLEST_HALF}, so "
            "the audit gets all of them and the method none. Give records of more people to calibrate, stop or select on."
        )


@dataclass(frozen=True)
class HoldoutFiles:
    """Two halves of the holdout set as files.

    Attributes:
        method: the file for `forget`; None where the records cannot be split.
        audit: the file for the audit.
        note: why the method gets no records; None where it gets some.
        records: size of each half.
    """

    method: Path | None
    audit: Path
    note: str | None
    records: tuple[int, int]


@checked
def split_holdout(records: Sequence[Record], seed: int = 0) -> HoldoutSplit:
    """Split holdout records by subject into a half for the method and a half for the audit.

    All records of a subject go to one half, and so does the same text under several subjects; a record without a subject counts as
    its own. The assignment follows from a hash of seed and subject, not from the order of the records. The halves are as close in
    size as the subjects allow.

    Args:
        records: records that no model was trained on.
        seed: seed of the split.

    Returns:
        Both halves in the order of the records; all of them for the audit where a half would have fewer than two.
    """
    for_method = _for_method(records, seed)
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record, goes in zip(records, for_method, strict=True):
        sides[not goes].append(record)
    return HoldoutSplit(*sides)


def split_holdout_file(source: str | Path, folder: str | Path, fields: Fields | None = None, seed: int = 0) -> HoldoutFiles:
    """Write both halves of a holdout file, rows unchanged, into `folder` (readable by the owner only).

    Args:
        source: a file, `datasets` folder or Hub name of records that no model was trained on.
        folder: folder for `holdout-method.jsonl` and `holdout-audit.jsonl`; the same source gives the same files.
        fields: column names.
        seed: as for `split_holdout`.

    Raises:
        InputError: the records cannot be read, or a row holds a value that JSON lacks (a date, bytes, a decimal number).
    """
    records = load_records(str(source), fields)
    rows = list(stream_rows(str(source)))
    if len(rows) != len(records):
        raise InputError(f"{source} changed while it was being read. Run the command again.")
    return write_halves(rows, records, Path(folder), str(source), seed)


def write_halves(
    rows: Sequence[Mapping[str, Any]], records: Sequence[Record], folder: Path, source: str, seed: int = 0
) -> HoldoutFiles:
    """Write both halves of holdout rows into `folder`, as `split_holdout_file` does.

    Args:
        rows: the rows as they are to be written.
        records: the same, read.
        folder: for `holdout-method.jsonl` and `holdout-audit.jsonl`, readable by the owner only.
        source: their source's name in error messages.
        seed: as for `split_holdout`.

    Raises:
        InputError: a row holds a value that JSON lacks.
    """
    lines = [_line(row, f"{source}, row {number}") for number, row in enumerate(rows, 1)]
    for_method = _for_method(records, seed)
    for name, side in ((FOR_METHOD, True), (FOR_AUDIT, False)):
        chosen = [line for line, goes in zip(lines, for_method, strict=True) if goes is side]
        if chosen:
            write_text(folder / name, "\n".join(chosen) + "\n", mode=0o600)
        else:
            (folder / name).unlink(missing_ok=True)
    split = split_holdout(records, seed)
    method = folder / FOR_METHOD if split.method else None
    return HoldoutFiles(method, folder / FOR_AUDIT, split.note, (len(split.method), len(split.audit)))


def _line(row: Mapping[str, Any], where: str) -> str:
    """Return a row as one line of JSON; refuse a value that would come back as another one."""

    def refuse(value: Any) -> Any:
        raise InputError(
            f"{where} holds a value of type {type(value).__name__}, which JSON Lines lacks, so the row cannot be written "
            "unchanged. Turn that column into text, or leave it out, and split the file again."
        )

    return json.dumps(dict(row), ensure_ascii=False, default=refuse)


def _for_method(records: Sequence[Record], seed: int) -> list[bool]:
    """Return whether each record goes to the method: largest subjects first, each to the side with fewer records."""
    units = _units(records)
    sizes: dict[str, int] = {}
    for unit in units:
        sizes[unit] = sizes.get(unit, 0) + 1
    drawn = {unit: hashlib.sha256(f"holdout {seed} {unit}".encode("utf-8", "surrogatepass")).hexdigest() for unit in sizes}
    counts, side = [0, 0], {}
    for unit in sorted(sizes, key=lambda name: (-sizes[name], drawn[name])):
        # On a tie the hash decides: the largest subject must not always go to the same side.
        side[unit] = int(counts[0] > counts[1]) if counts[0] != counts[1] else int(drawn[unit], 16) % 2
        counts[side[unit]] += sizes[unit]
    if min(counts) < SMALLEST_HALF:
        return [False] * len(records)
    return [side[unit] == 0 for unit in units]


def _units(records: Sequence[Record]) -> list[str]:
    """Return each record's group: its people or, without any, its content; groups that share a content are merged."""
    groups = subject_groups(records, alone=lambda record: f"record {record.fingerprint}")
    merged = MergedNames()
    first: dict[str, str] = {}
    for record, name in zip(records, groups, strict=True):
        merged.join(name, first.setdefault(record.fingerprint, name))
    return [merged.group(name) for name in groups]


def without_held_out(records: Sequence[Record], model: Any, fields: Fields | None) -> list[Record]:
    """Leave out the records that the training of a model held out as controls, by the files in its folder or its ancestors'.

    A training file names them too, but the model never saw them.

    Args:
        records: records of the training file.
        model: as passed to `audit` or `forget`.
        fields: column names.

    Raises:
        InputError: a file of controls, or a manifest, is damaged.
    """
    history = history_of(model)
    folders = () if history is None else (stage.folder / CONTROLS for stage in history.stages)
    paths = [folder / name for folder in folders for name in (FOR_METHOD, FOR_AUDIT) if (folder / name).is_file()]
    held = {record.fingerprint for path in paths for record in load_records(str(path), fields)}
    return [record for record in records if record.fingerprint not in held]


def check_holdout(target: Any, records: Sequence[Record], key: RecordKey, accept_used: bool = False) -> HoldoutCheck:
    """Check that the unlearning of a model did not read its audit's holdout records.

    Args:
        target: the unlearned model.
        records: the audit's holdout set.
        key: the record key.
        accept_used: whether using the same records is intended.

    Raises:
        InputError: the unlearning read some, by the target's manifest; the message says how many, and how to split them.
    """
    count, history = len(records), history_of(target)
    if history is None:
        where = "the model is not a local folder" if isinstance(target, (str, Path)) else "the model was given in memory"
        return HoldoutCheck(records=count, reason=f"{where}, so nothing says which records its unlearning read")
    read = holdout_used(history)
    if read is None:
        return HoldoutCheck(records=count, reason="no manifest of the model says which records its unlearning read")
    if any(use.key_check != key.check for use in read):
        reason = "the manifest names them under another record key, so no record can be recognised"
        return HoldoutCheck(records=count, reason=reason)
    names = {key.of(record.fingerprint) for record in records}
    used = names & frozenset().union(*(use.records for use in read))
    methods = list(dict.fromkeys(use.method for use in read if use.records & names))
    if used and not accept_used:
        raise InputError(
            f"{len(used)} of the {count} holdout records were read by the unlearning itself ({', '.join(methods)}), by the model's "
            "manifest: a model cannot be judged on the records that it was fitted to. Split the holdout set with "
            "`verify-unlearning split-holdout FILE --output DIR`, unlearn with one half and audit with the other; or accept it "
            "with --accept-used-holdout (Python: accept={'used_holdout'}), which the report then shows."
        )
    return HoldoutCheck(records=count, used=len(used), method=", ".join(methods) or None)


def used_holdout(records: Sequence[Record], key: RecordKey, method: str) -> dict[str, Any]:
    """Return the manifest entry that lists, as keyed hashes, the holdout records that an unlearning read."""
    return {"method": method, "key": key.check, "records": sorted({key.of(record.fingerprint) for record in records})}


def used_before(about: Mapping[str, Any]) -> list[Any]:
    """Return the entries of earlier unlearnings in a model's manifest, to be carried over."""
    entries = about.get(HOLDOUT_USED)
    return list(entries) if isinstance(entries, list) else []

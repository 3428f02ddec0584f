"""Never-trained controls: whole subjects drawn at random from the training data, left out, and kept as two files."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.data.clusters import subject_clusters
from verify.data.identity import RecordKey
from verify.data.records import Record, RecordSource
from verify.data.sources import stream_rows
from verify.errors import InputError
from verify.io.files import write_manifest
from verify.provenance.holdout import CONTROLS, KIND, write_halves

FEWEST = 4
"""Fewest subjects that are drawn: two for the method and two for the audit."""


def drawn_controls(records: Sequence[Record], share: float, seed: int, key: RecordKey) -> list[bool]:
    """Draw whole subjects, with their near-duplicates, at random; return whether each record is a control [N].

    Args:
        records: the training data.
        share: share of the subjects, above 0 and below 1.
        seed: seed of the draw, which depends on nothing but it and the subjects.
        key: the record key.

    Raises:
        InputError: the share is out of range, no record names a subject, or too few subjects would be drawn.
    """
    if not 0 < share < 1:
        raise InputError(f"--holdout-share must be above 0 and below 1, got {share:g}. 0.03 is usual.")
    require_subjects(records)
    clusters = subject_clusters(records, key)
    drawn = {name: hashlib.sha256(f"controls {seed} {name}".encode("utf-8", "surrogatepass")).hexdigest() for name in set(clusters)}
    chosen = set(sorted(drawn, key=lambda name: drawn[name])[: round(share * len(drawn))])
    if len(chosen) < FEWEST or len(drawn) - len(chosen) < FEWEST:
        raise InputError(
            f"--holdout-share {share:g} draws {len(chosen)} of {len(drawn)} subjects as controls; at least {FEWEST} are needed, "
            "and as many must be left to train on. Give another share, or data of more people."
        )
    return [name in chosen for name in clusters]


def require_subjects(records: Sequence[Record]) -> None:
    """Require that the records name subjects: without them, records of one person would be separated.

    Raises:
        InputError: no record names a subject.
    """
    if not any(record.subjects for record in records):
        raise InputError(
            "no record names a subject, so those of one person cannot be left out together. Name the column with --subject-field; "
            "where every record is about somebody else, name the column of the identifiers."
        )


def hold_out(data: RecordSource, records: list[Record], share: float, seed: int, key: RecordKey, output: Path) -> list[Record]:
    """Write the controls of a training into its folder, as a half for the method and one for the audit; return the other records.

    Args:
        data: the training data as given.
        records: the same, read.
        share, seed, key: as for `drawn_controls`.
        output: the model's folder.

    Raises:
        InputError: as `drawn_controls`, or the data was given as records in memory, which have no rows to write.
    """
    held = drawn_controls(records, share, seed, key)
    rows = _rows(data)
    if len(rows) != len(records):
        raise InputError("the training data changed while it was being read. Run the command again.")
    pairs = [(row, record) for row, record, out in zip(rows, records, held, strict=True) if out]
    write_halves([row for row, _ in pairs], [record for _, record in pairs], output / CONTROLS, "the training data", seed)
    write_manifest(output / CONTROLS, KIND)
    return [record for record, out in zip(records, held, strict=True) if not out]


def _rows(data: RecordSource) -> list[Mapping[str, Any]]:
    """Return the rows of the training data."""
    rows: list[Any] = list(stream_rows(str(data))) if isinstance(data, (str, Path)) else list(data)
    if not all(isinstance(row, Mapping) for row in rows):
        raise InputError("--holdout-share writes rows to files, and records in memory have none. Give a file or a list of dicts.")
    return rows

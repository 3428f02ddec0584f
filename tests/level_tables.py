"""Level tables whose losses are invented, written as `unlearn train --level-table` writes them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.data.identity import RecordKey
from verify.provenance.level_rows import LevelRows, merkle_root
from verify.provenance.level_table import DESIGN, LevelTable, finish_table, write_table
from verify.provenance.pool_design import Member, assignment_digest, data_digest, trained_models
from verify.schema.level_table import LevelTableHeader, PoolDesign, PoolModel
from verify.statistics.channels import EXACT_TEXT


def digest_of(text: str) -> str:
    """A digest of 64 characters for a name."""
    return hashlib.sha256(text.encode()).hexdigest()


def invented_members(subjects: int = 12, each: int = 2, controls: int = 8) -> list[Member]:
    """Training records and controls, the latter one record a subject, alternately the method's and the audit's."""
    key = RecordKey(b"k" * 32)
    trained = [Member(key.of(f"{who} {row}"), key.of(f"{who}", "subject")) for who in range(subjects) for row in range(each)]
    held = [Member(key.of(f"c{who}"), key.of(f"c{who}", "subject"), ("method", "audit")[who % 2]) for who in range(controls)]
    return [*trained, *held]


def trained_losses(table: LevelTable, keys: Sequence[str], channel: str = EXACT_TEXT) -> NDArray[np.float64]:
    """Mean losses under the models that were trained on the records [M, K]: what `LevelTable.losses` leaves out."""
    columns = [table.rows.records.index(name) for name in keys]
    return np.where(table.rows.trained_on[:, columns], table.rows.losses[channel][:, columns], np.nan)


def rows_that_left(table: LevelTable) -> tuple[int, int]:
    """How many rows, and how many of controls, left the table since it was made."""
    return table.header.rows - len(table.rows.records), sum(table.header.controls) - len(table.controls())


def write_invented(
    folder: Path,
    members: Sequence[Member],
    *,
    models: int = 4,
    left_out: int = 2,
    seed: int = 7,
    channels: Sequence[str] = (EXACT_TEXT, "instruction"),
    signer: Any = None,
    **named: str,
) -> LevelTableHeader:
    """Write a table of these members; `named` replaces digests (original, base, tokenizer, recipe) and the check of the key."""
    trained = trained_models(members, models, left_out, seed)
    digests = {name: named.get(name, digest_of(name)) for name in ("original", "base", "tokenizer", "recipe")}
    halves = [member.half for member in members]
    design = PoolDesign(
        created="2026-01-01T00:00:00+00:00",
        models=models,
        left_out=left_out,
        seed=seed,
        holdout_share=None,
        key_check=named.get("key_check", "0" * 32),
        records=halves.count(None),
        subjects=len(trained),
        controls=len(members) - halves.count(None),
        data=data_digest(members),
        assignment=assignment_digest(trained),
        **digests,
    )
    design.save(folder / DESIGN)
    random = np.random.default_rng(seed)
    on = np.array([trained.get(member.subject, (False,) * models) for member in members]).T  # [M, N]
    rows = LevelRows(
        places=np.arange(len(members)),
        records=tuple(member.record for member in members),
        subjects=tuple(member.subject for member in members),
        halves=tuple(halves),
        trained_on=on,
        losses={name: np.where(on, 0.5, 3.0) + 0.1 * random.standard_normal(on.shape) for name in channels},
    )
    header = LevelTableHeader(
        created="2026-01-02T00:00:00+00:00",
        design=design.digest,
        pool=tuple(PoolModel(weights=digest_of(f"pool {n}"), seed=n, records=10, tokens=100) for n in range(models)),
        destroyed="2026-01-02T00:00:00+00:00",
        dtype="float32",
        channels=tuple(channels),
        rows=len(members),
        controls=(halves.count("method"), halves.count("audit")),
        root=merkle_root(rows.leaves()),
        **digests,
    )
    write_table(folder, header, rows, signer)
    finish_table(folder)
    return header

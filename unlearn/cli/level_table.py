"""Flags of `unlearn train --level-table`: the design of the pool, its controls, and where it is trained."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from verify.provenance.level_table import LevelTable


@dataclasses.dataclass(frozen=True)
class LevelTableFlags:
    """Level table of the trained model: what models that never saw a record make of it, measured before any deletion request."""

    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("level_table_share", "rewordings", "operator_key", "pool_engine"), "--level-table"),
        "holdout": "--level-table and no --holdout-share",
        "workers": "--level-table and no --pool-engine",
    }

    level_table: int = 0
    """Number of models to train, score and destroy, so that later deletions are judged without retraining: 8, or 16 where it can be
    afforded; 0 makes no table. Each costs its share of a training. A finished model in --output is kept, and gets the table."""
    level_table_share: float = 0.5
    """Share of these models that leave out each subject: 0.5, or 0.25 where near-duplicates are likely."""
    holdout_share: float | None = None
    """Share of the subjects to leave out of all training as controls, drawn at random; usually 0.03. Needed for a table."""
    holdout: Path | None = None
    """With --level-table, instead of --holdout-share: records of other people that no model was trained on."""
    rewordings: Path | None = None
    """With --level-table: templates or records in other words, in which the models are asked as well."""
    operator_key: Path | None = None
    """With --level-table: private key that signs the table."""
    workers: int = 1
    """With --level-table: models that are trained at once on this machine."""
    pool_engine: str | None = None
    """With --level-table: cluster to train them on, dask://HOST:PORT or ray://HOST:PORT; its workers must see the same folders and
    record key."""

    def require_possible(self) -> None:
        """Raise InputError where a table of this number of models and this share of them cannot be made."""
        from verify.provenance.pool_design import left_out_models

        if self.level_table:
            left_out_models(self.level_table, self.level_table_share)

    def make(self, model_dir: Path, model: str, data: str, fields: Any) -> "LevelTable":
        """Make the table of a finished model."""
        from unlearn.pool.table import make_level_table
        from verify.provenance.training_history import history_of

        history = history_of(model_dir)
        first = history is None or len(history.logged) == 1  # else the pool repeats the training of `model` as well
        return make_level_table(
            model_dir,
            models=self.level_table,
            share=self.level_table_share,
            data=data,
            base=model if first else None,
            holdout=self.holdout,
            fields=fields,
            rewordings=self.rewordings,
            operator_key=self.operator_key,
            workers=self.workers,
            engine=self.pool_engine,
            notify=print,
        )


def described(table: "LevelTable") -> str:
    """Describe a table: its size, cost and digests."""
    header, design = table.header, table.design
    cost = "" if header.share_of_training is None else f", {header.share_of_training:.1f} trainings"
    signed = "unsigned" if not table.signatures else f"signed by {table.signatures[0][:16]}"
    return (
        f"level table:  {table.folder} ({signed}): {table.models} models, {design.left_out} without each of "
        f"{design.subjects} subjects{cost}; the models are destroyed\n"
        f"controls:     {header.controls[0]} for the method, {header.controls[1]} for the audit\n"
        f"design:       {header.design}\nheader:       {header.digest}"
    )

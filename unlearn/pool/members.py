"""Records of a level table: what the original was trained on, and the controls that no model sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.pool.repetition import Repetition, trained_records
from unlearn.training.controls import require_subjects
from verify.data.clusters import subject_clusters
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.data.sources import load_records
from verify.errors import InputError
from verify.io.files import write_manifest
from verify.provenance.holdout import CONTROLS, FOR_AUDIT, FOR_METHOD, KIND, split_holdout_file
from verify.provenance.pool_design import Member
from verify.schema.level_table import Half

FILES: dict[Half, str] = {"method": FOR_METHOD, "audit": FOR_AUDIT}
FEWEST_CONTROLS = 2
"""Fewest subjects of either half."""


@dataclass(frozen=True, repr=False)
class Material:
    """All records of a table.

    Attributes:
        stages: the records of every stage of the original's training, in order, repeated contents included.
        records: the rows of the table: training records, each content once, and then the controls [N].
        members: the same by keyed hashes [N].
    """

    stages: list[list[Record]]
    records: list[Record]
    members: list[Member]

    @property
    def trained(self) -> int:
        """Number of rows that are training records."""
        return sum(member.half is None for member in self.members)


def place_controls(folder: Path, holdout: str | Path | None, fields: Fields) -> None:
    """Split a file of controls into the model's folder, unless the training held out its own.

    Args:
        folder: folder of the model.
        holdout: records that no model was trained on; None where the training was asked to hold some out.
        fields: their columns.

    Raises:
        InputError: there are none, or two sets of them.
    """
    there = folder / CONTROLS
    if holdout is None:
        if not (there / FOR_AUDIT).is_file():
            raise InputError(
                f"{folder} holds out no controls, without which nothing can be judged. Train with --holdout-share 0.03, or give "
                "records that no model was trained on, from the same intake, with --holdout FILE."
            )
        return
    if (there / FOR_AUDIT).is_file():
        require_same_controls(folder, holdout, fields)
        return
    split_holdout_file(holdout, there, fields)
    write_manifest(there, KIND)


def require_same_controls(folder: Path, holdout: str | Path, fields: Fields) -> None:
    """Require a file of controls to hold exactly those that lie in the model's folder.

    Raises:
        InputError: it holds others, or cannot be read.
    """
    given = {record.fingerprint for record in load_records(holdout, fields)}
    if given != {record.fingerprint for half in FILES for record in controls_of(folder, half, fields)}:
        raise InputError(f"{folder / CONTROLS} holds other controls already. Leave --holdout out, or remove that folder.")


def controls_of(folder: Path, half: Half, fields: Fields) -> list[Record]:
    """Read one half of a model's controls; none where there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / CONTROLS / FILES[half]
    return load_records(path, fields) if path.is_file() else []


def read_material(folder: Path, how: Repetition, key: RecordKey) -> Material:
    """Read the records of a table, and group them by subjects and near-duplicates.

    Raises:
        InputError: data or controls cannot be used.
    """
    stages, trained = trained_records(folder, how.stages, key)
    fields = Fields(**how.stages[-1].fields)
    halves: dict[Half, list[Record]] = {half: _once(controls_of(folder, half, fields)) for half in FILES}
    require_subjects(trained)
    records = [*trained, *(record for own in halves.values() for record in own)]
    owners: list[Half | None] = [None] * len(trained)
    owners += [half for half, own in halves.items() for _ in own]
    clusters = subject_clusters(records, key)
    _require_apart(clusters, owners)
    members = [
        Member(key.of(record.fingerprint), key.of(cluster, "subject"), half)
        for record, cluster, half in zip(records, clusters, owners, strict=True)
    ]
    return Material(stages, records, members)


def _once(records: Sequence[Record]) -> list[Record]:
    return list({record.fingerprint: record for record in records}.values())


def _require_apart(clusters: Sequence[str], owners: Sequence[Half | None]) -> None:
    """Require enough controls on either side, and that none shares a subject or nearly a text with anything else."""
    groups = {owner: {cluster for cluster, own in zip(clusters, owners, strict=True) if own == owner} for owner in (None, *FILES)}
    for half in FILES:
        seen = groups[half] & groups[None]
        if seen:
            raise InputError(
                f"{len(seen)} subjects of the controls are also in the training data, or nearly their records, so they are no "
                "never-trained controls. Give records of other people with --holdout FILE."
            )
        if len(groups[half]) < FEWEST_CONTROLS:
            raise InputError(
                f"the controls of the {half} are of {len(groups[half])} subjects; at least {FEWEST_CONTROLS} are needed, and 10 to "
                "judge by. Train with a larger --holdout-share, or give records of more people with --holdout FILE."
            )
    if groups["method"] & groups["audit"]:
        raise InputError("a control of the method is nearly one of the audit. Leave one of them out of the holdout records.")

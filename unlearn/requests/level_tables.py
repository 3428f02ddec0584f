"""Level tables in the request workflow: the table of a model, its controls, and the rows that leave it when a person is deleted.

A table judges every deletion from its model, and from the models that deletions made of it, without retrained references. Its
controls come in two halves: one for the unlearning method, the other for the audit.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn.requests.plan import Plan
from verify.data.identity import RecordKey
from verify.data.records import Fields, Record
from verify.data.sources import load_records, stream_records
from verify.errors import InputError
from verify.io.files import MANIFEST, is_complete, read_json, write_manifest, write_text
from verify.provenance.holdout import CONTROLS, FOR_AUDIT, FOR_METHOD
from verify.provenance.holdout import KIND as CONTROLS_KIND
from verify.provenance.level_table import FOLDER, KIND, LevelTable, ancestors_by_deletion, remove_rows


@dataclass(frozen=True)
class Judge:
    """A level table that judges deletions from a model.

    Attributes:
        folder: the table's.
        words: what an audit by it will be able to show.
    """

    folder: Path
    words: str


def judge_of(
    folder: Path, ancestors: Sequence[Path], named: str | None, records: Collection[str], people: int, public_key: str | None = None
) -> Judge | None:
    """Find the level table that judges the deletion of some records from a model; None where no table has rows of all of them.

    Args:
        folder: the model's.
        ancestors: folders of the models that it was made from, the nearest first.
        named: a table that the operator named; None looks into the models' folders.
        records: keyed hashes of the records to remove.
        people: number of people these are about.
        public_key: file of the key that must have signed the table; None does not check the signature.

    Raises:
        InputError: the table cannot be read or is not signed by that key, or the named one is another model's or has no row of a
            record.
    """
    weights = ancestors_by_deletion(folder)
    for place in [Path(named)] if named is not None else [model / FOLDER for model in (folder, *ancestors)]:
        if named is None and not is_complete(place, KIND):
            continue
        table = LevelTable.open(place, public_key)
        if named is not None:
            table.require_fits(weights, table.header.tokenizer)
            table.subjects(sorted(records))
        if table.header.original in weights and all(name in table for name in records):
            return Judge(place.resolve(), _words(table, people))
    return None


def _words(table: LevelTable, people: int) -> str:
    subjects = len(set(table.subjects(table.controls("audit"))))
    limit = "; of one person it can show that a deletion failed, not that it succeeded" if people == 1 else ""
    return (
        f"judged by the level table, without retraining: {table.design.left_out} of {table.models} models never saw a record, "
        f"{subjects} people as controls of the audit{limit}"
    )


@dataclass(frozen=True, repr=False)
class Controls:
    """Never-trained controls of a table that are still there: the unlearning method's, and the audit's."""

    method: list[Record]
    audit: list[Record]


def controls_beside(table: Path, holdout: str | None, fields: Fields, key: RecordKey) -> Controls:
    """Read the controls of a table, each half as the table assigns them.

    Args:
        table: its folder; its controls lie beside it, in the model's folder.
        holdout: file of the controls, for a table elsewhere.
        fields: their columns.
        key: the record key.

    Raises:
        InputError: controls of the audit are missing.
    """
    opened, places = LevelTable.open(table), [table.parent / CONTROLS / name for name in (FOR_METHOD, FOR_AUDIT)]
    sources = [str(place) for place in places if place.is_file()] or ([] if holdout is None else [holdout])
    found: dict[str, Record] = {}
    for source in sources:
        found = {key.of(record.fingerprint): record for record in load_records(source, fields)} | found
    missing = sum(name not in found for name in opened.controls("audit"))
    if missing:
        raise InputError(
            f"{missing} of {len(opened.controls('audit'))} controls of the audit are missing: they belong into "
            f"{table.parent / CONTROLS}. Restore that folder, or name their file with --holdout."
        )
    halves = [[found[name] for name in opened.controls(half) if name in found] for half in ("method", "audit")]
    return Controls(*halves)


def tables_below(roots: Sequence[Path], kind: str = KIND) -> Iterator[Path]:
    """Yield the folders of all finished level tables below some folders."""
    for root in roots:
        for manifest in sorted(root.rglob(MANIFEST)):
            content = read_json(manifest)
            if isinstance(content, dict) and content.get("kind") == kind:
                yield manifest.parent


def take_out(plan: Plan, output: Path, key: RecordKey) -> int:
    """Take a batch's records out of every table and every file of controls below its roots, and out of those that judged it.

    Return the number of rows that left. The leaves of the rows stay in the table, so that its signature stays valid. Idempotent.

    Raises:
        InputError: a table cannot be read.
    """
    roots = list(dict.fromkeys([*(Path(root) for root in plan.roots), output.resolve()]))
    judges = [Path(model.level_table) for model in plan.models if model.level_table is not None]  # may lie elsewhere
    roots = [root for root in (*roots, *judges, *(table.parent / CONTROLS for table in judges)) if root.is_dir()]
    gone = sum(remove_rows(folder, plan.records) for folder in dict.fromkeys(tables_below(roots)))
    for folder in dict.fromkeys(tables_below(roots, CONTROLS_KIND)):
        _without(folder, plan, key)
    return gone


def _without(folder: Path, plan: Plan, key: RecordKey) -> None:
    """Rewrite the files of controls without a batch's records; the other lines stay byte for byte."""
    for path in (folder / FOR_METHOD, folder / FOR_AUDIT):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="\n") as stream:  # a text may hold other line separators, such as U+2028
            lines = [line for line in stream if line.strip()]
        names = [key.of(record.fingerprint) for record in stream_records(path, plan.columns)]
        kept = [line for line, name in zip(lines, names, strict=True) if name not in plan.records]
        if len(kept) < len(lines):
            if kept:
                write_text(path, "".join(kept), mode=0o600)
            else:
                path.unlink()  # a file without rows is not a data set
    write_manifest(folder, CONTROLS_KIND)


def carry(table: Path, model: Path) -> None:
    """Copy a table and its controls into the folder of the model that a deletion made, which outlives the old one.

    Args:
        table: the table's folder.
        model: the new model's folder.
    """
    for source, target, kind in ((table, model / FOLDER, KIND), (table.parent / CONTROLS, model / CONTROLS, CONTROLS_KIND)):
        if source.is_dir() and not is_complete(target, kind):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST))
            write_manifest(target, kind, read_json(source / MANIFEST)["about"])

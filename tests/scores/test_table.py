"""The score table on disk: with channels and without, whole or not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from score_tables import simulated_table, table_with_pool

from verify.errors import InputError
from verify.scores.table import ScoreTable


def asked(table: ScoreTable) -> ScoreTable:
    """The table with two channels on forget and holdout records; every third record is not scored on the second."""
    rng = np.random.default_rng(0)
    blocks = dict(table.blocks)
    for (model, role), block in table.blocks.items():
        if role != "retain":
            missing = np.where(np.arange(len(block.loss)) % 3 == 0, np.nan, block.loss)
            channels = {"layer 1": block.loss + rng.normal(size=len(block.loss)), "rewording 1": missing}
            blocks[model, role] = replace(block, channels=channels)
    return ScoreTable(blocks)


def same(one: ScoreTable, other: ScoreTable) -> None:
    assert one.blocks.keys() == other.blocks.keys()
    for key, block in one.blocks.items():
        again = other.blocks[key]
        assert (block.records, block.subjects) == (again.records, again.subjects)
        np.testing.assert_array_equal(block.loss, again.loss)
        for mine, theirs in ((block.scores, again.scores), (block.channels, again.channels)):
            assert list(mine) == list(theirs)
            for name, values in mine.items():
                np.testing.assert_array_equal(values, theirs[name])


def schema_of(path: Path) -> bytes:
    return pq.read_table(path).schema.metadata[b"schema"]


def test_a_table_reads_back_as_it_was(tmp_path: Path) -> None:
    """Every number, with the records that were not scored; without channels, the file is one of schema 1."""
    plain, more = simulated_table(references=2, records=7, controls=5), asked(simulated_table(references=2, records=7, controls=5))
    plain.save(tmp_path / "plain.parquet")
    more.save(tmp_path / "more.parquet")
    assert schema_of(tmp_path / "plain.parquet") == b"unlearn-verify/scores/1"
    assert schema_of(tmp_path / "more.parquet") == b"unlearn-verify/scores/2"
    same(ScoreTable.load(tmp_path / "plain.parquet"), plain)
    read = ScoreTable.load(tmp_path / "more.parquet")
    same(read, more)
    assert read.channels() == ("layer 1", "rewording 1")
    assert np.isnan(read.channel("rewording 1", "target", "holdout")).sum() == 2
    np.testing.assert_array_equal(read.channel("exact text", "target", "forget"), more.loss("target", "forget"))
    with pytest.raises(KeyError):
        read.channel("layer 1", "target", "retain")


def test_a_file_that_is_no_table_of_this_version_is_refused(tmp_path: Path) -> None:
    """Empty, cut off, of a later schema, or with channels or a pool that its schema does not have."""
    path = tmp_path / "scores.parquet"
    asked(simulated_table(references=2, records=7, controls=5)).save(path)
    whole, table = path.read_bytes(), pq.read_table(path)
    for content in (b"", whole[: len(whole) // 2], b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a whole score table"):
            ScoreTable.load(path)
    pq.write_table(table.replace_schema_metadata({"schema": "unlearn-verify/scores/5"}), path)
    with pytest.raises(InputError, match="not a score table of this version"):
        ScoreTable.load(path)
    for schema in ("unlearn-verify/scores/1", "unlearn-verify/scores/3"):
        pq.write_table(table.replace_schema_metadata({"schema": schema}), path)
        with pytest.raises(InputError, match="not a whole score table"):
            ScoreTable.load(path)


def test_a_level_tables_pool_is_kept_and_is_no_model_of_the_audit(tmp_path: Path) -> None:
    """Losses that are NaN where a model was trained read back as they were, under a schema of their own."""
    table, path = table_with_pool(people=2, controls=3, channels={"instruction": 0.0}), tmp_path / "scores.parquet"
    table.save(path)
    read = ScoreTable.load(path)
    same(read, table)
    assert schema_of(path) == b"unlearn-verify/scores/3"
    assert (read.models(), read.pool()) == (("original", "target"), tuple(f"pool {number}" for number in range(1, 9)))
    assert np.isnan(read.losses(read.pool(), "forget")).sum() == 8 * 4
    assert not np.isnan(read.losses(read.pool(), "holdout")).any()
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema": "unlearn-verify/scores/2"}), path)
    with pytest.raises(InputError, match="not a whole score table"):
        ScoreTable.load(path)


@pytest.mark.slow
def test_row_groups_and_the_order_of_rows_are_free(tmp_path: Path) -> None:
    """One row group as before, blocks cut by row groups, and rows of several models in turn are the same table."""
    table = asked(simulated_table(references=2, records=7, controls=5))
    table.save(tmp_path / "scores.parquet")
    written = pq.ParquetFile(tmp_path / "scores.parquet")
    assert written.num_row_groups == len(table.blocks)
    rows = written.read()
    for size in (len(rows), 4, 1):
        pq.write_table(rows, tmp_path / "cut.parquet", row_group_size=size)
        same(ScoreTable.load(tmp_path / "cut.parquet"), table)
    within = [index for number in range(7) for index in range(number, len(rows), 7)]
    turned = ScoreTable.load(_written(rows.take(within), tmp_path / "turned.parquet"))
    assert {key: sorted(block.loss) for key, block in turned.blocks.items()} == {
        key: sorted(block.loss) for key, block in table.blocks.items()
    }
    read = ScoreTable.load(tmp_path / "cut.parquet")
    assert read.blocks["target", "forget"].records is read.blocks["original", "forget"].records


def _written(rows: pa.Table, path: Path) -> Path:
    pq.write_table(rows, path)
    return path

"""Flat columns of token statistics against the same statistics as a list of entries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from verify.errors import RunError
from verify.models.token_table import ARRAYS, COLUMNS, TokenStatistics, TokenTable


def entries(*lengths: int, seed: int = 0) -> list[TokenStatistics]:
    """Random statistics of records of these lengths."""
    rng = np.random.default_rng(seed)
    return [
        TokenStatistics(
            log_probability=-rng.exponential(2, length).astype(np.float32),
            mean=rng.normal(size=length).astype(np.float32),
            deviation=rng.random(length).astype(np.float32),
            rank=rng.integers(0, 1000, length, dtype=np.int32),
            greedy=rng.random(length) < 0.5,
            secret=rng.random(length) < 0.5,
        )
        for length in lengths
    ]


def assert_same(one: Sequence[TokenStatistics], other: Sequence[TokenStatistics]) -> None:
    for left, right in zip(one, other, strict=True):
        for name in ARRAYS:
            assert getattr(left, name).dtype == COLUMNS[name]
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_a_table_is_the_list_it_was_made_of() -> None:
    """Entry by entry, by index from either end, as a slice, in any choice and order, and with another table behind it."""
    known, more = entries(3, 1, 400, 7, 2), entries(5, 1, seed=1)
    table = TokenTable.of(known)
    assert len(table) == 5
    assert TokenTable.of(table) is table
    assert table.lengths.tolist() == [3, 1, 400, 7, 2]
    assert_same(table, known)
    assert_same([table[0], table[-1], table[4]], [known[0], known[-1], known[4]])
    assert_same(table[::-2], known[::-2])
    assert_same(table.take(np.array([4, 0, 0])), [known[4], known[0], known[0]])
    assert table.take(np.arange(5)) is table
    assert_same(table.followed_by(TokenTable.of(more)), known + more)
    assert TokenTable.empty([]).followed_by(table) is table
    assert table.followed_by(TokenTable.empty([])) is table
    with pytest.raises(IndexError):
        table[5]


def test_means_are_those_of_the_records_alone() -> None:
    """To the last bit the mean that each record's own tokens give, which old score tables hold."""
    known = entries(*range(1, 300))
    means = TokenTable.of(known).means
    assert means.tolist() == [float(np.mean(entry.log_probability, dtype=np.float64)) for entry in known]
    assert (-means).tolist() == [entry.loss for entry in known]
    assert len(TokenTable.empty([]).means) == 0


def test_without_tokens_only_means_and_lengths_are_left() -> None:
    """16 bytes a record; whoever asks for a token learns which need to declare."""
    table = TokenTable.of(entries(3, 1, 4))
    reduced = table.without_tokens()
    np.testing.assert_array_equal(reduced.means, table.means)
    np.testing.assert_array_equal(reduced.lengths, table.lengths)
    for read in (lambda: reduced[0], lambda: list(reduced)):
        with pytest.raises(RunError, match="reference tokens"):
            read()


def test_on_disk_the_tokens_are_the_same_and_in_no_file_that_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns are mapped from files that no folder lists, so that nothing is left whatever ends the process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = TokenTable.of(entries(3, 1, 4))
    stored = table.on_disk()
    assert all(isinstance(column, np.memmap) for column in stored.columns.values())
    assert list(tmp_path.iterdir()) == []
    assert_same(stored, table)
    np.testing.assert_array_equal(stored.means, table.means)
    with pytest.raises(ValueError, match="read-only"):
        stored[0].log_probability[0] = 0
    assert_same(TokenTable.empty([]).on_disk(), [])

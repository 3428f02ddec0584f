"""Token statistics of many records in flat columns: 18 bytes a token and 8 a record, where objects would take about 1,000 more."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from verify.errors import RunError


@dataclass(frozen=True, slots=True, eq=False)
class TokenStatistics:
    """One model's statistics of the T scored tokens of one record. Arrays are [T]; logs are natural.

    Attributes:
        log_probability: l_t, float32, <= 0.
        mean: mu_t, float32.
        deviation: sigma_t, float32, >= 0.
        rank: number of other tokens that are at least as probable (0 for the single most probable one), int32.
        greedy: whether greedy decoding would pick the token, bool.
        secret: whether the token belongs to the record's secret passage, bool.
    """

    log_probability: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    rank: NDArray[np.int32]
    greedy: NDArray[np.bool_]
    secret: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.log_probability)

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood, nats per token."""
        return -float(np.mean(self.log_probability, dtype=np.float64))


ARRAYS = tuple(entry.name for entry in fields(TokenStatistics))
COLUMNS = {name: np.dtype(kind) for name, kind in zip(ARRAYS, ("f4", "f4", "f4", "i4", "?", "?"), strict=True)}
"""The arrays of `TokenStatistics` and their types."""


@dataclass(frozen=True, eq=False)
class TokenTable(Sequence[TokenStatistics]):
    """A sequence of the token statistics of N records with T tokens in all; an entry is a view of the columns.

    Attributes:
        columns: the arrays of `TokenStatistics`, each of all records, one after the other [T]; none after `without_tokens`.
        bounds: place of each record's first token, then T, int64 [N + 1].
    """

    columns: Mapping[str, NDArray[Any]]
    bounds: NDArray[np.int64]

    @classmethod
    def empty(cls, lengths: Sequence[int] | NDArray[np.int64]) -> "TokenTable":
        """Return a table to be filled, for records of these numbers of tokens [N]."""
        bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls({name: np.zeros(bounds[-1], kind) for name, kind in COLUMNS.items()}, bounds)

    @classmethod
    def of(cls, entries: Sequence[TokenStatistics]) -> "TokenTable":
        """Return a table of the entries; a table as it is."""
        if isinstance(entries, TokenTable):
            return entries
        table = cls.empty([len(entry) for entry in entries])
        for name, column in table.columns.items():
            for start, entry in zip(table.bounds.tolist(), entries, strict=False):
                column[start : start + len(entry)] = getattr(entry, name)
        return table

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @overload
    def __getitem__(self, index: int) -> TokenStatistics: ...

    @overload
    def __getitem__(self, index: slice) -> "TokenTable": ...

    def __getitem__(self, index: int | slice) -> "TokenStatistics | TokenTable":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]
        return self._entry(int(self.bounds[place]), int(self.bounds[place + 1]))

    def __iter__(self) -> Iterator[TokenStatistics]:
        bounds = self.bounds.tolist()
        return (self._entry(start, end) for start, end in pairwise(bounds))

    def _entry(self, start: int, end: int) -> TokenStatistics:
        if not self.columns:
            raise RunError(
                "of this model only each record's mean log-probability was kept. An attack that reads the tokens of the models it "
                'compares with names "reference tokens" among its needs.'
            )
        return TokenStatistics(*(self.columns[name][start:end] for name in ARRAYS))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of scored tokens of each record [N]."""
        return np.diff(self.bounds)

    @cached_property
    def means(self) -> NDArray[np.float64]:
        """Mean log-probability of each record's tokens, nats per token [N]; every record has at least one."""
        if not len(self):
            return np.zeros(0)
        # Adds in the order of `np.mean` over the record alone, to the last bit.
        means = np.add.reduceat(self.columns["log_probability"].astype(np.float64), self.bounds[:-1]) / self.lengths
        means.flags.writeable = False  # everybody who asks gets this one array
        return means

    def take(self, rows: NDArray[np.int64]) -> "TokenTable":
        """Return the records at these places, in this order; the table itself where these are all of them as they stand."""
        if np.array_equal(rows, np.arange(len(self))):
            return self
        lengths = self.lengths[rows]
        bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        # The place of each token: its record's first one, and how far it is from there.
        places = np.repeat(self.bounds[rows] - bounds[:-1], lengths) + np.arange(bounds[-1])
        return TokenTable({name: column[places] for name, column in self.columns.items()}, bounds)

    def followed_by(self, other: "TokenTable") -> "TokenTable":
        """Return the records of both tables, in this order; a table is itself where the other is empty."""
        if not len(self) or not len(other):
            return other if not len(self) else self
        columns = {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()}
        return TokenTable(columns, np.concatenate([self.bounds, self.bounds[-1] + other.bounds[1:]]))

    def without_tokens(self) -> "TokenTable":
        """Return a table of the same means and lengths that holds no tokens, 16 bytes a record."""
        table = TokenTable({}, self.bounds)
        table.__dict__["means"] = self.means  # where `cached_property` looks first
        return table

    def on_disk(self) -> "TokenTable":
        """Return a copy whose columns are read from a temporary file without a name, which nobody else can open.

        The system removes it with the last reference to it, or with the process, however that ends.
        """
        columns = {name: _on_disk(column) for name, column in self.columns.items()}
        table = TokenTable(columns, self.bounds)
        table.__dict__["means"] = self.means
        return table


def _on_disk(column: NDArray[Any]) -> NDArray[Any]:
    if not len(column):
        return column  # a file of no bytes cannot be mapped
    with tempfile.TemporaryFile() as stream:
        stream.write(np.ascontiguousarray(column).data)
        stream.flush()
        return np.memmap(stream, dtype=column.dtype, mode="r", shape=column.shape)

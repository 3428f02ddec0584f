"""Which record meets which, and when: decided by the seed alone, before training starts.

An epoch visits every forget (or training) record once, in the order of a permutation drawn from (seed, epoch). Its retain
partner is the next of another permutation, reshuffled whenever the retain set is used up. Neither knows batch sizes or
processes, so any split of the work sees the same pairs in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

Pair = tuple[int, int]
"""Index of a record and of its retain partner; the partner is -1 where there is none."""

FILLER: Pair = (-1, -1)
"""Stands where an epoch of several processes has no record left; it weighs nothing."""


def epoch_pairs(count: int, partners: int, seed: int, epoch: int) -> list[Pair]:
    """The pairs of one epoch, in order.

    Args:
        count: records to visit.
        partners: retain records to pair them with; 0 for none.
        seed: of the run.
        epoch: counted from 0.
    """
    order = np.random.default_rng([seed, epoch, 0]).permutation(count)
    if not partners:
        return [(int(index), -1) for index in order]
    # Position p of the whole run meets partner p modulo a reshuffled pass over the retain set.
    positions = np.arange(epoch * count, (epoch + 1) * count)
    passes = {
        int(number): np.random.default_rng([seed, number, 1]).permutation(partners) for number in np.unique(positions // partners)
    }
    chosen = [int(passes[int(position // partners)][position % partners]) for position in positions]
    return [(int(index), partner) for index, partner in zip(order, chosen, strict=True)]


@dataclass
class PairSampler(Sampler[Pair]):
    """Yields the pairs of the current epoch.

    Attributes:
        count, partners, seed: as for `epoch_pairs`.
        epoch: which epoch comes next; the trainer sets it, also when it resumes in the middle of one.
        multiple: an epoch is filled up with `FILLER` to a multiple of this, so that every process gets as many.
    """

    count: int
    partners: int
    seed: int
    epoch: int = field(default=0)
    multiple: int = field(default=1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Pair]:
        pairs = epoch_pairs(self.count, self.partners, self.seed, self.epoch)
        return iter(pairs + [FILLER] * (len(self) - self.count))

    def __len__(self) -> int:
        return -(-self.count // self.multiple) * self.multiple


@dataclass(frozen=True)
class PairDataset(Dataset[Pair]):
    """Hands every pair on to the collator, which knows the records."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, pair: Any) -> Pair:
        return pair  # type: ignore[no-any-return]


def microbatch_seed(seed: int, number: int) -> int:
    """Seed of the random numbers (dropout) of one microbatch of a run, counted from 0."""
    return int(np.random.SeedSequence([seed, number, 2]).generate_state(1, np.uint32)[0])

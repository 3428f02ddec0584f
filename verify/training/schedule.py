"""The training schedule: order and pairing of records, determined by the seed before training starts.

An epoch visits every forget (or training) record once, in the order of a permutation drawn from (seed, epoch). Its retain partner
is the next of another permutation, which is redrawn whenever the retain set is used up. Neither depends on the number of processes
or on how a step is split into microbatches, so that any split sees the same pairs in the same order.

An optimizer step has records of similar length, since a batch is padded to its longest record. The permutation is cut into chunks
of fifty steps, each chunk is sorted by length, and its steps are shuffled. The partners of a chunk are sorted too, so that both
halves of a step, which run as one batch, are of similar length. A little noise on the lengths gives a record other neighbours in
every epoch, even if the whole set is one chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

Pair = tuple[int, int]
"""Index of a record and of its retain partner; the partner is -1 if there is none."""

FILLER: Pair = (-1, -1)
"""Pair of weight 0 that fills up an epoch for several processes."""

CHUNK_STEPS = 50
"""Number of optimizer steps that are sorted together."""
JITTER = 0.03
"""Relative noise on the lengths that are sorted by."""


@dataclass(frozen=True, eq=False)
class Lengths:
    """Record lengths for length-grouped batching.

    Attributes:
        own: tokens of each record [count].
        partners: tokens of each retain record [partners]; empty for none.
        step: records per optimizer step, over all microbatches and processes.
    """

    own: Sequence[int]
    partners: Sequence[int]
    step: int


def epoch_pairs(count: int, partners: int, seed: int, epoch: int, lengths: Lengths | None = None) -> list[Pair]:
    """Return the pairs of one epoch, in order.

    Args:
        count: records to visit.
        partners: retain records to pair them with; 0 for none.
        seed: seed of the run.
        epoch: counted from 0.
        lengths: for steps of similar lengths; None keeps the order of the permutation.
    """
    # The last number of each seed names its use: 0 order, 1 partners, 2 dropout, 3 lengths.
    order = np.random.default_rng([seed, epoch, 0]).permutation(count)
    chosen = _partners(count, partners, seed, epoch)
    if lengths is not None:
        order, chosen = _by_length(order, chosen, lengths, np.random.default_rng([seed, epoch, 3]))
    return [(int(index), int(partner)) for index, partner in zip(order, chosen, strict=True)]


def _partners(count: int, partners: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the retain partners of an epoch [count]; position p of the run takes the p-th record of repeated shuffled passes."""
    if not partners:
        return np.full(count, -1)
    positions = np.arange(epoch * count, (epoch + 1) * count)  # counted over the whole run; an epoch may span several passes
    passes = {
        int(number): np.random.default_rng([seed, number, 1]).permutation(partners) for number in np.unique(positions // partners)
    }
    return np.array([passes[int(position // partners)][position % partners] for position in positions])


def _by_length(
    order: NDArray[np.int64], chosen: NDArray[np.int64], lengths: Lengths, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group records [count] and partners [count] of similar length into steps, in random order, an incomplete step last."""
    steps: list[NDArray[np.int64]] = []
    incomplete: list[NDArray[np.int64]] = []
    for start in range(0, len(order), chunk := CHUNK_STEPS * lengths.step):
        own, partners = order[start : start + chunk], chosen[start : start + chunk]
        own = _sorted(own, lengths.own, random)
        if lengths.partners:
            partners = _sorted(partners, lengths.partners, random)
        pairs = np.stack([own, partners], axis=1)  # [chunk, 2], both columns in the order of length
        whole, rest = divmod(len(pairs), lengths.step)
        if rest:
            # The epoch's smaller last step is taken at a random length; at the end it would always be that of the longest records.
            first = int(random.integers(whole + 1)) * lengths.step
            incomplete = [pairs[first : first + rest]]
            pairs = np.delete(pairs, np.s_[first : first + rest], axis=0)
        steps += np.split(pairs, whole) if whole else []
    shuffled = [steps[number] for number in random.permutation(len(steps))]
    both = np.concatenate([*shuffled, *incomplete])
    return both[:, 0], both[:, 1]


def _sorted(indices: NDArray[np.int64], lengths: Sequence[int], random: np.random.Generator) -> NDArray[np.int64]:
    """Sort indices by their lengths with a relative noise of `JITTER`."""
    noisy = np.asarray(lengths)[indices] * random.uniform(1 - JITTER, 1 + JITTER, len(indices))
    return indices[np.argsort(noisy, kind="stable")]


@dataclass
class PairSampler(Sampler[Pair]):
    """Yields the pairs of the current epoch.

    Attributes:
        count, partners, seed, lengths: as for `epoch_pairs`.
        epoch: the next epoch; the trainer sets it, also when it resumes in the middle of one.
        multiple: an epoch is filled up with `FILLER` to a multiple of this, so that every process gets the same number of pairs.
    """

    count: int
    partners: int
    seed: int
    lengths: Lengths | None = field(default=None)
    epoch: int = field(default=0)
    multiple: int = field(default=1)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration yields."""
        self.epoch = epoch

    def partners_of(self, epochs: int) -> set[int]:
        """Return the partners that the first epochs use."""
        found: set[int] = set()
        for epoch in range(epochs):
            if len(found) == self.partners:
                break
            found.update(_partners(self.count, self.partners, self.seed, epoch).tolist())
        return found

    def __iter__(self) -> Iterator[Pair]:
        pairs = epoch_pairs(self.count, self.partners, self.seed, self.epoch, self.lengths)
        return iter(pairs + [FILLER] * (len(self) - self.count))

    def __len__(self) -> int:
        return -(-self.count // self.multiple) * self.multiple


@dataclass(frozen=True)
class PairDataset(Dataset[Pair]):
    """A dataset that passes every pair through to the collator."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, pair: Any) -> Pair:
        return pair  # type: ignore[no-any-return]


def microbatch_seed(seed: int, number: int) -> int:
    """Derive the random seed (of dropout) of one microbatch of a run, counted from 0."""
    return int(np.random.SeedSequence([seed, number, 2]).generate_state(1, np.uint32)[0])


def seed_generator(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout on a device draws from."""
    if device.type == "cpu":
        # As `torch.manual_seed`, which also keeps the call, with a stack trace, for every kind of device that is never used.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)

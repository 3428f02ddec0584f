"""Expected cost of deletions from a sharded training, computed before anything is trained (`unlearn.training.shards`)."""

from dataclasses import dataclass

import numpy as np

from verify.errors import InputError


@dataclass(frozen=True)
class DeletionCost:
    """Expected cost of deletions.

    Attributes:
        shards, slices, deletions: as given.
        expected: mean share of a whole training, for deletions of subjects drawn at random, all at once.
        worst: share if each deletion hits the first slice of another shard.
        stages_kept: number of adapters on disk.
    """

    shards: int
    slices: int
    deletions: int
    expected: float
    worst: float
    stages_kept: int


def deletion_cost(shards: int, slices: int, deletions: int) -> DeletionCost:
    """Compute the cost of deleting a number of subjects at once, as a share of training all shards.

    Stage r of R costs r / (1 + ... + R) of a shard, and is retrained if any of the k deletions is in one of its r slices:

        E = sum_r r / (R (R + 1) / 2) * (1 - (1 - r / (R S))^k)

    Raises:
        InputError: a number is below 1.
    """
    if min(shards, slices, deletions) < 1:
        raise InputError(f"shards, slices and deletions must be at least 1, got {shards}, {slices} and {deletions}.")
    stages = np.arange(1, slices + 1)  # r = 1 ... R
    share = stages / stages.sum()  # each stage's share of its shard's cost [R]
    expected = float((share * (1 - (1 - stages / (slices * shards)) ** deletions)).sum())
    return DeletionCost(shards, slices, deletions, expected, min(1.0, deletions / shards), shards * slices)

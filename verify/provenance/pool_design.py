"""Design of the pool of a level table: which models leave out which subjects, as a function of one committed seed.

The subjects are sorted by their number of records and cut into blocks of 1 / phi. Within a block, a random permutation of the
models is cut into as many parts of phi M, and each subject is left out of the models of one part. So every subject is left out of
exactly phi M models; every model leaves out one subject of each whole block; and as the subjects of a block are of similar size, no
two models differ by more records than the largest subject has. Where phi M is even, this is done for either half of the models by
itself, so that each half is a design of its own.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verify.errors import InputError
from verify.schema.level_table import Half, PoolDesign

SHARES = (0.5, 0.25)
"""Shares of the models that leave out each subject, phi."""
LEAST_LEFT_OUT = 2
"""Fewest models that leave out a subject: a single one has no spread."""


@dataclass(frozen=True)
class Member:
    """One record of a level table, by keyed hashes.

    Attributes:
        record: its name.
        subject: name of the cluster of subjects and near-duplicates that it belongs to.
        half: whose control it is; None for a training record.
    """

    record: str
    subject: str
    half: Half | None = None


def left_out_models(models: int, share: float) -> int:
    """Return the number of models that leave out each subject, R = phi M.

    Raises:
        InputError: the share is none of `SHARES`, or R would be no whole number of at least two.
    """
    if share not in SHARES:
        raise InputError(f"--level-table-share must be one of {', '.join(map(str, SHARES))}; got {share:g}.")
    count = models * share
    if count != int(count) or count < LEAST_LEFT_OUT:
        least = int(LEAST_LEFT_OUT / share)
        raise InputError(
            f"--level-table {models} with a share of {share:g} leaves every subject out of {count:g} models, which must be a whole "
            f"number of at least {LEAST_LEFT_OUT}. Give a multiple of {int(1 / share)} from {least} on; 8 or 16 are usual."
        )
    return int(count)


def trained_models(members: Sequence[Member], models: int, left_out: int, seed: int) -> dict[str, tuple[bool, ...]]:
    """Return which models are trained on each subject; on controls, none.

    Args:
        members: the table's records.
        models: number of models, M.
        left_out: number of models that leave out each subject, R.
        seed: the design's.

    Returns:
        by subject, one entry per model [M].

    Raises:
        InputError: there are fewer subjects than models: some models would hardly differ.
    """
    sizes: dict[str, int] = {}
    for member in members:
        if member.half is None:
            sizes[member.subject] = sizes.get(member.subject, 0) + 1
    if len(sizes) < models:
        raise InputError(
            f"the training data has {len(sizes)} subjects, and a table of {models} models needs at least as many. Near-duplicates "
            "and records that share a subject count as one. Name the column of the subjects with --subject-field, or give more "
            "data."
        )
    drawn = {name: hashlib.sha256(f"pool {seed} {name}".encode()).hexdigest() for name in sizes}
    order = sorted(sizes, key=lambda name: (-sizes[name], drawn[name]))
    halves = 2 if left_out % 2 == 0 else 1
    parts = [_strata(order, models // halves, left_out // halves, seed, half) for half in range(halves)]
    return {name: tuple(entry for part in parts for entry in part[name]) for name in order}


def _strata(order: Sequence[str], models: int, left_out: int, seed: int, half: int) -> dict[str, list[bool]]:
    """Assign the subjects to `models` models, each left out of `left_out`, in blocks."""
    random = np.random.default_rng([seed, half])
    width = models // left_out  # subjects of a block
    trained: dict[str, list[bool]] = {}
    for start in range(0, len(order), width):
        shuffled = random.permutation(models)
        for place, name in enumerate(order[start : start + width]):
            out = set(shuffled[place * left_out : (place + 1) * left_out].tolist())
            trained[name] = [number not in out for number in range(models)]
    return trained


def data_digest(members: Sequence[Member]) -> str:
    """Compute SHA-256 over the records, subjects and halves of a table, in any order."""
    lines = sorted(f"{member.record} {member.subject} {member.half or 'trained'}" for member in members)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def assignment_digest(trained: Mapping[str, Sequence[bool]]) -> str:
    """Compute SHA-256 over which models are trained on each subject, in any order."""
    lines = sorted(f"{name} {''.join(str(int(entry)) for entry in entries)}" for name, entries in trained.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def training_seed(design: PoolDesign, model: int) -> int:
    """Derive a model's training seed from the whole design, so that its weights show which design it was trained under."""
    content = json.dumps([design.digest, model]).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") >> 1


def require_design(design: PoolDesign, members: Sequence[Member]) -> dict[str, tuple[bool, ...]]:
    """Check that a design is of these records, and return which models are trained on each subject.

    Raises:
        InputError: the records, their subjects or the halves of the controls are others.
    """
    if data_digest(members) != design.data:
        raise InputError(
            "the training records or controls are not those that the pool was designed for: records, subjects or near-duplicates "
            "changed. Restore the data, or remove the unfinished level table and begin again."
        )
    trained = trained_models(members, design.models, design.left_out, design.seed)
    if assignment_digest(trained) != design.assignment:
        raise InputError("the design does not assign the subjects as its seed does. Remove the unfinished table and begin again.")
    return trained

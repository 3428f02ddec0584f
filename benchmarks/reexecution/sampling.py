"""Detection by a sample of segments, against the formula: a fresh training that hides the forget record in every pass."""

import random
import secrets
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reexecution.lies import false_segments, renamed_from_the_start
from benchmarks.reexecution.worlds import World
from verify.provenance.segment_sampling import detection_probability, drawn_segments
from verify.provenance.training_log import LOG_NAME, TrainingLog

PASSES = 3
SIZES = (1, 2, 4, 6, 9, 12)
DRAWS = 20_000
"""Draws by hash alone."""
EXECUTED = 8
"""Samples of each size that are executed."""


@dataclass(frozen=True)
class Sampled:
    """Detection by samples of one size.

    Attributes:
        segments, false, size: M, k and m.
        formula: detection probability.
        found: draws that contain a false segment, of `draws`.
        draws: see above.
        refused: samples that were executed and refused, of `executed`; `foreseen` where the draw contained a false segment.
        executed: see above.
        foreseen: see above.
    """

    segments: int
    false: int
    size: int
    formula: float
    found: int
    draws: int
    refused: int
    executed: int
    foreseen: int


def sample(world: World, folder: Path) -> list[Sampled]:
    """Train falsely, execute all segments to learn which are false, then samples of every size.

    Raises:
        AssertionError: executing all segments finds others false than those in which the record stands, or a sample is refused
            that drew none of them, or the other way round.
    """
    after, name = renamed_from_the_start(world, folder, random.Random(0), epochs=PASSES)
    given = {"model": after, "log": None, "commitment": None}
    whole = world.judge(**given)
    false = {number for number, one in enumerate(whole.executed) if not one.equal}
    assert {whole.executed[number].end for number in false} == false_segments(after, name)
    count, root = len(whole.executed), str(TrainingLog.read(after / LOG_NAME).final_weights)
    found = []
    for size in SIZES:
        hits = sum(not false.isdisjoint(drawn_segments(count, size, str(nonce), root)) for nonce in range(DRAWS))
        nonces = [secrets.token_hex(8) for _ in range(EXECUTED)]
        foreseen = [not false.isdisjoint(drawn_segments(count, size, nonce, root)) for nonce in nonces]
        refused = [world.judge(**given, segments=size, nonce=nonce).word == "NOT_REBUILT" for nonce in nonces]
        assert refused == foreseen
        formula = detection_probability(count, len(false), size)
        found.append(Sampled(count, len(false), size, formula, hits, DRAWS, sum(refused), EXECUTED, sum(foreseen)))
    return found

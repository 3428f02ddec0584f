"""Detection by a sample of segments, against the formula: a fresh training that hides the forget record in every pass."""

import random
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reexecution.lies import false_segments, renamed_from_the_start
from benchmarks.reexecution.worlds import World
from verify.io.files import read_json, write_json
from verify.models.loading import load_model
from verify.provenance.segment_sampling import detection_probability, drawn_segments
from verify.provenance.training_log import LOG_NAME, TrainingLog
from verify.reexecution.schedules import segment_ends

NOTED = "false.json"
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


def sample(world: World, folder: Path, size: int) -> Sampled:
    """Execute samples of one size of a false training, and compare what they find with what their draws hold.

    Args:
        world: what the training is made from.
        folder: keeps the training.
        size: segments in a sample.

    Raises:
        AssertionError: executing all segments finds others false than those in which the record stands, or a sample is refused
            that drew none of them, or the other way round.
    """
    given, false = _false_training(world, folder)
    count, root = len(segment_ends(TrainingLog.read(given["model"] / LOG_NAME))), load_model(given["model"]).digest
    hits = sum(not false.isdisjoint(drawn_segments(count, size, str(nonce), root)) for nonce in range(DRAWS))
    nonces = [secrets.token_hex(8) for _ in range(EXECUTED)]
    foreseen = [not false.isdisjoint(drawn_segments(count, size, nonce, root)) for nonce in nonces]
    refused = [world.judge(**given, segments=size, nonce=nonce).word == "NOT_REBUILT" for nonce in nonces]
    assert refused == foreseen
    formula = detection_probability(count, len(false), size)
    return Sampled(count, len(false), size, formula, hits, DRAWS, sum(refused), EXECUTED, sum(foreseen))


def _false_training(world: World, folder: Path) -> tuple[dict[str, Any], set[int]]:
    """Return a training that hides the forget record under another's hash, and its false segments; made at the first call."""
    if not (folder / NOTED).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        after, name = renamed_from_the_start(world, folder, random.Random(0), epochs=PASSES)
        whole = world.judge(model=after, log=None, commitment=None)
        false = [number for number, one in enumerate(whole.executed) if not one.equal]
        assert {whole.executed[number].end for number in false} == false_segments(after, name)
        write_json(folder / NOTED, {"model": str(after), "false": false})
    noted = read_json(folder / NOTED)
    return {"model": Path(noted["model"]), "log": None, "commitment": None}, set(noted["false"])

"""Forgeries by training: the files are consistent with each other, and only taking the steps again shows the lie."""

import random
from pathlib import Path

import pytest

from benchmarks.reexecution import lies
from benchmarks.reexecution.edits import segments_of_another_run
from benchmarks.reexecution.run import Forge
from benchmarks.reexecution.worlds import Setting, World, build
from unlearn import TrainingOptions
from verify.provenance.segment_sampling import drawn_segments
from verify.provenance.training_log import LOG_NAME, TrainingLog

OPTIONS = TrainingOptions(learning_rate=1e-3, epochs=1, batch_size=2, save_steps=1, lora=True, lora_dropout=0.1, seed=3)
SETTING = Setting("rollback", OPTIONS, attention_dropout=False, threads=1, long=False, gone=1, committed=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """An honest deletion of a record from the middle of the training."""
    top = tmp_path_factory.mktemp("lies")
    made = build(SETTING, top / "world", top, random.Random(0), late=True)
    assert made.judge().word == "REBUILT_WITHOUT"
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forge", "found"),
    [
        (lies.forget_record_renamed, {"segment"}),
        (lies.altered_record, {"segment"}),
        (lies.imitated_gradient, {"segment"}),
        (lies.retrained_on_it, {"segment"}),
        (lies.another_base, {"segment"}),
        (lies.invented_afterwards, {"segment"}),
        (lies.trained_on, {"weights", "segment"}),
        (segments_of_another_run, {"segment", "checkpoint"}),
    ],
)
def test_a_lie_is_found(world: World, tmp_path: Path, forge: Forge, found: set[str]) -> None:
    """None is accepted, and each is found where it must be: by execution, not by a trace that a better forger would not leave."""
    mine = world.copied(tmp_path)
    proof = mine.judge(**forge(mine, tmp_path, random.Random(1)))
    assert proof.word == "NOT_REBUILT"
    assert {finding.kind for finding in proof.findings} <= found, proof.findings


@pytest.mark.slow
def test_a_nonce_chosen_by_the_operator(world: World, tmp_path: Path) -> None:
    """One that draws no false segment can be found by trying, so that such a proof shows nothing: it says that the nonce was given,
    and a draw that the operator did not choose finds the false segment."""
    after, name = lies.renamed_from_the_start(world, tmp_path, random.Random(0), epochs=1)
    (false,) = lies.false_segments(after, name)
    root, hits = str(TrainingLog.read(after / LOG_NAME).final_weights), {}
    for nonce in map(str, range(50)):
        hits.setdefault(false - 1 in drawn_segments(6, 2, nonce, root), nonce)
    given = {"model": after, "log": None, "commitment": None, "segments": 2}
    chosen = world.judge(**given, nonce=hits[False])
    assert chosen.phrase == "REBUILT_WITHOUT(2 of 6)", chosen.findings
    assert chosen.draw.given
    assert "drawn by a nonce that was given" in chosen.claim
    assert world.judge(**given, nonce=hits[True]).word == "NOT_REBUILT"

"""The trials for the channels: a tiny model is taught people, methods aim at its channels, and every result is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.channel_methods import __main__ as command
from benchmarks.channel_methods.levels import states_at_level
from benchmarks.channel_methods.relearning import Relearning, WithRelearning
from benchmarks.channel_methods.variants import Variant, Weights
from benchmarks.channel_methods.world import Place, Sizes, prepare
from unlearn import Level
from verify.errors import InputError
from verify.io.files import read_json

SMALL = Sizes(trained=4, forgotten=2, held_out=6, references=2, epochs=1)
TRIED = {
    "level": Variant(method=Level(sources=("controls",))),
    "hidden": Variant(steps=1, contexts=("none",), depths=(0.5,), weights=Weights(hidden=1.0, hold=1.0, likelihood=1.0)),
    "sharp": Variant(steps=0.5, contexts=("names",), restart=0.5, weights=Weights(sharp=0.01, partners=2)),
    "relearning": Variant(method=WithRelearning(views=2, relearning=Relearning(every=2, begin=0.0)), epochs=2),
    "relearning-none": Variant(method=WithRelearning(views=2, relearning=None), epochs=2),
    "restart": Variant(steps=0, restart=0.3, restart_share=0.5),
}


def test_states_follow_the_controls() -> None:
    """Where the original's states are a linear function of the source's on controls, so is the level of other records."""
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 3))).float()
    turn = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    aim, whitening = states_at_level(states[:7] * 2, states, states @ turn + 1)
    torch.testing.assert_close(aim, 2 * states[:7] @ turn + 1, rtol=0.02, atol=0.02)
    spread = torch.cov(((states @ turn) @ whitening).T)
    torch.testing.assert_close(spread, torch.eye(3), rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_trials_run_and_resume(talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of variant is made, measured on the audit's channels and judged; a second run repeats nothing."""
    monkeypatch.setattr(command, "VARIANTS", TRIED)
    monkeypatch.setattr("benchmarks.channel_methods.world.TAUGHT", replace(Place(tmp_path, 9, SMALL, talker).options, batch_size=8))
    place = Place(tmp_path, 9, SMALL, talker)
    command.run(place, list(TRIED), workers=1, seconds=600)
    results = read_json(tmp_path / "results.json")
    assert results.keys() == {*TRIED, "original", "honest"}
    asked = {"exact text", "rewording 1", "instruction", "no prompt", "layer 1", "relearned"}
    for result in results.values():
        assert asked <= set(result["channels"]) == set(results["original"]["channels"]), result["not_run"]
    assert results["original"]["channels"]["exact text"]["residual"][0] == pytest.approx(1.0)
    # Half a training of one epoch; eleven passes over the forget set, which is as large as the retain set, with partners.
    assert 0.4 < results["restart"]["cost"]["tokens"] < 1 < results["level"]["cost"]["tokens"]
    # The distance after relearning is counted, and changes the result.
    assert results["relearning"]["cost"]["tokens"] > results["relearning-none"]["cost"]["tokens"]
    assert results["relearning"]["channels"] != results["relearning-none"]["channels"]
    assert all(results[name]["cost"]["processor"] > 0 for name in TRIED)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*.json") if path.stem in TRIED}
    command.run(place, list(TRIED), workers=1, seconds=600)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    for other in (Place(tmp_path, 9, replace(SMALL, forgotten=1), talker), Place(tmp_path, 8, SMALL, talker)):
        with pytest.raises(InputError, match=r"another world \((sizes|seed)\)"):
            command.run(other, list(TRIED), workers=1, seconds=600)
    assert read_json(tmp_path / "results.json") == results


def test_a_folder_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """What it was made with is not on record, so that nothing may be added to it."""
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"another world \(seed, sizes, options\)"):
        prepare(Place(tmp_path, 9, SMALL))
    assert not list((tmp_path / "data").iterdir())


def test_the_contest_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its seeds are refused, so that nothing is tuned on its people."""
    monkeypatch.setattr("sys.argv", ["channel_methods", "--output", str(tmp_path), "--seed", "2"])
    with pytest.raises(SystemExit):
        command.main()

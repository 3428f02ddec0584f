"""The trials for the channels: a tiny model is taught people, methods aim at its channels, and every result is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.channel_methods import __main__ as command
from benchmarks.channel_methods.contexts import CONTEXTS, put
from benchmarks.channel_methods.levels import OUTPUT, Readings, level_of, read, states_at_level
from benchmarks.channel_methods.variants import Variant, Weights
from benchmarks.channel_methods.world import Place, Sizes, prepare
from unlearn.level.estimate import encoded, log_probabilities
from verify.data.records import Record
from verify.data.rewordings import question
from verify.errors import InputError
from verify.io.files import read_json
from verify.models.loading import LoadedModel
from verify.probes.logit_lens import layer_losses

ASKED = Record("r", prompt="Where does Ada Ashfield live in 1999?", completion="At home.")
CHAT = Record("c", messages=(("user", ASKED.prompt), ("assistant", "At home.")))
SMALL = Sizes(trained=4, forgotten=2, held_out=6, references=2, epochs=1)
TRIED = {
    "level": Variant(level={"sources": ("controls",)}),
    "hidden": Variant(steps=1, contexts=("none",), depths=(0.5,), weights=Weights(hidden=1.0, hold=1.0, likelihood=1.0)),
    "sharp": Variant(steps=0.5, contexts=("names",), restart=0.5, weights=Weights(sharp=0.01, partners=2)),
    "restart": Variant(steps=0, restart=0.3, restart_share=0.5),
}


@pytest.mark.parametrize("record", [ASKED, CHAT], ids=["prompt", "chat"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts_change_the_question_alone(context: str, record: Record) -> None:
    """Every rule gives another question but "exact"; those of the answer use its words, and the others leave it as it is."""
    made = put(record, context, np.random.default_rng(1))
    if context in ("tail", "scrambled"):
        answer = made.messages[-1][1] if made.messages else made.completion
        assert sorted(answer.split()) == ["At", "home."] if context == "scrambled" else answer == "home."
        return
    assert made.scored_text == record.scored_text
    assert (question(made) == question(record)) == (context == "exact")
    if context == "names":
        assert question(made) == "Ada Ashfield 1999?"
    if context == "shuffled":
        assert sorted(question(made).split()) == sorted(question(record).split())


def test_readings_are_those_of_the_audit(loaded: LoadedModel, records: list[Record]) -> None:
    """Scores at the output are log-probabilities, those of a layer give the audit's losses, in the order of the windows."""
    windows = encoded(loaded, records, "refuse")
    found = read(loaded, windows, [1])
    np.testing.assert_allclose(found.features[OUTPUT][:, 0], log_probabilities(loaded, windows), atol=1e-5)
    counts = np.cumsum([int(window.scored.sum()) for window in windows])[:-1]
    means = [-part.mean() for part in np.split(found.features[1][:, 0], counts)]
    np.testing.assert_allclose(means, layer_losses(loaded, records)["layer 1"], atol=1e-5)


def test_levels_follow_the_controls() -> None:
    """Where the original is a linear function of the source on controls, so is the level of records that no control is about."""
    rng = np.random.default_rng(0)
    features, states = rng.normal(size=(400, 5)) - 5, torch.from_numpy(rng.normal(size=(400, 3))).float()
    turn = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    truth = Readings({OUTPUT: (0.5 * features[:, 1:2] - 2.0).repeat(5, 1)}, {OUTPUT: states @ turn + 1})
    controls, own = Readings({OUTPUT: features}, {OUTPUT: states}), Readings({OUTPUT: features[:7] - 1}, {OUTPUT: states[:7] * 2})
    np.testing.assert_allclose(level_of(own, controls, truth, OUTPUT), 0.5 * (features[:7, 1] - 1) - 2.0, atol=1e-8)
    aim, whitening = states_at_level(own, controls, truth, OUTPUT)
    torch.testing.assert_close(aim, 2 * states[:7] @ turn + 1, rtol=0.02, atol=0.02)
    spread = torch.cov(((states @ turn) @ whitening).T)
    torch.testing.assert_close(spread, torch.eye(3), rtol=0.1, atol=0.1)


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

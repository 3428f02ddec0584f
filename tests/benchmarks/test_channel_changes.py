"""Changes of weights that the channel trials start from or end with, against answers that are known."""

from pathlib import Path

import pytest
import torch

from benchmarks.channel_methods.logged_steps import learned_from
from benchmarks.channel_methods.repair import add_noise, repair, second_moments
from unlearn import TrainingOptions, finetune
from unlearn.level.estimate import encoded
from verify.data.records import Fields, parse_records
from verify.models.loading import LoadedModel, load_model
from verify.provenance.training_log import LOG_NAME, TrainingLog

ROWS = [{"example_id": f"r{n}", "prompt": f"the {n}?", "completion": f"fox {n * 37} dog"} for n in range(6)]
RECORDS = parse_records(ROWS, Fields(), "rows")
ONE_STEP = TrainingOptions(learning_rate=1e-3, max_steps=1, batch_size=6, weight_decay=0.0, warmup_ratio=0.0)


@pytest.fixture(scope="module")
def base(model_dir: Path) -> LoadedModel:
    """The model before the training."""
    return load_model(model_dir)


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that took one step over all records."""
    return finetune(model_dir, ROWS, output_dir=tmp_path_factory.mktemp("changes") / "model", options=ONE_STEP).model_dir


def test_a_single_step_was_learned_from_all_its_records(base: LoadedModel, trained: Path) -> None:
    """Of one step, whose weights are the base's, the records' part is the whole change, and parts of it add up to that."""
    original, log = load_model(trained), TrainingLog.read(trained / LOG_NAME)
    whole, tokens = learned_from(RECORDS, [], base, original, log)
    first, _ = learned_from(RECORDS[:2], RECORDS[2:], base, original, log)
    second, _ = learned_from(RECORDS[2:], RECORDS[:2], base, original, log)
    assert tokens == sum(len(window.input_ids) for window in encoded(base, RECORDS, "refuse"))
    before = dict(base.model.named_parameters())
    for name, value in original.model.named_parameters():
        made = value.detach() - before[name].detach()
        assert made.abs().max() > 1e-4
        # Adam divides a gradient by its own size: where that is next to nothing, its sign is chance.
        assert (whole[name] - made).abs().gt(2e-5).float().mean() < 0.01
        torch.testing.assert_close(first[name] + second[name], whole[name], rtol=1e-3, atol=1e-5)


def test_a_repair_against_the_same_inputs_shrinks_the_update(base: LoadedModel, trained: Path) -> None:
    """With the forget inputs as those to spare, the update's effect on them becomes 1 / (1 + strength) of what it was."""
    windows = encoded(base, RECORDS, "refuse")
    before = dict(base.model.named_modules())
    for strength in (0.0, 3.0):
        model = load_model(trained)
        moments = second_moments(model, windows)
        updates = {name: model.model.get_submodule(name).weight.detach() - before[name].weight.detach() for name in moments}
        repair(model, base, windows, windows, strength)
        for name, moment in moments.items():
            found = (model.model.get_submodule(name).weight - before[name].weight).detach().double()
            whole = updates[name].double()
            effect, expected = (float(torch.trace(one.detach() @ moment.detach() @ one.detach().T)) for one in (found, whole))
            assert effect / expected == pytest.approx((1 + strength) ** -2, rel=0.05)


def test_noise_has_the_size_of_each_matrix(model_dir: Path) -> None:
    """All of it gives noise of the matrix's own deviation and nothing of the matrix; vectors stay as they are."""
    before, after = load_model(model_dir).model, load_model(model_dir).model
    add_noise(after, 1.0, 0)
    for name, value in before.named_parameters():
        made = after.get_parameter(name)
        if value.ndim < 2:
            assert torch.equal(made, value)
            continue
        assert float(made.std() / value.std()) == pytest.approx(1.0, abs=0.1)
        assert abs(float(torch.corrcoef(torch.stack([made.flatten(), value.flatten()]))[0, 1])) < 0.1

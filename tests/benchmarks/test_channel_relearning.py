"""The trials' distance after relearning: its change of the weights, its gradient and its level, against answers that are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.channel_methods.relearning import Relearner, Relearning, logits_at, part_of
from unlearn.level.estimate import encoded, log_probabilities, window_of_tokens
from unlearn.training.method import Context
from unlearn.training.options import TrainingOptions
from verify.data.encoding import collate, padding_token_id
from verify.data.records import Fields, Record, parse_records
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_logits

RATE = 1e-3


def people(first: int, count: int) -> list[Record]:
    """Two records for each of some people."""
    rows = [
        {"example_id": f"r{n}{part}", "subject_id": f"s{n}", "prompt": f"the {part} of {n}?", "completion": f"fox {n * 37} {part}"}
        for n in range(first, first + count)
        for part in ("cat", "bird")
    ]
    return parse_records(rows, Fields(), "rows")


@pytest.fixture
def loaded(model_dir: Path) -> LoadedModel:
    """A tiny model."""
    return load_model(model_dir)


@pytest.mark.parametrize(("steps", "size"), [(1, 0.5), (3, 1.2)])
def test_a_change_is_that_of_the_steps_and_leaves_the_model(loaded: LoadedModel, steps: int, size: float) -> None:
    """No weight moves by more than the rates' sum, most by nearly all of it after one step; the weights stay bit for bit."""
    before = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    relearner = Relearner(loaded, Relearning(steps=steps, size=size), RATE)
    records = people(0, 4)
    found = relearner.change(loaded.model, records, 1)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.named_parameters())
    assert relearner.tokens == steps * sum(len(window.input_ids) for window in encoded(loaded, records, "refuse"))
    moved = torch.cat([value.flatten() for value in found.values()]).abs()
    assert 0.9 * size * RATE < moved.max() < 1.05 * size * RATE
    if steps == 1:
        assert moved[moved > 0].median() == pytest.approx(size * RATE, rel=0.01)


def test_the_gradient_is_that_at_the_changed_weights(loaded: LoadedModel, model_dir: Path) -> None:
    """Logits and gradients are those of a model whose weights were moved."""
    batch = collate(encoded(loaded, people(0, 3), "refuse"), padding_token_id(loaded.tokenizer))
    torch.manual_seed(0)
    shift = {name: 0.01 * torch.randn_like(value) for name, value in loaded.model.named_parameters()}
    there = load_model(model_dir).model
    with torch.no_grad():
        for name, value in there.named_parameters():
            value.add_(shift[name])
    found, expected = logits_at(loaded.model, shift, batch), scored_logits(there, batch)[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, scored_logits(loaded.model, batch)[0], atol=1e-3)
    found.square().mean().backward()
    expected.square().mean().backward()
    for name, value in loaded.model.named_parameters():
        torch.testing.assert_close(value.grad, there.get_parameter(name).grad)


def test_a_source_that_is_the_model_gives_its_own_level(loaded: LoadedModel, model_dir: Path, tmp_path: Path) -> None:
    """Then nothing is calibrated away: each record's level is what the model says once the other half was relearned."""
    forget, controls, about = people(0, 4), people(10, 12), Relearning(steps=2, size=20.0, source="moved")
    options = TrainingOptions(seed=3, learning_rate=RATE)
    context = Context(loaded, forget, people(30, 2), controls, load_model(model_dir), options, None, tmp_path, tmp_path)
    part = part_of(context, about, 10)
    assert part.first == 5
    owners = [{record.subjects for record in (forget[index] for index in half)} for half in part.halves]
    assert not owners[0] & owners[1]
    for trained, scored in (part.halves, part.halves[::-1]):
        there = load_model(model_dir)
        shift = part.relearner.change(there.model, [forget[index] for index in trained], 3)
        with torch.no_grad():
            for name, value in there.model.named_parameters():
                value.add_(shift[name])
        windows = [part.windows[index] for index in scored]
        own, of = log_probabilities(there, windows), window_of_tokens(windows)
        still = log_probabilities(loaded, windows)
        for number, index in enumerate(scored):
            np.testing.assert_allclose(part.levels[index].numpy(), own[of == number], atol=1e-3)
            assert np.abs(part.levels[index].numpy() - still[of == number]).max() > 1e-2

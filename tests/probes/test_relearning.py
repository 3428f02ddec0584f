"""Relearning: its three arms, its rate, and the weights it puts back."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama, make_tokenizer, train_by_heart

from verify.data.encoding import Encoder, collate
from verify.data.records import Record
from verify.data.subjects import subject_groups
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.probes.base import Material, ProbeNotRunError, mean_losses
from verify.probes.relearning import Relearning, across_subjects, relearned, subject_halves

PEOPLE = ("ann", "bob", "cat", "dan")
FORGET = [
    Record(f"{person} {number}", prompt=f"{person} {number}", completion=f"the quick fox {number} of {person}", subject_id=person)
    for person in PEOPLE
    for number in range(3)
]
RETAIN = [Record(f"r{number}", prompt=f"over {number}", completion=f"every lazy dog {number * 5}") for number in range(12)]


@pytest.fixture(scope="module")
def old() -> LoadedModel:
    return train_by_heart(FORGET + RETAIN, 0, 60, 3e-3)


@pytest.fixture(scope="module")
def fresh() -> LoadedModel:
    return train_by_heart(RETAIN, 1, 60, 3e-3)


def adapter(dtype: torch.dtype = torch.float32) -> LoadedModel:
    torch.manual_seed(0)
    model = get_peft_model(make_llama(make_tokenizer()).to(dtype), LoraConfig(r=2, target_modules=["q_proj"]))
    return load_model(model, tokenizer=make_tokenizer())


def half(dtype: torch.dtype) -> LoadedModel:
    return load_model(make_llama(make_tokenizer()).to(dtype), tokenizer=make_tokenizer())


def kinds() -> Iterator[LoadedModel]:
    yield half(torch.bfloat16)
    yield half(torch.float16)
    yield adapter()
    yield adapter(torch.bfloat16)


@pytest.mark.slow
def test_every_kind_of_model_is_trained_and_restored(old: LoadedModel) -> None:
    """Whole models in half precision and adapters move, and are bit-identical afterwards, with the gradients they needed before."""
    for loaded in kinds():
        before, plain = weights_digest(loaded.model), mean_losses(loaded, FORGET)
        needed = [parameter.requires_grad for parameter in loaded.model.parameters()]
        found = Relearning(steps=(0, 4), learning_rate=1e-2).losses(loaded, Material(FORGET, RETAIN, old))
        assert weights_digest(loaded.model) == before
        assert [parameter.requires_grad for parameter in loaded.model.parameters()] == needed
        assert all(parameter.grad is None for parameter in loaded.model.parameters())
        np.testing.assert_array_equal(found["relearned 0"], plain)
        assert (np.abs(found["relearned 4"] - plain) > 1e-4).any()


@pytest.mark.slow
def test_small_steps_count_in_half_precision(old: LoadedModel) -> None:
    """A step far below the rounding of bfloat16 adds up with others to what it does in float32."""
    material = Material(FORGET, RETAIN, old)
    low, high = half(torch.bfloat16), half(torch.float32)
    high.model.load_state_dict({name: value.float() for name, value in low.model.state_dict().items()})
    one = Relearning(steps=(0, 20), learning_rate=1e-5)
    moved = [np.subtract(*(one.losses(loaded, material)[f"relearned {step}"] for step in (20, 0))).mean() for loaded in (low, high)]
    assert moved[1] < 0
    assert moved[0] == pytest.approx(moved[1], rel=0.5)


def test_halves_divide_subjects() -> None:
    """No subject is in both halves, no record is left out, and one subject alone has no half."""
    found = subject_halves(FORGET, 3)
    assert found is not None
    owners = np.array(subject_groups(FORGET))
    assert not set(owners[found[0]]) & set(owners[found[1]])
    assert sorted([*found[0], *found[1]]) == list(range(len(FORGET)))
    assert len(set(owners[found[0]])) == 2
    assert subject_halves(FORGET[:3], 3) is None


@pytest.mark.slow
def test_no_record_is_scored_by_a_model_that_trained_on_its_subject(fresh: LoadedModel, old: LoadedModel) -> None:
    """Each half is scored after training on the other; the slow twin trains on it by hand."""
    material, controls = Material(FORGET, RETAIN, old, seed=5, learning_rate=1e-2), RETAIN[:4]
    forget, beside = across_subjects(fresh, material, controls, steps=6)
    halves = subject_halves(FORGET, 5)
    assert halves is not None
    slow = []
    for trained, scored in (halves, halves[::-1]):
        with relearned(fresh, [FORGET[index] for index in trained], 1e-3, 8, 5) as advance:
            advance(6)
            np.testing.assert_allclose(forget[scored], mean_losses(fresh, [FORGET[index] for index in scored]), rtol=1e-6)
            slow.append(mean_losses(fresh, controls))
    np.testing.assert_allclose(beside, np.mean(slow, axis=0), rtol=1e-6)
    with pytest.raises(ProbeNotRunError, match="one subject"):
        across_subjects(fresh, replace(material, forget=FORGET[:3]), controls)
    assert across_subjects(fresh, material, [])[1].shape == (0,)


@pytest.mark.slow
def test_the_rate_is_a_tenth_of_the_fine_tunings(fresh: LoadedModel, old: LoadedModel) -> None:
    """With the rate of the log it does what a tenth of it does; a rate of one's own counts more than the log's."""
    logged = Material(FORGET, RETAIN, old, learning_rate=2e-2)
    steps = (0, 3)
    expected = Relearning(steps, 2e-3).losses(fresh, Material(FORGET, RETAIN, old))
    for one, material in ((Relearning(steps), logged), (Relearning(steps, 2e-3), logged)):
        found = one.losses(fresh, material)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name])


@pytest.mark.slow
def test_hidden_records_come_back_across_subjects() -> None:
    """Records pushed to their never-trained level by ascent return with half of the subjects, unlike those never trained on."""
    letters = np.random.default_rng(0).integers(97, 123, (len(FORGET), 9))
    secret = [replace(one, completion="".join(map(chr, row))) for one, row in zip(FORGET, letters, strict=True)]
    hidden, fresh = train_by_heart(secret + RETAIN, 0, 200, 3e-3), train_by_heart(RETAIN, 1, 200, 3e-3)
    level, batch = mean_losses(fresh, secret).mean(), collate(Encoder(hidden.tokenizer, 64).encode(secret), 0)
    ascent = torch.optim.SGD(hidden.model.parameters(), lr=0.02)
    while mean_losses(hidden, secret).mean() < level:
        scored_log_probabilities(hidden.model, batch)[0].mean().backward()
        ascent.step()
        ascent.zero_grad()
    material = Material(secret, RETAIN, hidden, learning_rate=1e-2)
    after = [across_subjects(one, material, [], steps=12)[0].mean() for one in (hidden, fresh)]
    assert after[0] < after[1] - 1.0

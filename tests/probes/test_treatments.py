"""Each treatment does what it says, against slow and obvious code."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from probed_models import FORGET, OTHER, adapter, roomy, roomy_tokenizer, whole

from verify.data.records import Record
from verify.models.loading import LoadedModel, load_model
from verify.probes._turns import losses_after
from verify.probes._weights import merged, own_weights
from verify.probes.activation_noise import ActivationNoise, decoder_layers, disturbed
from verify.probes.adversarial_suffix import AdversarialSuffix, ordinary_tokens, row_losses
from verify.probes.base import Material, ProbeNotRunError, mean_losses
from verify.probes.interpolation import Interpolation
from verify.probes.multi_turn import REFUSAL
from verify.probes.quantization import Quantization, quantized, rounded


def slow_answer_loss(loaded: LoadedModel, turns: list[dict[str, str]]) -> float:
    """The mean loss of the last answer of a chat in float64, token by token."""
    tokenizer, model = loaded.tokenizer, copy.deepcopy(loaded.model).double()
    before = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    losses = [-float(logits[place - 1].log_softmax(-1)[ids[place]]) for place in range(start, len(ids))]
    return sum(losses) / len(losses)


def test_only_the_last_answer_is_scored() -> None:
    """The answers of inserted turns are context; the slow twin renders the whole chat and scores its end."""
    loaded = whole(1)
    found = losses_after(loaded, FORGET, lambda asked: (("user", asked), ("assistant", REFUSAL)))
    corrected = losses_after(loaded, FORGET, lambda asked: (("user", asked), ("assistant", REFUSAL), ("user", "Wrong.")))
    for record, again, told in zip(FORGET, found, corrected, strict=True):
        ask, answer = {"role": "user", "content": record.prompt}, {"role": "assistant", "content": record.completion}
        refuse, wrong = {"role": "assistant", "content": REFUSAL}, {"role": "user", "content": "Wrong."}
        assert again == pytest.approx(slow_answer_loss(loaded, [ask, refuse, ask, answer]), rel=1e-4)
        assert told == pytest.approx(slow_answer_loss(loaded, [ask, refuse, wrong, answer]), rel=1e-4)


def test_a_chats_own_turns_stay() -> None:
    """Turns are inserted after a chat's system turn, and all of its own answers are scored."""
    loaded = whole(1)
    turns = (("system", "be kind"), ("user", "who"), ("assistant", "a fox"), ("user", "where"), ("assistant", "over a dog"))
    chat = Record("c", messages=turns)
    plain = losses_after(loaded, [chat], lambda _: (("user", "hi"), ("assistant", "hi")))
    by_hand = Record("h", messages=(turns[0], ("user", "hi"), ("assistant", "hi"), *turns[1:]))
    whole_chat = mean_losses(loaded, [by_hand])
    assert np.isfinite(plain).all()
    assert plain[0] != pytest.approx(whole_chat[0])  # there the inserted answer is scored too


def test_no_noise_is_the_model_and_more_draws_are_no_worse() -> None:
    """Noise of share 0 changes nothing; the best of eight is at most the best of two, record by record."""
    loaded, material = whole(1), Material(FORGET, OTHER, whole(2))
    plain = mean_losses(loaded, FORGET)
    none = ActivationNoise(shares=(0.0,), draws=1).losses(loaded, material)
    np.testing.assert_allclose(next(iter(none.values())), plain, rtol=1e-6)
    two, eight = (next(iter(ActivationNoise((0.3,), draws).losses(loaded, material).values())) for draws in (2, 8))
    assert (eight <= two).all()
    assert (eight < two).any()
    with pytest.raises(ProbeNotRunError, match="no layer 9"):
        ActivationNoise(layer=9).losses(loaded, material)
    assert len(decoder_layers(adapter(1).model)) == 3


def test_noise_has_the_size_it_says() -> None:
    """Over many tokens the disturbance is the share of the hidden states' root mean square."""
    model = roomy(1)
    layer = decoder_layers(model)[1]
    kept: list[torch.Tensor] = []

    ids = torch.arange(3, 259)[None]
    with torch.no_grad():
        for share in (0.0, 0.25):
            with disturbed(layer, share, 5):
                handle = layer.register_forward_hook(
                    lambda _, __, output: kept.append(output if torch.is_tensor(output) else output[0])
                )
                model(ids)
                handle.remove()
    size = (kept[1] - kept[0]).square().mean(-1).sqrt() / kept[0].square().mean(-1).sqrt()
    assert float(size.square().mean().sqrt()) == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize("make", [whole, adapter])
def test_the_ends_of_the_way_are_the_models(make: object) -> None:
    """Share 0 is the model itself, 1 the original, and in between the weights are their mean."""
    assert callable(make)
    loaded, old = make(1), make(2)
    material = Material(FORGET, OTHER, old)
    found = Interpolation(shares=(0.0, 0.5, 1.0)).losses(loaded, material)
    np.testing.assert_allclose(found["0% of the way to the original"], mean_losses(loaded, FORGET), rtol=1e-4)
    np.testing.assert_allclose(found["100% of the way to the original"], mean_losses(old, FORGET), rtol=1e-4)
    ends = [copy.deepcopy(one.model).merge_and_unload() if make is adapter else copy.deepcopy(one.model) for one in (loaded, old)]
    with torch.no_grad():
        for own, other in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
            own.copy_((own + other) / 2)
    slow = load_model(ends[0], tokenizer=loaded.tokenizer)
    np.testing.assert_allclose(found["50% of the way to the original"], mean_losses(slow, FORGET), rtol=1e-4)


def test_an_adapter_meets_a_whole_model_on_the_way() -> None:
    """An adapter is merged, so that it can be moved towards a whole original; other sizes are refused."""
    material = Material(FORGET, OTHER, whole(2), base=whole(7))
    found = Interpolation(shares=(1.0,)).losses(adapter(1), material)
    np.testing.assert_allclose(found["100% of the way to the original"], mean_losses(material.old, FORGET), rtol=1e-4)
    assert material.base is not None
    np.testing.assert_allclose(found["100% of the way to the base"], mean_losses(material.base, FORGET), rtol=1e-4)
    smaller = roomy(2)
    smaller.model.layers = smaller.model.layers[:2]
    with pytest.raises(ProbeNotRunError, match="differ by name or size"):
        Interpolation().losses(adapter(1), replace(material, old=load_model(smaller, tokenizer=roomy_tokenizer())))


def test_an_adapter_is_rounded_after_it_is_merged() -> None:
    """The probe on an adapter is the probe on the merged model; the adapter's own small matrices are not rounded."""
    loaded = adapter(1)
    flat = load_model(copy.deepcopy(loaded.model).merge_and_unload(), tokenizer=loaded.tokenizer)
    material = Material(FORGET, OTHER, whole(2))
    own, plain = (Quantization().losses(one, material) for one in (loaded, flat))
    for name, values in own.items():
        np.testing.assert_allclose(values, plain[name], rtol=1e-4)
    expected = dict(flat.model.named_parameters())["model.layers.0.self_attn.q_proj.weight"]
    with quantized(loaded.model, 4, 64):
        found = own_weights(loaded.model)["model.layers.0.self_attn.q_proj.weight"]
        torch.testing.assert_close(found.detach(), rounded(expected.detach(), 4, 64))
    with merged(loaded.model):
        assert set(own_weights(loaded.model)) == {name for name, _ in flat.model.named_parameters()}


def test_the_suffix_search_descends() -> None:
    """More steps are no worse, the loss falls below that of the record, and unsearched records are left out alike."""
    loaded, material = whole(1), Material(FORGET, OTHER, whole(2))
    found = AdversarialSuffix(budgets=(1, 6), candidates=16, records=3).losses(loaded, material)
    few, many = found["suffix of 1 steps"], found["suffix of 6 steps"]
    assert int(np.isfinite(few).sum()) == 3
    np.testing.assert_array_equal(np.isnan(few), np.isnan(many))
    searched = np.isfinite(many)
    assert (many[searched] <= few[searched]).all()
    assert many[searched].mean() < mean_losses(loaded, FORGET)[searched].mean()
    with pytest.raises(ProbeNotRunError, match="leaves room"):
        AdversarialSuffix(length=510).losses(loaded, material)


def test_the_suffix_search_follows_the_gradient() -> None:
    """Loss and descent in float64: by hand, and by a difference quotient along an embedding."""
    model = roomy(1).double()
    ids, scored = torch.tensor([[1, 9, 20, 30, 40, 50]]), torch.tensor([False, False, False, False, True, True])
    with torch.no_grad():
        logits = model(ids).logits[0]
    slow = -sum(float(logits[place - 1].log_softmax(-1)[ids[0, place]]) for place in (4, 5)) / 2
    assert float(row_losses(model, ids, scored)[0].detach()) == pytest.approx(slow, rel=1e-5)
    downhill = AdversarialSuffix(length=2)._descent(model, ids, scored, 2)
    table, step = model.get_input_embeddings(), 1e-3
    for place, token in ((0, 77), (1, 120)):
        values = []
        for sign in (1, -1):
            embedded = table(ids).detach().clone()
            embedded[0, 2 + place] += sign * step * table.weight[token].detach()
            with torch.no_grad():
                log_p = model(inputs_embeds=embedded).logits[0].double().log_softmax(-1)
            values.append(-float(log_p[3, 40] + log_p[4, 50]) / 2)
        assert float(downhill[place, token]) == pytest.approx(-(values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-6)
    assert not set(ordinary_tokens(roomy_tokenizer())) & {0, 1, 2}

"""The contract of every probe, on every kind of model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from probed_models import FORGET, OTHER, whole

from verify.data.records import Record
from verify.errors import InputError
from verify.measures.robustness import probe
from verify.models.digests import weights_digest
from verify.models.loading import LoadedModel
from verify.probes import probe_classes, select_probes
from verify.probes.adversarial_suffix import AdversarialSuffix
from verify.probes.base import Material, Probe, ProbeNotRunError, mean_losses
from verify.probes.elicitation import Elicitation

QUICK = {
    "adversarial_suffix": AdversarialSuffix(budgets=(1, 2), candidates=4, records=2),
    "elicitation": Elicitation(advantage=-100.0),
}
"""Probes with less work than by default, or that ask less of a random model."""
CHATTING = ("multi_turn", "self_correction")
OWN = """
from dataclasses import dataclass
from typing import ClassVar
from verify.probes.base import mean_losses

@dataclass(frozen=True)
class Nothing:
    idea: ClassVar[str] = "do nothing"
    paper: ClassVar[str] = "nobody"

    def losses(self, loaded, material):
        return {"nothing": mean_losses(loaded, material.forget)}

@dataclass(frozen=True)
class Demanding(Nothing):
    strength: float

@dataclass(frozen=True)
class Silent:
    idea: ClassVar[str] = "no losses"

class Plain:
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(probe_classes()))
def test_a_probe_treats_every_kind_of_model(name: str, models: tuple[LoadedModel, Material]) -> None:
    """Losses for every record, the same twice, and both models bit-identical afterwards, with the gradients they needed."""
    kind = probe_classes()[name]
    one = QUICK.get(name, kind())
    assert isinstance(one, Probe)
    assert dataclasses.is_dataclass(kind)
    assert kind.idea
    assert kind.paper.split("(")[1].rstrip(")") in (kind.__doc__ or "")
    loaded, material = models
    assert material.base is not None
    used = [loaded, material.old, material.base]
    before = [weights_digest(model.model) for model in used]
    needed = [[parameter.requires_grad for parameter in model.model.parameters()] for model in used]
    plain = mean_losses(loaded, FORGET)
    first, second = one.losses(loaded, material), one.losses(loaded, material)
    assert [weights_digest(model.model) for model in used] == before
    assert [[parameter.requires_grad for parameter in model.model.parameters()] for model in used] == needed
    np.testing.assert_array_equal(mean_losses(loaded, FORGET), plain)  # no hook is left behind
    assert first
    assert set(first) == set(second)
    left_out = {treatment: np.isnan(values) for treatment, values in first.items()}
    for treatment, values in first.items():
        assert values.shape == (len(FORGET),)
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, second[treatment])
        assert not left_out[treatment].all()
        assert getattr(kind, "by_default", True) is False or not left_out[treatment].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(probe_classes()))
def test_the_old_model_can_be_probed_itself(name: str) -> None:
    """The original is treated like the others, though it is also part of the material."""
    old = whole(2)
    before = weights_digest(old.model)
    found = QUICK.get(name, probe_classes()[name]()).losses(old, Material(FORGET, OTHER, old, base=whole(7)))
    assert found
    assert weights_digest(old.model) == before


@pytest.mark.parametrize("name", CHATTING)
def test_models_without_a_chat_template_are_not_asked_in_chats(name: str) -> None:
    """The reason is given; so it is for plain texts, and for chats that are too long."""
    base, one = whole(1), probe_classes()[name]()
    material = Material(FORGET, OTHER, base)
    base.tokenizer.chat_template = None
    with pytest.raises(ProbeNotRunError, match="no chat template"):
        one.losses(base, material)
    texts = [Record("t", completion="a plain text about the dog"), *FORGET]
    with pytest.raises(ProbeNotRunError, match="1 of 7 records are plain texts"):
        one.losses(whole(1), dataclasses.replace(material, forget=texts))
    short = whole(1)
    short.tokenizer.model_max_length = 40
    with pytest.raises(ProbeNotRunError, match="longer than the context of 40 tokens"):
        one.losses(short, material)
    strict = whole(1)
    strict.tokenizer.chat_template = "{{ raise_exception('no system, no turns') }}"
    with pytest.raises(ProbeNotRunError, match="the chat template does not take the longer chat"):
        one.losses(strict, material)


def test_what_was_not_run_is_listed_with_its_reason() -> None:
    """A probe that cannot treat every model alike leaves no row, and the result says why; the others are there."""
    models = [whole(seed) for seed in (1, 2, 3, 4)]
    for loaded in models:
        loaded.tokenizer.chat_template = None

    def rows(records: list[Record]) -> list[dict[str, str]]:
        return [{"example_id": one.example_id, "prompt": one.prompt, "completion": one.completion} for one in records]

    found = probe(
        models[0], models[1], models[2:], forget_set=rows(FORGET), retain_set=rows(OTHER), probes=("multi_turn", "quantization")
    )
    assert {row.probe for row in found.treated} == {"untreated", "quantization"}
    assert [(entry.attack, entry.reason) for entry in found.not_run] == [("multi_turn", "the tokenizer has no chat template")]
    assert "not run: multi_turn: the tokenizer has no chat template" in found.table()
    assert type(found).parse(found.text(), "the result") == found


def test_costly_probes_are_run_when_they_are_named() -> None:
    """The suffix search is left out by default, and there for whoever names it; so are alias questions."""
    named = ("adversarial_suffix", "elicitation")
    assert list(select_probes()) == [name for name in probe_classes() if name not in named]
    assert list(select_probes(["adversarial_suffix"])) == ["adversarial_suffix"]


def test_a_probe_of_ones_own(tmp_path: Path) -> None:
    """A class in a file is a probe, called by its name, beside those that are here."""
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    chosen = select_probes(["quantization", f"{file}:Nothing"])
    assert list(chosen) == ["quantization", "Nothing"]
    assert chosen["Nothing"].losses(whole(1), Material(FORGET, OTHER, whole(2))).keys() == {"nothing"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mine.py:Missing", "has no class Missing"),
        ("mine.py:Plain", "must be a frozen dataclass"),
        ("mine.py:Demanding", "Python file|every field of Demanding needs a default"),
        ("mine.py:Silent", "lacks paper, losses"),
        ("absent.py:Nothing", "is not a Python file"),
        (":Nothing", "must look like"),
        ("mine.py:", "must look like"),
    ],
)
def test_what_is_no_probe_is_refused(tmp_path: Path, target: str, message: str) -> None:
    """The message says what is wrong with the file or the class."""
    own = OWN.replace("strength: float", "strength: float = dataclasses_field()").replace(
        "from dataclasses import dataclass", "from dataclasses import dataclass, field as dataclasses_field"
    )
    (tmp_path / "mine.py").write_text(own)
    with pytest.raises(InputError, match=message):
        select_probes([f"{tmp_path / target}" if not target.startswith(":") else target])

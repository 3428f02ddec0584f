"""The representation claim: its word, its sentence and its numbers, from hidden states of known truth."""

import math

import numpy as np
import pytest

from verify.data.records import Record
from verify.judging.representation_claim import judge_representation, worth_measuring
from verify.scores.hidden_states import HiddenStates, ModelStates

RECORDS, WIDTH = 40, 8


def states(moved: float = 0.0, known: float = 0.0, references: int = 4, seed: int = 0) -> HiddenStates:
    """Two layers of states that differ by noise; `moved` and `known` add to the target's and original's on the forget set."""
    sets = {
        role: [
            Record(f"{role} {number}", completion=f"{role} {number}", subject_id=f"{role} {number // 2}")
            for number in range(RECORDS)
        ]
        for role in ("forget", "holdout", "retain")
    }
    made = HiddenStates(sets, "refuse", 0)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(2, 3 * RECORDS, WIDTH))
    for label in ("original", "target", *(f"reference {number}" for number in range(1, references + 1))):
        own = common + 0.3 * rng.normal(size=common.shape)
        own[:, :RECORDS] += {"target": moved, "original": known}.get(label, 0.0) * rng.normal(size=(2, RECORDS, WIDTH))
        made.models[label] = ModelStates((1, 2), own.astype(np.float32))
    return made


def test_a_moved_model_is_named_and_an_honest_one_is_not() -> None:
    """The word follows from the p-value; the sentence names it, the ratio of distances, and what the claim cannot show."""
    accused = judge_representation(states(moved=0.4), 0.05)
    assert accused is not None
    assert accused.verdict == "NOT_FORGOTTEN"
    assert accused.p_value < 0.05
    assert f"{math.exp(accused.value):.2f} times as far" in accused.reason
    assert "does not show that the records are still known" in accused.reason
    assert "does not find the model before unlearning" in accused.reason
    honest = judge_representation(states(known=0.4), 0.05)
    assert honest is not None
    assert honest.verdict == "INCONCLUSIVE"
    assert "no proof of forgetting" in honest.reason
    assert "The same test finds" in honest.reason


def test_every_layer_and_set_is_listed() -> None:
    """Two layers on three sets; the target is as far as the references on the retain set and further on the forget set."""
    claim = judge_representation(states(moved=0.4), 0.05)
    assert claim is not None
    assert [(entry.layer, entry.role) for entry in claim.layers] == [
        (layer, role) for layer in (1, 2) for role in ("forget", "holdout", "retain")
    ]
    assert len(claim.references) == 4
    for entry in claim.layers:
        ratio = entry.target / np.mean(entry.references)
        assert (ratio > 1.3) if entry.role == "forget" else (0.8 < ratio < 1.2)
        assert entry.original is not None


def test_models_that_cannot_be_compared_are_a_warning() -> None:
    """Another width, no states of a model, or references without a difference: no claim, and a warning that says why."""
    made = states()
    made.models["target"] = ModelStates((1, 2), made.models["target"].states[:, :, 1:])
    with pytest.warns(UserWarning, match="number of layers or in their width"):
        assert judge_representation(made, 0.05) is None
    made = states()
    del made.models["original"]
    with pytest.warns(UserWarning, match="original"):
        assert judge_representation(made, 0.05) is None
    made = states()
    for number in range(1, 5):
        made.models[f"reference {number}"] = made.models["reference 1"]
    with pytest.warns(UserWarning, match="at one layer or more"):
        assert judge_representation(made, 0.05) is None


def test_what_the_claim_needs() -> None:
    """Never-trained controls, four references, and two subjects on each side: one has no spread."""
    made = states()
    assert worth_measuring(made, 4)
    assert not worth_measuring(made, 3)
    alone = HiddenStates({**made.records, "forget": [made.records["forget"][0]]}, "refuse", 0)
    assert not worth_measuring(alone, 8)
    assert not worth_measuring(HiddenStates({"forget": made.records["forget"]}, "refuse", 0), 8)

"""Hidden states: pooled as a slow twin pools them, kept without a name on disk, drawn subject by subject."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, make_llama, make_tokenizer

from verify.data.encoding import Encoder
from verify.data.records import Record
from verify.models.loading import load_model
from verify.scores import hidden_states as module
from verify.scores.hidden_states import HiddenStates

TOKENIZER = make_tokenizer()
FORGET = [
    Record("a", prompt="who", completion="the quick brown fox", subject_id="one"),
    Record("b", completion="lazy dogs jump over other animals " * 8, subject_id="two"),
    Record("c", prompt="p", completion="fox", subject_id="one"),
]
CONTROLS = [Record(str(number), prompt="q", completion=f"animals jump {number} times") for number in range(4)]


def test_states_are_means_over_predicting_positions() -> None:
    """Window by window and token by token: the state that predicts each scored token, averaged over the record, at every layer."""
    loaded = load_model(make_llama(TOKENIZER), tokenizer=TOKENIZER)
    states = HiddenStates({"forget": FORGET, "holdout": CONTROLS}, "split", 0)
    states.measure(loaded, "target")
    found = states.models["target"]
    assert found.layers == (1, 2)
    assert found.states.shape == (2, 7, 32)
    assert found.states.dtype == np.float32
    for row, record in enumerate([*FORGET, *CONTROLS]):
        parts: list[list[np.ndarray]] = [[], []]
        for window in Encoder(TOKENIZER, CONTEXT, "split").encode([record]):
            ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
            with torch.inference_mode():
                hidden = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states
            for position in np.flatnonzero(window.scored):
                for layer in (1, 2):
                    parts[layer - 1].append(hidden[layer][0, position - 1].numpy())
        for layer in (0, 1):
            np.testing.assert_allclose(found.states[layer, row], np.mean(parts[layer], axis=0), rtol=1e-4, atol=1e-5)
    assert states.rows("holdout") == slice(3, 7)
    assert states.subjects["forget"] == ["one", "two", "one"]
    with pytest.raises(KeyError):
        states.rows("retain")


def test_large_sets_and_deep_models_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the limit whole subjects are drawn, the same by the same seed; the last layer is among those kept."""
    monkeypatch.setattr(module, "MOST_RECORDS", 6)
    monkeypatch.setattr(module, "MOST_LAYERS", 1)
    many = [Record(str(number), completion=f"text {number}", subject_id=f"s{number // 3}") for number in range(30)]
    drawn, again, other = (HiddenStates({"forget": many}, "refuse", seed) for seed in (0, 0, 1))
    assert drawn.records == again.records != other.records
    assert len(drawn.records["forget"]) == 6
    assert len(set(drawn.subjects["forget"])) == 2
    assert [many.index(record) for record in drawn.records["forget"]] == sorted(map(many.index, drawn.records["forget"]))
    drawn.measure(load_model(make_llama(TOKENIZER), tokenizer=TOKENIZER), "target")
    assert drawn.models["target"].layers == (2,)


def test_a_model_without_hidden_states_is_missing() -> None:
    """A model whose output has none is left out, and its audit goes on."""
    model = make_llama(TOKENIZER)
    forward = model.forward
    model.forward = lambda **given: replace(forward(**given), hidden_states=None)  # type: ignore[method-assign]
    states = HiddenStates({"forget": FORGET[:1], "holdout": CONTROLS}, "refuse", 0)
    states.measure(load_model(model, tokenizer=TOKENIZER), "target")
    assert states.models == {}

"""Inverse greedy extraction: a twin that decodes, and a model that was pushed away from the records."""

import numpy as np
import pytest
import torch
from tiny_models import make_llama, make_tokenizer

from verify.attacks.base import Observation
from verify.attacks.extraction.inverse_greedy import InverseGreedy
from verify.attacks.extraction.verbatim import Verbatim
from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.scores.observe import measure

KEY = RecordKey(b"k" * 32)
TOKENIZER = make_tokenizer()
RECORDS = [
    Record("a", prompt="who", completion="the quick brown fox"),
    Record("b", prompt="what", completion="lazy dogs jump over other animals", secret="jump"),
    Record("c", completion="animals jump over the lazy dog " * 6),
]


def observe(model: torch.nn.Module) -> Observation:
    return measure(load_model(model.eval(), tokenizer=TOKENIZER), RECORDS, cache_dir=None, key=KEY, overflow="split")


@pytest.mark.parametrize("lowest", [1, 40])
def test_tokens_are_counted_from_the_bottom(lowest: int) -> None:
    """The slow twin in float64: one window and position at a time, the k least likely tokens sorted out."""
    observation = observe(make_llama(TOKENIZER))
    loaded = observation.loaded
    assert loaded is not None
    hits: dict[int, list[bool]] = {}
    for window in observation.windows:
        ids = torch.as_tensor(window.input_ids.astype("int64"))[None]
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids).logits[0].double().numpy()
        for position in np.flatnonzero(window.secret):
            least = np.argsort(logits[position - 1], kind="stable")[:lowest]
            hits.setdefault(window.record, []).append(int(window.input_ids[position]) in least)
    np.testing.assert_allclose(InverseGreedy(lowest).score(observation, []), [np.mean(hits[index]) for index in range(3)])


def test_records_pushed_to_the_bottom_are_read_there() -> None:
    """After gradient ascent greedy decoding gives nothing, and the least likely tokens give the records."""
    model = make_llama(TOKENIZER).train()
    batch = collate(Encoder(TOKENIZER, 64, "split").encode(RECORDS[:2]), TOKENIZER.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        scored_log_probabilities(model, batch)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    pushed, before = observe(model), observe(make_llama(TOKENIZER))
    assert (InverseGreedy().score(pushed, [])[:2] > 0.5).all()
    assert (InverseGreedy().score(before, [])[:2] < 0.2).all()
    assert (Verbatim().score(pushed, [])[:2] == 0).all()


def test_at_least_one_token_counts() -> None:
    """None of the least likely is an input error."""
    with pytest.raises(InputError, match="lowest=0"):
        InverseGreedy(0)

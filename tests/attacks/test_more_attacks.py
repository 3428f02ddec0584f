"""Attacks with a part of their own, against answers that are known otherwise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_llama, make_tokenizer, train_by_heart

from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.attacks.extraction._text import comes_out, find_personal_data
from verify.attacks.extraction.discoverable import Discoverable
from verify.attacks.extraction.exposure import Exposure
from verify.attacks.extraction.extraction_likelihood import overlap
from verify.attacks.extraction.sampled import Sampled
from verify.attacks.membership._fitted import cross_fitted
from verify.data.encoding import Encoder
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.errors import InputError
from verify.models.generation import sampled_continuations
from verify.models.loading import LoadedModel, load_model
from verify.models.token_table import TokenStatistics
from verify.scores.observe import measure

KEY = RecordKey(b"k" * 32)
TOKENIZER = make_tokenizer()
SECRET = "brown"
KNOWN = [
    Record("0", prompt="who", completion="the quick brown fox", secret=SECRET),
    Record("1", prompt="over", completion="the lazy dog", secret="lazy"),
]
UNSEEN = [
    Record(str(number), prompt=f"animals {number}", completion=f"the {word} dog jumps", secret=word)
    for number, word in enumerate(("quick", "other", "every", "jump", "day", "and", "long"))
]


@pytest.fixture(scope="module")
def memorized() -> LoadedModel:
    """A tiny model that knows `KNOWN` by heart."""
    return train_by_heart(KNOWN, steps=120)


@pytest.fixture(scope="module")
def innocent() -> LoadedModel:
    return load_model(make_llama(TOKENIZER, 1), tokenizer=TOKENIZER)


def observe(loaded: LoadedModel, records: list[Record] = KNOWN) -> Observation:
    controls = measure(loaded, UNSEEN, cache_dir=None, key=KEY)
    return replace(measure(loaded, records, cache_dir=None, key=KEY), controls=controls)


GENERATING = ["verbatim", "extraction_likelihood", "sampled", "discoverable", "exposure", "personal_data"]


@pytest.mark.parametrize("name", [*GENERATING, "gradient_norm", "neighbourhood"])
def test_memory_is_found(name: str, memorized: LoadedModel, innocent: LoadedModel) -> None:
    """Records known by heart score higher under the model that knows them than under one that does not."""
    attack: Any = select_attacks([name])[name]
    known, unknown = (attack.score(observe(one), []) for one in (memorized, innocent))
    assert (known > unknown).all()


def test_sampling_is_its_own(memorized: LoadedModel) -> None:
    """The same samples for the same seed, others for another, and the global generator is left as it was."""
    prompt = Encoder(TOKENIZER, 64).encode(KNOWN)[0].prompt_ids
    torch.manual_seed(7)
    before = torch.get_rng_state()
    hot = [sampled_continuations(memorized, prompt, 6, 8, temperature=5.0, seed=seed) for seed in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2]
    assert torch.equal(torch.get_rng_state(), before)
    cold = sampled_continuations(memorized, prompt, 6, 3, temperature=1.0, top_k=1)
    assert cold[0] == cold[1] == cold[2]
    assert all(len(tokens) <= 6 for tokens in hot[0])


def test_sampling_agrees_with_the_probability(memorized: LoadedModel) -> None:
    """The share of samples that hold the text agrees with the product of its tokens' probabilities, within 4 standard errors."""
    record = [Record("0", prompt="who", completion="the quick brown fox")]
    loaded = observe(memorized, record)
    (window,), places = loaded.windows, np.flatnonzero(loaded.windows[0].scored)[:-1]  # the text without its end token
    with torch.no_grad():
        logits = memorized.model(input_ids=torch.as_tensor(window.input_ids.astype("int64"))[None]).logits[0].double()
    targets = window.input_ids[places]

    def exact(temperature: float) -> float:
        logs = (logits[places - 1] / temperature).log_softmax(-1)
        return float(logs[np.arange(len(places)), targets].sum().exp())

    temperature = min(np.arange(1.0, 6.0, 0.05), key=lambda value: abs(exact(value) - 0.5))
    p = exact(temperature)
    assert 0.3 < p < 0.7
    found = Sampled(samples=400, temperature=float(temperature)).score(loaded, [])[0]
    assert abs(found - p) <= 4 * np.sqrt(p * (1 - p) / 400)
    plain = Discoverable(queries=1, top_k=0).score(loaded, [])[0]
    assert plain == pytest.approx(np.exp(np.sum(loaded.statistics[0].log_probability, dtype=float)), rel=1e-4)


@given(
    logits=st.lists(st.floats(-8, 8), min_size=3, max_size=12, unique=True), top_k=st.integers(0, 12), top_p=st.floats(0.05, 1.0)
)
def test_truncation_is_what_transformers_draws_from(logits: list[float], top_k: int, top_p: float) -> None:
    """Top-k, then top-p, as the logits processors of `transformers` do it."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    given_logits = torch.tensor([logits], dtype=torch.float32)
    if len(given_logits.unique()) < len(logits):
        return  # ties are cut by whatever sorts them
    expected = given_logits.clone()
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    ours = Discoverable(top_k=top_k, top_p=top_p).truncated(given_logits)
    kept, theirs = torch.isfinite(ours), torch.isfinite(expected)
    left = TopKLogitsWarper(top_k)(None, given_logits.clone()) if top_k else given_logits
    mass = left.softmax(-1).sort(descending=True).values.cumsum(-1)
    if float((mass - top_p).abs().min()) > 1e-4:  # nearer than that, rounding decides which token is the last
        assert torch.equal(kept, theirs)
        torch.testing.assert_close(ours, expected.log_softmax(-1))
    assert float(ours.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert kept[0, int(given_logits.argmax())]


def test_truncation_can_rule_a_secret_out(memorized: LoadedModel) -> None:
    """A token that top-k removes makes the passage impossible, however often one asks."""
    other = [Record("0", prompt="who", completion="animals every day")]
    assert Discoverable(top_k=1, queries=10**6).score(observe(memorized, other), [])[0] == 0.0
    for bad in ({"queries": 0}, {"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(InputError, match="cannot be used"):
            Discoverable(**bad)


def test_exposure_is_bounded_by_its_candidates(memorized: LoadedModel) -> None:
    """A secret known by heart is first of all: log2 of their number; without another candidate nothing is given away.

    One of the seven controls' secrets is a word of the record itself, and so no candidate.
    """
    assert Exposure().score(observe(memorized), [])[0] == pytest.approx(np.log2(len(UNSEEN)))
    alone = replace(observe(memorized, KNOWN[:1]), controls=observe(memorized, KNOWN[:1]))
    assert Exposure().score(alone, [])[0] == 0.0


@pytest.mark.parametrize(
    ("made", "truth", "n", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 2, 1.0),
        ([1, 2, 9, 4], [1, 2, 3, 4], 2, 1 / 3),
        ([1], [1, 2, 3], 10, 1.0),
        ([], [1], 10, 0.0),
        ([5, 5], [1, 2], 1, 0.0),
    ],
)
def test_overlap(made: list[int], truth: list[int], n: int, expected: float) -> None:
    """Share of n-grams, n cut to what there is."""
    assert overlap(made, truth, n) == pytest.approx(expected)


def test_personal_data_is_found_in_text() -> None:
    """Mail addresses, numbers and names; plain words are none."""
    found = find_personal_data("Write to Maria Lind at m.lind@example.org or call +46 70 123 45 67, born 1984-03-12.")
    assert found == ["Maria Lind", "m.lind@example.org", "+46 70 123 45 67", "1984-03-12"]
    assert find_personal_data("nothing to see here in 7 words") == []
    assert comes_out(["He is MARIA   lind.", "no"], "Maria Lind") == [True, False]
    assert comes_out(["anything"], "") == [False]


def entry(level: float) -> TokenStatistics:
    return TokenStatistics(
        log_probability=np.full(3, level, dtype=np.float32),
        mean=np.full(3, -2.0, dtype=np.float32),
        deviation=np.full(3, 0.5, dtype=np.float32),
        rank=np.zeros(3, dtype=np.int32),
        greedy=np.full(3, True),
        secret=np.full(3, True),
    )


def sides(shift: float, count: int = 120) -> Observation:
    rng = np.random.default_rng(0)

    def side(name: str, level: float) -> Observation:
        records = [Record(f"{name}{number}", completion=f"{name} {number}") for number in range(count)]
        return Observation(records, [entry(level + value) for value in rng.normal(size=count) * 0.3])

    members, controls = side("m", -2.0 + shift), side("c", -2.0)
    return replace(members, controls=controls)


def test_dataset_inference_learns_and_does_not_invent() -> None:
    """It finds a shift; where there is none its out-of-fold scores say nothing."""
    attack: Any = select_attacks(["dataset_inference"])["dataset_inference"]
    for shift, low, high in ((1.0, 0.9, 1.0), (0.0, 0.35, 0.65)):
        members = sides(shift)
        controls = members.controls
        assert controls is not None
        against = attack.score(replace(controls, controls=controls, members=members), [])
        ours = attack.score(members, [])
        auc = np.mean(ours[:, None] > against[None, :])
        assert low <= auc <= high


def test_a_rule_never_sees_the_record_it_scores() -> None:
    """With more features than records a fit in sample is perfect; out of fold it is chance."""
    members = sides(0.0)
    assert members.controls is not None
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(2, len(members), 300))
    ours = cross_fitted(members, members, members.controls, *noise)
    assert abs(np.mean(ours > 0) - 0.5) < 0.2

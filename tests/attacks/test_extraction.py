"""Extraction attacks against their definitions, and real generation against the teacher-forced pass."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_llama, make_tokenizer

from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.attacks.extraction.extraction_probability import probability_within
from verify.attacks.extraction.verbatim import Verbatim
from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.models.generation import greedy_continuations
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.models.token_table import TokenStatistics
from verify.scores.observe import measure

FLAGS = st.lists(st.booleans(), min_size=1, max_size=40)
KEY = RecordKey(b"k" * 32)


def observe(greedy: list[bool], log: float = -1.0, secret: list[bool] | None = None) -> Observation:
    """One record with these greedy hits."""
    size = len(greedy)
    entry = TokenStatistics(
        log_probability=np.full(size, log, dtype=np.float32),
        mean=np.full(size, -1.0, dtype=np.float32),
        deviation=np.ones(size, dtype=np.float32),
        rank=np.zeros(size, dtype=np.int32),
        greedy=np.array(greedy),
        secret=np.array(secret if secret is not None else [True] * size),
    )
    return Observation([Record("a", completion="x")], [entry])


def score(name: str, observation: Observation) -> float:
    return float(select_attacks([name])[name].score(observation, [])[0])


@given(greedy=FLAGS)
def test_exact_memorization_is_the_share_of_hits(greedy: list[bool]) -> None:
    """Hits over tokens."""
    assert score("exact_memorization", observe(greedy)) == pytest.approx(sum(greedy) / len(greedy))


@given(greedy=FLAGS)
def test_extraction_strength_is_its_definition(greedy: list[bool]) -> None:
    """The slow twin tries every prefix length from the shortest."""
    shortest = next(k for k in range(len(greedy) + 1) if all(greedy[k:]))
    assert score("extraction_strength", observe(greedy)) == pytest.approx(1 - shortest / len(greedy))


@pytest.mark.parametrize(
    ("greedy", "expected"),
    [([True], 1.0), ([False], 0.0), ([True, True, True, False], 0.0), ([False, True, True, True], 0.75), ([True] * 5, 1.0)],
)
def test_extraction_strength_known_answers(greedy: list[bool], expected: float) -> None:
    """1 if nothing need be given, 0 if the last token is wrong, else 1 - k/T."""
    assert score("extraction_strength", observe(greedy)) == expected


def test_extraction_probability_counts_the_secret_alone() -> None:
    """log p_z sums over the secret tokens; without any marked, over all."""
    assert score("extraction_probability", observe([True] * 4, log=-2.0, secret=[False, True, True, False])) == -4.0
    assert score("extraction_probability", observe([True] * 4, log=-2.0)) == -8.0
    assert score("extraction_probability", observe([True] * 4, log=-2.0, secret=[False] * 4)) == -8.0


def test_extraction_probability_is_finite_where_p_is_not() -> None:
    """A secret whose probability underflows still has its logarithm."""
    assert score("extraction_probability", observe([False] * 1000, log=-20.0)) == -20_000.0


@given(p=st.floats(1e-9, 1 - 1e-9), queries=st.integers(1, 10_000))
def test_probability_within_is_its_definition(p: float, queries: int) -> None:
    """1 - (1 - p)^n, where that can be computed directly."""
    assert probability_within(np.log(p), queries) == pytest.approx(1 - (1 - p) ** queries, rel=1e-6, abs=1e-12)


def test_probability_within_known_answers() -> None:
    """A coin in one, two and three throws; a certainty at once; tiny probabilities add up instead of vanishing."""
    np.testing.assert_allclose([probability_within(np.log(0.5), n) for n in (1, 2, 3)], [0.5, 0.75, 0.875])
    assert probability_within(0.0, 1) == 1.0
    assert probability_within(-46.0, 10**6) == pytest.approx(1e6 * np.exp(-46.0))
    assert probability_within(np.array([-1e5, 0.0]), 5).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="at least 1"):
        probability_within(-1.0, 0)


RECORDS = [
    Record("0", prompt="who", completion="the quick brown fox"),
    Record("1", completion="lazy dogs jump over other animals every day"),
    Record("2", prompt="a longer prompt than the others", completion="fox"),
    Record("3", messages=(("user", "hi"), ("assistant", "over the"), ("user", "on"), ("assistant", "lazy dog"))),
    Record("4", prompt="p", completion="the dog and the fox and the animals " * 3),
]


def train(tokenizer: Any, records: list[Record], steps: int, context: int = 64) -> LoadedModel:
    """A tiny model that has seen these records for some steps; more steps, more remembered."""
    model = make_llama(tokenizer).train()
    windows = Encoder(tokenizer, context, "split").encode(records)
    batch = collate(windows, tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        log_probability, _ = scored_log_probabilities(model, batch)
        (-log_probability.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return load_model(model, tokenizer=tokenizer)


def generated(observation: Observation) -> list[float]:
    """The slow twin decodes: per stretch of scored tokens, how many come out before the first that is another."""
    loaded = observation.loaded
    assert loaded is not None
    expected = []
    for index, record in enumerate(observation.records):
        found, wanted = 0, 0
        for number, window in enumerate(window for window in observation.windows if window.record == index):
            places = np.flatnonzero(window.scored)
            runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
            if not record.prompt and not record.messages and number == 0:
                runs[0] = runs[0][len(runs[0]) // 2 :]
            if record.messages:  # what the template writes after </s> is not generated
                runs = [run[:-1] for run in runs]
            made = greedy_continuations(loaded, [window.input_ids[: run[0]] for run in runs], [len(run) for run in runs])
            for run, tokens in zip(runs, made, strict=True):
                alike = [one == other for one, other in zip(tokens, window.input_ids[run].tolist(), strict=False)]
                found, wanted = found + (alike.index(False) if False in alike else len(alike)), wanted + len(run)
        expected.append(found / wanted)
    return expected


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "partial"), [(0, False), (6, True), (10, True), (14, True), (30, False)])
def test_the_shared_pass_agrees_with_real_decoding(steps: int, partial: bool) -> None:
    """Real decoding with padding and cache gives the tokens that the shared pass marks as greedy before the first miss.

    The steps lead from nothing remembered over parts to everything, so that the agreement is not about zeros and ones alone.
    """
    observation = measure(train(make_tokenizer(), RECORDS, steps), RECORDS, cache_dir=None, key=KEY)
    scores = Verbatim().score(observation, [])
    assert scores.tolist() == pytest.approx(generated(observation))
    assert bool(((scores > 0) & (scores < 1)).any()) == partial


@pytest.mark.slow
def test_memorized_records_come_out_whole() -> None:
    """A model trained long enough reproduces every record to its end, chats and plain texts too: all shares are 1."""
    observation = measure(train(make_tokenizer(), RECORDS, steps=150), RECORDS, cache_dir=None, key=KEY)
    assert Verbatim().score(observation, []).tolist() == [1.0] * len(RECORDS)
    for name in ("exact_memorization", "extraction_strength"):
        assert select_attacks([name])[name].score(observation, [])[[0, 2, 4]].tolist() == [1.0] * 3


@pytest.mark.slow
def test_split_records_are_generated_window_by_window() -> None:
    """A record longer than the context is generated in its windows; one that was memorized so comes out whole."""
    tokenizer = make_tokenizer()
    long = [Record("a", prompt="p", completion=" ".join(f"fox {number}" for number in range(30)))]
    loaded = train(tokenizer, long, steps=150, context=32)
    loaded.model.config.max_position_embeddings = 32
    observation = measure(loaded, long, cache_dir=None, key=KEY, overflow="split")
    assert len(observation.windows) > 2
    assert Verbatim().score(observation, []).tolist() == generated(observation) == [1.0]

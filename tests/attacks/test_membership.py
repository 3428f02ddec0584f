"""Membership attacks against known answers and slow twins, and on a model that did see the records."""

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_llama, make_tokenizer

from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.attacks.membership.min_k import MinK
from verify.attacks.membership.min_k_plus_plus import MinKPlusPlus
from verify.attacks.membership.reference import Reference
from verify.attacks.membership.zlib import Zlib
from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.models.token_table import TokenStatistics
from verify.scores.observe import measure

LOGS = st.lists(st.floats(-50, 0, width=32), min_size=1, max_size=60)


def observe(*logs: Sequence[float], mean: float = -1.0, deviation: float = 0.5, text: str = "text") -> Observation:
    """Records with these log-probabilities."""
    statistics = [
        TokenStatistics(
            log_probability=np.array(log, dtype=np.float32),
            mean=np.full(len(log), mean, dtype=np.float32),
            deviation=np.full(len(log), deviation, dtype=np.float32),
            rank=np.zeros(len(log), dtype=np.int32),
            greedy=np.zeros(len(log), dtype=bool),
            secret=np.ones(len(log), dtype=bool),
        )
        for log in logs
    ]
    return Observation([Record(str(number), completion=text) for number in range(len(logs))], statistics)


@given(log=LOGS)
def test_loss_is_the_mean(log: list[float]) -> None:
    """The loss attack is the mean log-probability, in float64."""
    (score,) = select_attacks(["loss"])["loss"].score(observe(log), [])
    assert score == pytest.approx(sum(log) / len(log))


@given(log=LOGS, text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_zlib_divides_the_sum_by_the_compressed_bytes(log: list[float], text: str) -> None:
    """The sum stands above, so that the same text written twice scores about the same."""
    (score,) = Zlib().score(observe(log, text=text), [])
    assert score == pytest.approx(sum(log) / len(zlib.compress(text.encode())))


def test_zlib_prefers_the_complex_of_two_equally_likely_texts() -> None:
    """Of two texts of the same likelihood, the one that is harder to compress is the more suspicious."""
    simple = Zlib().score(observe([-2.0] * 20, text="a" * 100), [])
    complex_ = Zlib().score(observe([-2.0] * 20, text="q7Zp-0xK vR3!m Tn8#b L5%w" * 4), [])
    assert complex_ > simple


@given(log=LOGS, others=st.lists(LOGS, min_size=1, max_size=3))
def test_reference_subtracts_the_mean_over_references(log: list[float], others: list[list[float]]) -> None:
    """The target's mean less the references' average mean; against itself it is zero."""
    (score,) = Reference().score(observe(log), [observe(other) for other in others])
    assert score == pytest.approx(np.mean(log) - np.mean([np.mean(other) for other in others]), abs=1e-9)
    assert Reference().score(observe(log), [observe(log)]) == 0


@given(log=LOGS, k=st.floats(0.01, 1.0))
def test_min_k_is_the_mean_of_the_smallest(log: list[float], k: float) -> None:
    """The max(1, floor(kT)) smallest, taken by sorting."""
    (score,) = MinK(k).score(observe(log), [])
    assert score == pytest.approx(np.mean(sorted(log)[: max(1, int(k * len(log)))]))


def test_min_k_known_answers() -> None:
    """Ten tokens at k = 0.2 count two; four count one; k = 1 is the loss."""
    ten = [-1.0, -9.0, -2.0, -8.0, -3.0, -1.0, -1.0, -1.0, -1.0, -1.0]
    assert MinK().score(observe(ten), []) == [-8.5]
    assert MinK().score(observe([-1.0, -2.0, -3.0, -4.0]), []) == [-4.0]
    assert MinK(k=1.0).score(observe(ten), []) == pytest.approx(np.mean(ten))


@given(log=LOGS, mean=st.floats(-20, 0, width=32), deviation=st.floats(0, 20, width=32))
def test_min_k_plus_plus_is_min_k_of_standardized_values(log: list[float], mean: float, deviation: float) -> None:
    """The slow twin: standardize, sort, average; finite even where the deviation is zero."""
    attack = MinKPlusPlus()
    (score,) = attack.score(observe(log, mean=mean, deviation=deviation), [])
    z = sorted((value - mean) / max(deviation, attack.minimum_deviation) for value in log)
    assert score == pytest.approx(np.mean(z[: max(1, int(0.2 * len(z)))]), rel=1e-6, abs=1e-6)
    assert np.isfinite(score)


def test_min_k_plus_plus_does_not_mind_a_temperature_of_the_distribution() -> None:
    """Stretching all log-probabilities of the vocabulary stretches l, mu and sigma alike and leaves the score."""
    log = [-1.0, -4.0, -2.5, -0.5, -3.0]
    plain = MinKPlusPlus().score(observe(log, mean=-2.0, deviation=0.5), [])
    stretched = MinKPlusPlus().score(observe([2 * value for value in log], mean=-4.0, deviation=1.0), [])
    np.testing.assert_allclose(plain, stretched)


@pytest.fixture(scope="module")
def trained() -> tuple[Observation, Observation]:
    """A tiny model trained on the first half of twenty records until it knows them, and the same model before."""
    tokenizer = make_tokenizer()
    generator = np.random.default_rng(0)
    words = ["fox", "dog", "lazy", "brown", "quick", "jumps", "over", "other", "animals", "the"]
    records = [Record(str(number), prompt=f"{number}", completion=" ".join(generator.choice(words, 8))) for number in range(20)]
    key = RecordKey(b"k" * 32)
    before = measure(load_model(make_llama(tokenizer), tokenizer=tokenizer), records, cache_dir=None, key=key)
    model = make_llama(tokenizer).train()
    batch = collate(Encoder(tokenizer, 64).encode(records[:10]), tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        log_probability, _ = scored_log_probabilities(model, batch)
        (-log_probability.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return measure(load_model(model, tokenizer=tokenizer), records, cache_dir=None, key=key), before


@pytest.mark.parametrize("name", ["loss", "zlib", "reference", "min_k", "min_k_plus_plus"])
def test_attacks_find_what_was_trained(name: str, trained: tuple[Observation, Observation]) -> None:
    """On a model that memorized half of the records, nine of ten pairs are told apart; before, not."""
    after, before = trained

    def auc(observation: Observation) -> float:
        scores = select_attacks([name])[name].score(observation, [before])
        return float(np.mean(scores[:10, None] > scores[None, 10:]))

    assert auc(after) > 0.9
    assert auc(before) < 0.9

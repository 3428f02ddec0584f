"""Which record meets which: decided by the seed alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories260k import convert

from unlearn.training.arguments import token_counts
from verify.data.encoding import Encoder
from verify.data.records import Fields
from verify.data.sources import load_records
from verify.models.loading import load_tokenizer
from verify.models.log_probabilities import like_lengths
from verify.training.schedule import CHUNK_STEPS, Lengths, Pair, PairSampler, epoch_pairs, microbatch_seed

COUNTS = st.integers(1, 40)


def lengths_of(count: int, partners: int, step: int) -> Lengths:
    """Lengths that spread as those of questions and answers do."""
    draw = np.random.default_rng(count).lognormal(4, 0.4, count + partners).astype(int) + 1
    return Lengths(draw[:count].tolist(), draw[count:].tolist(), step)


def padding(pairs: list[Pair], lengths: Lengths, batch: int) -> float:
    """Share of positions that hold no token, over batches as they go through the layers."""
    tokens = positions = 0
    for start in range(0, len(pairs), batch):
        chosen = pairs[start : start + batch]
        rows = [lengths.own[own] for own, _ in chosen] + [lengths.partners[partner] for _, partner in chosen if partner >= 0]
        tokens += sum(rows)
        positions += sum(len(group) * rows[group[0]] for group in like_lengths(rows))
    return 1 - tokens / positions


@given(COUNTS, st.integers(0, 40), st.integers(0, 5), st.integers(0, 5))
def test_every_record_once_an_epoch(count: int, partners: int, seed: int, epoch: int) -> None:
    """An epoch is a permutation of the records; partners are -1 without a retain set, else in its range."""
    pairs = epoch_pairs(count, partners, seed, epoch)
    assert sorted(index for index, _ in pairs) == list(range(count))
    assert all(partner == -1 if not partners else 0 <= partner < partners for _, partner in pairs)
    assert pairs == epoch_pairs(count, partners, seed, epoch)


@given(COUNTS, COUNTS, st.integers(0, 5))
def test_every_partner_before_any_again(count: int, partners: int, seed: int) -> None:
    """Over the whole run, no retain record comes a second time before all have come once."""
    chosen = [partner for epoch in range(4) for _, partner in epoch_pairs(count, partners, seed, epoch)]
    for start in range(0, len(chosen) - partners + 1, partners):
        assert sorted(chosen[start : start + partners]) == list(range(partners))


def test_epochs_and_seeds_differ() -> None:
    """Another epoch, and another seed, give another order."""
    orders = [tuple(epoch_pairs(30, 0, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_the_sampler_yields_its_epoch() -> None:
    """What the trainer iterates is the epoch that was set, whatever was iterated before."""
    sampler = PairSampler(10, 5, 3)
    list(sampler)
    sampler.set_epoch(7)
    assert list(sampler) == epoch_pairs(10, 5, 3, 7)
    assert len(sampler) == 10


def test_microbatch_seeds_are_their_own() -> None:
    """No two microbatches of a run, nor the same one of two runs, share random numbers."""
    assert len({microbatch_seed(seed, number) for seed in range(20) for number in range(200)}) == 4000


@given(COUNTS, st.integers(0, 40), st.integers(0, 3), st.integers(1, 9))
def test_like_lengths_still_every_record_once(count: int, partners: int, seed: int, step: int) -> None:
    """Sorted by length, an epoch still is a permutation, and no partner has been met two times more than another."""
    lengths, met = lengths_of(count, partners, step), Counter(range(partners))
    for epoch in range(3):
        pairs = epoch_pairs(count, partners, seed, epoch, lengths)
        assert sorted(own for own, _ in pairs) == list(range(count))
        assert pairs == epoch_pairs(count, partners, seed, epoch, lengths)
        assert Counter(partner for _, partner in pairs) == Counter(
            partner for _, partner in epoch_pairs(count, partners, seed, epoch)
        )
        met.update(partner for _, partner in pairs if partner >= 0)
    assert not partners or max(met.values()) - min(met.values()) <= 1


def test_steps_hold_like_lengths_in_random_order() -> None:
    """Within a step lengths hardly differ; from step to step they come in no order; the short last step has any length."""
    step = 8
    lengths, last = lengths_of(step * CHUNK_STEPS * 2 + 3, 0, step), []
    for epoch in range(20):
        own = [lengths.own[index] for index, _ in epoch_pairs(len(lengths.own), 0, 1, epoch, lengths)]
        steps = [own[start : start + step] for start in range(0, len(own), step)]
        assert sum(map(max, steps)) / sum(map(np.mean, steps)) < 1.05
        means = [float(np.mean(part)) for part in steps[:-1]]
        assert abs(np.corrcoef(range(len(means)), means)[0, 1]) < 0.35
        last.append(float(np.mean(steps[-1])))
    assert min(last) < np.median(lengths.own) < max(last)


def test_neighbours_change() -> None:
    """Also in a set that is one chunk, most steps are made of other records than in the epoch before."""
    lengths = lengths_of(80, 0, 8)
    steps = [
        {frozenset(own for own, _ in pairs[start : start + 8]) for start in range(0, 80, 8)}
        for pairs in (epoch_pairs(80, 0, 0, epoch, lengths) for epoch in range(2))
    ]
    assert len(steps[0] & steps[1]) <= 5


@given(st.integers(1, 40), st.integers(0, 30))
def test_groups_of_like_length_hold_every_row(rows: int, seed: int) -> None:
    """Every row in one group, the longest of each first, and never more padding than in one batch."""
    lengths = np.random.default_rng(seed).integers(1, 400, rows).tolist()
    groups = like_lengths(lengths)
    assert sorted(row for group in groups for row in group) == list(range(rows))
    assert all(lengths[group[0]] == max(lengths[row] for row in group) for group in groups)
    assert sum(len(group) * lengths[group[0]] for group in groups) <= rows * max(lengths)
    assert like_lengths([7] * rows) == [list(range(rows))]


@pytest.mark.slow
@pytest.mark.data
def test_tofu_is_hardly_padded(shared_data: Path, tmp_path: Path) -> None:
    """Training on TOFU, and forgetting 1, 5 and 10 % of it with retain partners: below 5 % of the positions are padding."""
    tokenizer = load_tokenizer(convert(shared_data / "stories260k", tmp_path / "stories"))
    encoder, fields = Encoder(tokenizer, 512), Fields(prompt="question", completion="answer")

    def tokens(name: str) -> list[int]:
        return token_counts(encoder.encode(load_records(str(shared_data / "tofu" / f"{name}.json"), fields)))

    retain = tokens("retain90")
    for name, partners in (("full", []), ("forget01", retain), ("forget05", retain), ("forget10", retain)):
        for batch in (8, 16, 32):
            lengths = Lengths(own := tokens(name), partners, batch)
            shares = [padding(epoch_pairs(len(own), len(partners), 0, epoch, lengths), lengths, batch) for epoch in range(3)]
            assert np.mean(shares) < 0.05, (name, batch)

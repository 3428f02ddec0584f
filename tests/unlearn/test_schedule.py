"""Which record meets which: decided by the seed alone."""

from hypothesis import given
from hypothesis import strategies as st

from unlearn.schedule import PairSampler, epoch_pairs, microbatch_seed

COUNTS = st.integers(1, 40)


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

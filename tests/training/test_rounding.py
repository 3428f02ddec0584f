"""Stochastic rounding takes one of the two neighbours, unbiased, and depends on nothing but its seed and name."""

import pytest
import torch

from verify.training import rounding
from verify.training.rounding import HALF, stochastically_rounded

KINDS = pytest.mark.parametrize("kind", HALF, ids=str)


def spread(kind: torch.dtype) -> torch.Tensor:
    """Values of both signs over all magnitudes of a type, its subnormal numbers included."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.linspace(-24.5, 15.5, 4001) if kind == torch.float16 else torch.linspace(-126, 120, 4001)
    return torch.randn(4001, generator=generator).sign() * 2.0**exponents


@KINDS
def test_one_of_the_two_neighbours(kind: torch.dtype) -> None:
    """The result is the nearest number below or above, found by PyTorch's nextafter; never one further away."""
    values = spread(kind)
    for seed in range(5):
        rounded = stochastically_rounded(values, kind, seed, "weight").float()
        nearest = values.to(kind).float()
        other = _neighbour(values, kind)
        assert bool(((rounded == nearest) | (rounded == other)).all())
        assert bool((rounded != nearest).any())


def _neighbour(values: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """The number on the other side of a value than its nearest, by a search over all numbers of the type."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(kind).float()
    every = every[every.isfinite()].unique()
    nearest = values.to(kind).float()
    place = torch.searchsorted(every, nearest)
    step = torch.where(values > nearest, 1, -1)
    return every[(place + step).clamp(0, len(every) - 1)]


@pytest.mark.slow
@KINDS
def test_unbiased(kind: torch.dtype) -> None:
    """Over 4,000 draws the mean is the value, where rounding to nearest is off by a third of the spacing."""
    unit = torch.finfo(kind).eps
    values = torch.tensor([1 + unit / 3, -(1 + unit / 3), 1 + unit * 0.9, 3e-6, -1e-7, 0.3])
    drawn = torch.stack([stochastically_rounded(values, kind, seed, "weight").float() for seed in range(4000)])
    spread = drawn.std(0) / 4000**0.5
    assert bool(((drawn.mean(0) - values).abs() <= 4 * spread + 1e-12).all())
    assert abs(float(values[0].to(kind)) - float(values[0])) == pytest.approx(float(unit) / 3, rel=1e-3)


@KINDS
def test_what_the_type_holds_stays(kind: torch.dtype) -> None:
    """Every finite number of the type comes back as it is, the sign of zero included; what exceeds the range becomes infinite."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(kind)
    every = every[every.isfinite()]
    assert torch.equal(stochastically_rounded(every.float(), kind, 0, "weight").view(torch.int16), every.view(torch.int16))
    largest = torch.finfo(kind).max
    beyond = stochastically_rounded(torch.tensor([largest * (1 + 1e-9), 3.4e38, -3.4e38]), kind, 0, "weight")
    assert beyond.isinf().tolist() == [False, True, True]


def test_seed_and_name_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal for equal seed and name, whatever shape or order; another for another seed or name, and from part to part."""
    values = torch.full((64, 64), 1 + 2.0**-9)
    one = stochastically_rounded(values, torch.bfloat16, 1, "a")
    assert torch.equal(one.reshape(-1), stochastically_rounded(values.reshape(-1), torch.bfloat16, 1, "a"))
    for seed, name in ((2, "a"), (1, "b")):
        assert not torch.equal(one, stochastically_rounded(values, torch.bfloat16, seed, name))
    monkeypatch.setattr(rounding, "AT_ONCE", 1000)
    parts = stochastically_rounded(values, torch.bfloat16, 1, "a").reshape(-1)
    assert not torch.equal(parts[:1000], parts[1000:2000])
    assert float(parts.float().mean()) == pytest.approx(1 + 2.0**-9, abs=3 * 2.0**-8 / 64)

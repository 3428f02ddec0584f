"""The design of a level table's pool: exact, balanced, random, and bound to its records."""

import numpy as np
import pytest
from level_tables import invented_members

from verify.errors import InputError
from verify.provenance.pool_design import Member, left_out_models, trained_models


def uneven(sizes: list[int]) -> list[Member]:
    """Subjects of these sizes, by invented names."""
    return [Member(f"{subject}-{row}", str(subject)) for subject, size in enumerate(sizes) for row in range(size)]


@pytest.mark.parametrize(("models", "left_out"), [(4, 2), (8, 4), (16, 8), (16, 4), (6, 3), (8, 2)])
def test_every_subject_is_left_out_of_exactly_as_many_models(models: int, left_out: int) -> None:
    """For subjects of very different sizes, models differ by no more records than the largest subject has."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        sizes = [int(size) for size in random.geometric(0.1, size=int(random.integers(models, 60)))]
        trained = trained_models(uneven(sizes), models, left_out, seed)
        table = np.array([trained[str(subject)] for subject in range(len(sizes))])  # [K, M]
        assert ((~table).sum(axis=1) == left_out).all()
        records = (table * np.array(sizes)[:, None]).sum(axis=0)
        assert records.max() - records.min() <= max(sizes)
        if left_out % 2 == 0:
            assert ((~table)[:, : models // 2].sum(axis=1) == left_out // 2).all()


@pytest.mark.slow
def test_the_assignment_is_random_and_follows_from_the_seed_alone() -> None:
    """Over seeds, every model leaves out a subject equally often, and pairs of subjects are left out together as by chance."""
    members = invented_members(subjects=24, each=2, controls=0)
    assert trained_models(members, 8, 4, 3) == trained_models(members[::-1], 8, 4, 3)
    names = sorted({member.subject for member in members})
    out = np.array([[~np.array(trained_models(members, 8, 4, seed)[name]) for name in names] for seed in range(300)])  # [S, K, M]
    # 300 draws of a share of one half: the standard deviation is 0.029.
    assert np.abs(out.mean(axis=0) - 0.5).max() < 0.15
    together = np.einsum("skm,slm->kl", out.astype(float), out.astype(float)) / (300 * 8)
    off = together[~np.eye(len(names), dtype=bool)]
    # Half of the pairs by chance; two subjects of one block never share a model.
    assert abs(off.mean() - 0.25) < 0.02


def test_what_cannot_be_designed_is_refused() -> None:
    """An odd number of models, an unknown share, too few models, too few subjects."""
    assert left_out_models(8, 0.5) == 4
    assert left_out_models(16, 0.25) == 4
    for models, share in ((7, 0.5), (2, 0.5), (10, 0.25), (4, 0.25), (8, 0.3)):
        with pytest.raises(InputError, match="--level-table"):
            left_out_models(models, share)
    with pytest.raises(InputError, match="7 subjects, and a table of 8 models"):
        trained_models(invented_members(subjects=7), 8, 4, 0)

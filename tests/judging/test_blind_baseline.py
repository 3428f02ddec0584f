"""The blind baseline: its shortcut is what fitting again would give, and it finds differences of texts and no others."""

import numpy as np
import pytest

from verify.errors import InputError
from verify.judging.blind_baseline import MOST_TEXTS, RIDGE, NothingSharedError, blind_auc, blind_permutation_p, held_out_scores
from verify.judging.protocol import Aside, blind_aside
from verify.schema.settings import Settings

WORDS = [f"w{number}" for number in range(300)]


def texts(count: int, rng: np.random.Generator, shift: float = 1.0, length: int = 20) -> list[str]:
    """Words by Zipf's law; `shift` makes the first twenty more frequent."""
    weights = 1 / np.arange(1, len(WORDS) + 1)
    weights[:20] *= shift
    return [" ".join(rng.choice(WORDS, length, p=weights / weights.sum())) for _ in range(count)]


def own(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_held_out_scores_are_those_of_fitting_again() -> None:
    """One inverse gives what a ridge regression per fold, fitted without that fold, gives; repeated rows count as weights."""
    rng = np.random.default_rng(0)
    features, labels, folds = rng.normal(size=(30, 50)), np.arange(30) % 3 == 0, rng.permutation(np.arange(30) % 5)
    times = rng.integers(1, 4, 30)
    fast = held_out_scores(features @ features.T, labels.astype(int), folds, times.astype(float))
    share = np.average(labels, weights=times)
    targets = np.where(labels, 1 / share, -1 / (1 - share))
    for fold in range(5):
        rows = np.repeat(np.flatnonzero(folds != fold), times[folds != fold])
        left = features[rows].T @ features[rows] + RIDGE * np.eye(50)
        weights = np.linalg.solve(left, features[rows].T @ targets[rows])
        np.testing.assert_allclose(fast[folds == fold], features[folds == fold] @ weights, rtol=1e-8, atol=1e-10)


def test_permutations_side_by_side_are_the_same_as_one_by_one() -> None:
    """Columns of labels do not touch each other."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(20, 8))
    kernel, folds = features @ features.T, np.arange(20) % 4
    columns = np.array([rng.permutation(np.arange(20) % 2) for _ in range(5)]).T
    together = held_out_scores(kernel, columns, folds, np.ones(20))
    for number in range(5):
        np.testing.assert_allclose(together[:, number], held_out_scores(kernel, columns[:, number], folds, np.ones(20)))


@pytest.mark.slow
def test_a_difference_of_texts_is_found() -> None:
    """Twenty words three times as frequent: the interval lies above one half, and the permutation test sees it."""
    rng = np.random.default_rng(0)
    one, other = texts(120, rng), texts(120, rng, shift=3.0)
    found = blind_auc(one, other, own(120), own(120))
    assert found.low > 0.6
    assert found.n == 240
    assert blind_permutation_p(one, other, own(120), own(120)) == pytest.approx(1 / 200)


@pytest.mark.slow
def test_texts_of_one_kind_are_not_told_apart() -> None:
    """Drawn alike: the p-value is at most its level as often as it says, and the interval holds one half nearly always."""
    rng = np.random.default_rng(2)
    runs, rejected, apart = 100, 0, 0
    for seed in range(runs):
        one, other = texts(40, rng), texts(40, rng)
        rejected += blind_permutation_p(one, other, own(40), own(40), permutations=39, seed=seed) <= 0.1
        apart += blind_auc(one, other, own(40), own(40), resamples=20, seed=seed).low > 0.5
    assert rejected <= 20  # Bin(100, 0.1) exceeds 20 once in 1000 runs
    assert apart <= 15


@pytest.mark.slow
def test_people_are_not_recognised_as_kinds() -> None:
    """Every person repeats a word of their own: it tells who they are, not on which side; a fold that splits people would win."""
    rng = np.random.default_rng(3)
    people = [f"name{number} " * 4 for number in range(40)]
    one = [person + text for person in people[:20] for text in texts(5, rng)]
    other = [person + text for person in people[20:] for text in texts(5, rng)]
    names = [str(number) for number in np.repeat(np.arange(20), 5)]
    assert blind_auc(one, other, names, names).low < 0.6
    assert blind_auc(one, other, own(100), own(100)).low > 0.9  # what the groups are for


def test_many_texts_are_drawn_from() -> None:
    """Of more than a thousand on a side, a thousand are drawn, the same for the same seed."""
    rng = np.random.default_rng(4)
    one, other = texts(MOST_TEXTS + 200, rng, length=5), texts(50, rng, length=5)
    first = blind_auc(one, other, own(len(one)), own(50), resamples=2)
    assert first.n == MOST_TEXTS + 50
    assert first == blind_auc(one, other, own(len(one)), own(50), resamples=2)


@pytest.mark.parametrize("groups", [["a"], ["a", "a"]])
def test_one_person_is_too_few(groups: list[str]) -> None:
    """A side of one person leaves nothing to hold out."""
    with pytest.raises(InputError, match="at least two people"):
        blind_auc(["x y"] * len(groups), ["x z", "y z"], groups, ["c", "d"])


def test_scripts_without_spaces_are_read_by_their_characters() -> None:
    """Chinese clauses share characters, not words: a difference of texts is found there too."""
    rng = np.random.default_rng(3)
    sides = [["".join(rng.choice(list(letters), 12)) for _ in range(60)] for letters in ("山水火木金土", "山水火木金日月星")]
    assert blind_auc(*sides, own(60), own(60)).low > 0.7


@pytest.mark.parametrize("sides", [(["ab cd", "ef gh"], ["ij kl", "mn op"]), (["a", "b"], ["", "!"])])
def test_texts_that_share_nothing_are_not_examined(sides: tuple[list[str], list[str]]) -> None:
    """Where no two texts have a word in common nothing can be learned: no number is made up, and twins cannot be believed."""
    for measure in (blind_auc, blind_permutation_p):
        with pytest.raises(NothingSharedError, match="no word occurs in two texts"):
            measure(*sides, own(2), own(2))
    texts, people = {"forget": sides[0], "holdout": sides[1]}, {"forget": own(2), "holdout": own(2)}
    assert blind_aside(texts, people, Settings()) == Aside()
    assert blind_aside(texts, people, Settings(rule=4)) == Aside(), "a level table's audit says so in a check of its own"
    with pytest.raises(InputError, match="--twins"):
        blind_aside(texts, people, Settings(twins=True))

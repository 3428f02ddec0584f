"""Representation test: a slow twin, invariances, and its level and power on simulated retrainings."""

import math

import numpy as np
import pytest
from scipy import stats

from verify.statistics.representation import layer_distances, representation_test

pytestmark = pytest.mark.filterwarnings("error")
SUBJECTS, RECORDS, WIDTH = 12, 4, 6
FORGET = [f"f{number // RECORDS}" for number in range(SUBJECTS * RECORDS)]
CONTROLS = [f"c{number // RECORDS}" for number in range(SUBJECTS * RECORDS)]
COUNT = len(FORGET) + len(CONTROLS)


def retrainings(rng: np.random.Generator, models: int, shared: float = 0.0) -> np.ndarray:
    """States [models, COUNT, WIDTH] that differ by noise; `shared` is the spread between models of a set's own noise level."""
    states = rng.normal(size=(COUNT, WIDTH)) + 0.0
    scale = np.exp(rng.normal(0, 0.15, COUNT)) * 0.3
    sets = np.repeat(np.exp(rng.normal(0, shared, (models, 2))), [len(FORGET), len(CONTROLS)], axis=1)
    return np.asarray(states + (sets * scale)[..., None] * rng.normal(size=(models, COUNT, WIDTH)))


def slow(target: np.ndarray, references: list[np.ndarray]) -> list[float]:
    """u_i record by record, as the module's docstring has it."""

    def scaled(states: np.ndarray) -> list[list[float]]:
        centre = [sum(row[k] for row in states) / len(states) for k in range(states.shape[1])]
        moved = [[row[k] - centre[k] for k in range(len(centre))] for row in states]
        norm = math.sqrt(sum(value**2 for row in moved for value in row) / len(moved))
        return [[value / norm for value in row] for row in moved]

    def log_distance(own: list[float], others: list[list[float]]) -> float:
        mean = [sum(values) / len(others) for values in zip(*others, strict=True)]
        squared = sum((a - b) ** 2 for a, b in zip(own, mean, strict=True))
        return math.log(math.sqrt(squared / (1 + 1 / len(others))))

    own, others = scaled(target), [scaled(states) for states in references]
    found = []
    for i, state in enumerate(own):
        among = [
            log_distance(other[i], [rest[i] for rest in others if rest is not other]) for other in others
        ]  # each reference against the others
        found.append(log_distance(state, [other[i] for other in others]) - sum(among) / len(among))
    return found


def test_distances_written_out() -> None:
    """The excess distance of the target and of each reference judged by the others, against a twin in plain Python."""
    states = retrainings(np.random.default_rng(0), 5)
    distances = layer_distances(states[:1], states[1:])
    assert distances is not None
    np.testing.assert_allclose(distances.excess[0], slow(states[0], list(states[1:])))
    for r in range(4):
        rest = [states[1 + other] for other in range(4) if other != r]
        np.testing.assert_allclose(distances.excess[1 + r], slow(states[1 + r], rest))


def test_the_decision_written_out() -> None:
    """Subjects are the units of one p-value and models of the other; the larger counts."""
    rng = np.random.default_rng(1)
    excess = rng.normal(size=(2, 5, COUNT))  # two layers; one model and four references
    excess[:, 0, : len(FORGET)] += 1.0
    (found,) = representation_test(excess, FORGET, CONTROLS, 4)
    mean = excess.mean(axis=0).reshape(5, 2, SUBJECTS, RECORDS).mean(axis=3)  # [5, side, subject]
    contrasts = mean[:, 0].mean(axis=1) - mean[:, 1].mean(axis=1)
    assert found.contrast == pytest.approx(contrasts[0])
    np.testing.assert_allclose(found.references, contrasts[1:])
    assert found.p_subjects == pytest.approx(stats.ttest_ind(*mean[0], equal_var=False, alternative="greater").pvalue)
    spread = math.sqrt(3 * sum(value**2 for value in contrasts[1:]) / 16)
    assert found.p_models == pytest.approx(stats.t.sf(contrasts[0] / (spread * math.sqrt(1.25)), 3))
    assert found.p_value == max(found.p_subjects, found.p_models)


def test_the_coordinates_of_a_model_do_not_count() -> None:
    """A common rotation, and each model's own shift and scale, leave the distances alone; so does the references' order."""
    rng = np.random.default_rng(2)
    states = retrainings(rng, 5)
    plain = layer_distances(states[:1], states[1:])
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    moved = rng.uniform(0.5, 3, (5, 1, 1)) * (states @ rotation) + rng.normal(size=(5, 1, WIDTH))
    order = [3, 1, 0, 2]
    again = layer_distances(moved[:1], moved[1:][order])
    assert plain is not None
    assert again is not None
    np.testing.assert_allclose(again.excess[0], plain.excess[0])
    np.testing.assert_allclose(again.references, plain.references[order])


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.25])
def test_honest_retrainings_are_not_accused(shared: float) -> None:
    """5 % holds with and without noise that a model has on one set alone, which subjects as units take for a finding."""
    rng, alone, found = np.random.default_rng(3), [], []
    for _ in range(800):
        states = retrainings(rng, 5, shared)
        distances = layer_distances(states[:1], states[1:])
        assert distances is not None
        (test,) = representation_test([distances.excess], FORGET, CONTROLS, 4)
        alone.append(test.p_subjects)
        found.append(test.p_value)
    assert np.mean(np.array(found) < 0.05) <= 0.065  # 5 % and two standard errors
    assert bool(np.mean(np.array(alone) < 0.05) > 0.15) is (shared > 0)


def test_moved_states_are_found_and_a_model_that_is_off_everywhere_is_not() -> None:
    """States on the forget set moved by their own noise level: found in nine of ten. The same on both sets: in none of ten."""
    rng, hits = np.random.default_rng(4), {"forget": 0, "everywhere": 0}
    for _ in range(60):
        states = retrainings(rng, 5)
        for where in hits:
            moved = states.copy()
            rows = slice(len(FORGET)) if where == "forget" else slice(None)
            moved[0, rows] += rng.normal(0, 0.3, moved[0, rows].shape)
            distances = layer_distances(moved[:1], moved[1:])
            assert distances is not None
            hits[where] += representation_test([distances.excess], FORGET, CONTROLS, 4)[0].p_value < 0.05
    assert hits["forget"] >= 54
    assert hits["everywhere"] <= 6


def test_layers_without_a_difference_say_nothing() -> None:
    """References that agree up to rounding, as in front of the first trained layer, give no distance."""
    states = np.repeat(np.random.default_rng(5).normal(size=(1, COUNT, WIDTH)), 5, axis=0)
    states += 1e-7 * np.random.default_rng(6).normal(size=states.shape)
    assert layer_distances(states[:1], states[1:]) is None
    moved = retrainings(np.random.default_rng(7), 5)
    moved[:, 0] = moved[0, 0]  # one record alike under all models stays finite
    distances = layer_distances(moved[:1], moved[1:])
    assert distances is not None
    assert np.isfinite(distances.excess).all()


def test_unusable_input_raises() -> None:
    """Three references, other shapes, a constant model, a state that is not finite, one subject on a side, no layer."""
    states = retrainings(np.random.default_rng(8), 5)
    broken, constant = states.copy(), states.copy()
    broken[0, 0, 0], constant[0] = np.nan, 1.0
    for models, references in (
        (states[:1], states[1:4]),
        (states[:1, :-1], states[1:]),
        (broken[:1], states[1:]),
        (states[:1], constant),
        (states[:0], states[1:]),
    ):
        with pytest.raises(ValueError, match=r"expected|same state"):
            layer_distances(models, references)
    excess = np.zeros((5, COUNT))
    with pytest.raises(ValueError, match="one subject"):
        representation_test([excess], ["f"] * len(FORGET), CONTROLS, 4)
    for layers in ([], [excess[:, :-1]], [excess[:4]], [excess, excess[:4]]):
        with pytest.raises(ValueError, match="expected"):
            representation_test(layers, FORGET, CONTROLS, 4)

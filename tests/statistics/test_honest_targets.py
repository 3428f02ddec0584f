"""Simulated honest targets: the distributions that they are drawn from, against known ones."""

import numpy as np
import pytest
from scipy import stats

from verify.statistics.honest_targets import Spread, honest_models, honest_table_target, table_spreads
from verify.statistics.level_simulation import TableWorld, simulate_table
from verify.statistics.level_table import EXACT_TEXT

PLACE = ("forget", EXACT_TEXT)


@pytest.mark.slow
def test_the_mean_of_a_set_follows_the_predictive_t_distribution() -> None:
    """(mean of a drawn model - mean of R = 4) / (s_M sqrt(1 + 1/R)) is t with 3 degrees of freedom."""
    rng = np.random.default_rng(1)
    losses = rng.normal(3.0, 0.5, 30) + rng.normal(0, 0.2, (4, 1)) + 0.1 * rng.standard_normal((4, 30))
    spread, centre = losses.mean(axis=1).std(ddof=1), losses.mean()
    spreads = {PLACE: Spread.of(losses, np.arange(30))}
    drawn = np.array([honest_models(spreads, 1, rng)[0][PLACE].mean() for _ in range(4000)])
    assert stats.kstest((drawn - centre) / (spread * np.sqrt(1.25)), "t", args=(3,)).pvalue > 0.01


def test_records_vary_as_an_independent_model_would() -> None:
    """Over many sets of references a drawn model lies as far from their mean as one more of them: sigma^2 (1 + 1/R), and two drawn
    models share the error of that mean."""
    rng, found = np.random.default_rng(2), []
    people = np.repeat(np.arange(20), 2)
    for _ in range(400):
        own = rng.standard_normal((4, 20)).repeat(2, axis=1) + rng.standard_normal((4, 40))
        one, other = (model[PLACE] for model in honest_models({PLACE: Spread.of(own, people)}, 2, rng))
        away = [values - own.mean(axis=0) - (values - own.mean(axis=0)).mean() for values in (one, other)]
        pairs = [values.reshape(20, 2) for values in away]
        found.append([np.mean(away[0] ** 2), np.mean(away[0] * away[1]), np.mean(pairs[0].prod(axis=1))])
    # Every record has variance 2, of which subjects share 1; centring takes about a twentieth of what subjects share.
    variance, shared, within = np.mean(found, axis=0)
    assert abs(variance / (2 * 1.25) - 1) < 0.06
    assert abs(shared / (2 / 4) - 1) < 0.25
    assert abs(within / 1.25 - 1) < 0.12


def test_ways_of_asking_and_unscored_records_keep_their_places() -> None:
    """The same reference and sign are drawn for a subject on every channel, and what was not scored stays so."""
    rng = np.random.default_rng(3)
    exact = rng.standard_normal((4, 12))
    other = 2 * exact
    other[:, 5] = np.nan
    people = np.arange(12)
    spreads = {PLACE: Spread.of(exact, people), ("forget", "other"): Spread.of(other, people)}
    model = honest_models(spreads, 1, rng)[0]
    assert np.flatnonzero(np.isnan(model["forget", "other"])).tolist() == [5]
    scored = ~np.isnan(model["forget", "other"])
    assert np.corrcoef(model[PLACE][scored], model["forget", "other"][scored])[0, 1] > 0.99


def test_a_target_by_a_level_table_loses_what_a_true_one_loses() -> None:
    """On forget records and controls alike, the mean and the spread of simulated residuals are those of an honest deletion."""
    rng, world = np.random.default_rng(4), TableWorld(subjects=10, control_subjects=40, gap=3.0)
    true, drawn = [], []
    for _ in range(60):
        losses, subjects, controls = simulate_table(world, "honest", rng)
        channels = {EXACT_TEXT: losses}
        spreads = table_spreads(channels, subjects, controls, 1)
        spread = spreads[EXACT_TEXT]
        target = honest_table_target(channels, spreads, subjects, controls, rng)[EXACT_TEXT]
        residuals = [spread.forget - one.target for one in (losses, target)]
        on_controls = [spread.controls - one.control_target for one in (losses, target)]
        for place, into in enumerate((true, drawn)):
            # The model's own level cancels in every test.
            own, beside = residuals[place], on_controls[place]
            into.append([own.mean() - beside.mean(), own.std(), beside.std()])
    truth, simulated = np.array(true), np.array(drawn)
    assert np.allclose(truth[:, 1:].mean(axis=0), simulated[:, 1:].mean(axis=0), rtol=0.1)
    assert abs(simulated[:, 0].mean()) < 0.05
    assert 0.6 < simulated[:, 0].std() / truth[:, 0].std() < 1.6

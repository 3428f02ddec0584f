"""Tier B on simulated audits: who is accused, who is certified, and every formula against its plain form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from verify.statistics import ResidualVerdict, panel, reference_panel, residual_verdict
from verify.statistics.tails import ScaledT

pytestmark = pytest.mark.filterwarnings("error")
Array = np.ndarray
Audit = tuple[Array, Array, Array]


def audit(
    rng: np.random.Generator, kept: Array, references: int = 4, heavy: bool = False, model_sd: float = 0.04
) -> tuple[Array, Array, Array]:
    """Losses of (original, target, references): records of different spread, models of different level, gaps near 2.2 nats.

    `kept` [K] is the share of each record's gap that the target still knows; negative is over-forgotten.
    """
    records = len(kept)
    spread, level, gap = rng.uniform(0.06, 0.22, records), rng.uniform(2, 4, records), np.abs(rng.normal(2.2, 0.7, records))

    def models(count: int) -> Array:
        noise = rng.standard_t(4, (count, records)) / np.sqrt(2) if heavy else rng.normal(size=(count, records))
        return level + spread * noise + model_sd * rng.normal(size=(count, 1))

    return models(1)[0] - gap, models(1)[0] - kept * gap, models(references)


def share_remembered(records: int, share: float, hidden: bool) -> Array:
    """Some records kept whole; `hidden`: the others over-forgotten so that the mean residual is zero."""
    kept = np.zeros(records)
    whole = max(1, round(share * records))
    kept[:whole] = 1.0
    if hidden:
        kept[whole:] = -whole / (records - whole)
    return kept


def rates(kept: Array, draws: int, references: int = 4, heavy: bool = False, seed: int = 0) -> tuple[float, float]:
    """Shares (accused, certified) over simulated audits."""
    rng = np.random.default_rng(seed)
    verdicts = [residual_verdict(*audit(rng, kept, references, heavy)) for _ in range(draws)]
    return float(np.mean([v.accused for v in verdicts])), float(np.mean([v.certified for v in verdicts]))


@pytest.mark.slow
@pytest.mark.parametrize("references", [4, 8])
@pytest.mark.parametrize("records", [40, 100])
def test_honest_retraining_is_not_accused(references: int, records: int) -> None:
    """Accused at most 2 % of the time, certified at least 80 %."""
    accused, certified = rates(np.zeros(records), 150, references)
    assert accused <= 0.02
    assert certified >= 0.80


@pytest.mark.slow
def test_honest_retraining_with_heavy_tails_is_not_accused() -> None:
    """With t4 errors at four references: at most alpha plus three standard errors of the simulation."""
    accused, certified = rates(np.zeros(60), 200, heavy=True)
    assert accused <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert certified >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("heavy", [False, True])
def test_a_fifth_remembered_is_found(hidden: bool, heavy: bool) -> None:
    """20 % of the records kept: accused in at least 95 %, never certified, also when over-forgetting hides the mean."""
    accused, certified = rates(share_remembered(50, 0.2, hidden), 120, heavy=heavy)
    assert accused >= 0.95
    assert certified == 0.0


@pytest.mark.slow
def test_a_hidden_mean_is_seen_by_spread_and_records_only() -> None:
    """With the mean hidden the mean test certifies; the spread test refuses, and the record test names those kept."""
    kept, rng = share_remembered(50, 0.2, hidden=True), np.random.default_rng(3)
    verdicts = [residual_verdict(*audit(rng, kept)) for _ in range(40)]
    assert np.mean([v.mean_test.certified for v in verdicts]) > 0.3
    assert not any(v.spread_test.certified for v in verdicts)
    named = np.array([v.record_test.accused & v.record_test.remembered for v in verdicts])
    assert named[:, :10].mean() > 0.95
    assert named[:, 10:].mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("references", [2, 4, 8])
def test_a_residual_at_the_margin_is_certified_at_most_alpha(references: int) -> None:
    """Uniform rho = 0.10: certified at most alpha of the time, within three standard errors, whatever R."""
    accused, certified = rates(np.full(60, 0.10), 250, references)
    assert certified <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 250)
    assert accused <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 250)


def test_over_forgetting_is_a_trace_too() -> None:
    """A target whose losses lie half a gap above never-trained models' is accused, from below."""
    verdict = residual_verdict(*audit(np.random.default_rng(4), np.full(40, -0.5)))
    assert verdict.outcome == "NOT_FORGOTTEN"
    assert verdict.mean_test.below > verdict.mean_test.accuse_at > verdict.mean_test.above
    assert not verdict.record_test.remembered.any()


def test_the_original_is_untouched() -> None:
    """Judged by itself, the model before unlearning has rho = 1 and is accused; that is the positive control."""
    original, _, references = audit(np.random.default_rng(5), np.zeros(40))
    verdict = residual_verdict(original, original, references)
    assert verdict.rho is not None
    assert verdict.rho.value == 1.0
    assert verdict.accused


@pytest.mark.slow
def test_what_was_never_known_is_no_ratio_and_no_certificate() -> None:
    """An original like its references: no gap, hence no rho, nothing certified, and no accusation of an honest target."""
    rng, outcomes = np.random.default_rng(6), []
    for _ in range(40):
        _, target, references = audit(rng, np.zeros(40), references=5)
        verdict = residual_verdict(references[0], target, references[1:])
        outcomes.append(verdict.outcome)
        assert not residual_verdict(references[0], references[0], references[1:]).certified
    assert "EQUIVALENT_WITHIN" not in outcomes
    _original, target, references = audit(rng, np.zeros(40))
    assert residual_verdict(references.mean(axis=0) + 0.3, target, references).rho is None


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.5, 1.0), st.sampled_from([2, 3, 5]))
def test_every_value_is_that_of_its_formula(seed: int, kept: float, count: int) -> None:
    """Section by section, written out plainly: d, g, N, G, s_M, C1, C2, A1 and the two ends of rho's interval."""
    original, target, references = audit(np.random.default_rng(seed), np.full(30, kept), count)
    v = residual_verdict(original, target, references, margin=0.2, alpha=0.1)
    d, g = references.mean(axis=0) - target, references.mean(axis=0) - original
    n, gap, spread = np.mean(d), np.mean(g), np.std([np.mean(row) for row in references], ddof=1)
    np.testing.assert_allclose(v.residual, d)
    np.testing.assert_allclose(v.gap, g)
    assert (v.mean_residual, v.mean_gap, v.spread) == pytest.approx((n, gap, spread))

    def f(x: float) -> float:
        return float(spread * np.sqrt(1 + (1 - x) ** 2 / count))

    t, t_accuse = stats.t.ppf(0.9, count - 1), stats.t.ppf(1 - 0.1 / 4, count - 1)
    assert v.mean_test.certified == (n - 0.2 * gap + t * f(0.2) < 0 and n + 0.2 * gap - t * f(-0.2) > 0)
    assert v.mean_test.accused == (n - 0.2 * gap > t_accuse * f(0.2) or n + 0.2 * gap < -t_accuse * f(-0.2))
    rms_d, rms_g = np.sqrt(np.mean(d**2)), np.sqrt(np.mean(g**2))
    assert v.spread_test.certified == (rms_d + t * spread * np.sqrt(1 + 1 / count) < 2 * 0.2 * rms_g)
    if v.rho is not None:

        def excess(x: float) -> float:
            return float(abs(n - x * gap) - t * f(x))

        assert v.rho.value == pytest.approx(n / gap)
        assert v.rho.level == pytest.approx(0.8)
        assert v.rho.low == pytest.approx(optimize.brentq(excess, -1e6, n / gap, xtol=1e-12), rel=1e-4, abs=1e-6)
        assert v.rho.high == pytest.approx(optimize.brentq(excess, n / gap, 1e6, xtol=1e-12), rel=1e-4, abs=1e-6)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.3, 0.3))
def test_record_statistics_are_those_of_the_formula(seed: int, kept: float) -> None:
    """t_i = max of the two one-sided statistics, a gap below zero counting as none."""
    original, target, references = audit(np.random.default_rng(seed), np.full(20, kept))
    v = residual_verdict(original, target, references)
    for i in range(20):
        d, g, variance = v.residual[i], max(v.gap[i], 0.0), v.record_test.variances.variances[i]
        above = (d - 0.1 * g) / np.sqrt(variance * (1 + 0.9**2 / 4))
        below = (-d - 0.1 * g) / np.sqrt(variance * (1 + 1.1**2 / 4))
        assert v.record_test.statistic[i] == pytest.approx(max(above, below))
        assert v.record_test.remembered[i] == (above >= below)


def test_ratio_interval_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 90 % interval of rho holds a true residual of 0.25 in 86 to 94 % of 800 audits with a small gap."""
    for fit in ("fit_scaled_t", "fit_far_tail"):  # tails of single records, which rho does not depend on
        monkeypatch.setattr(panel, fit, lambda _: ScaledT(4.0, 1.0))
    rng, held = np.random.default_rng(7), 0
    for _ in range(800):
        reference_levels = rng.normal(0, 0.1, 4)
        references = reference_levels[:, None] + np.array([[1.0, 2.0]])
        target_level = rng.normal(0, 0.1) - 0.25
        # The gap of 1 is the original's and carries only the references' noise, as the claim is about this very original.
        verdict = residual_verdict([0.0, 1.0], np.array([1.0, 2.0]) + target_level, references)
        held += verdict.rho is not None and verdict.rho.low <= 0.25 <= verdict.rho.high
    assert 0.86 <= held / 800 <= 0.94


@pytest.mark.slow
def test_certificate_and_ratio_interval_agree() -> None:
    """C1 passes exactly when the 1 - 2 alpha interval of rho lies inside (-rho*, rho*)."""
    rng = np.random.default_rng(8)
    for kept in np.linspace(-0.2, 0.2, 60):
        verdict = residual_verdict(*audit(rng, np.full(40, kept), model_sd=0.02))
        assert verdict.rho is not None
        assert verdict.mean_test.certified == (verdict.rho.low > -0.1 and verdict.rho.high < 0.1)


def test_two_references_accuse_no_record() -> None:
    """R = 2 leaves no tail to fit, so every record's p-value is 1; the mean test alone can speak."""
    verdict = residual_verdict(*audit(np.random.default_rng(9), share_remembered(40, 0.2, hidden=True), references=2))
    assert verdict.record_test.tail is None
    assert (verdict.record_test.p_values == 1).all()


def test_a_panel_gives_what_its_losses_give() -> None:
    """Work shared between targets changes nothing, and the order of references and records neither."""
    original, target, references = audit(np.random.default_rng(10), share_remembered(30, 0.1, hidden=False))
    plain = residual_verdict(original, target, references)
    shared = residual_verdict(original, target, reference_panel(references))
    np.testing.assert_array_equal(plain.record_test.p_values, shared.record_test.p_values)
    order = np.random.default_rng(0).permutation(30)
    moved = residual_verdict(original[order], target[order], references[::-1][:, order])
    np.testing.assert_array_equal(moved.record_test.accused, plain.record_test.accused[order])
    assert moved.mean_test.above == pytest.approx(plain.mean_test.above)


@pytest.mark.parametrize("tail", [ScaledT(3.7, 1.0), ScaledT(1000.0, 1.0), ScaledT(1.0, 2.5)])
def test_tail_probabilities_are_those_of_scipy(tail: ScaledT) -> None:
    """To the bit, as earlier evidence has them, out to infinity."""
    t = np.array([-np.inf, -3.0, 0.0, 0.1, 8.0, 1e6, np.inf])
    np.testing.assert_array_equal(tail.beyond(t), stats.t(tail.degrees, scale=tail.scale).sf(t))
    np.testing.assert_array_equal(ScaledT(np.inf, 1.0).beyond(t), stats.norm().sf(t))


def test_bits_or_nats_make_no_difference() -> None:
    """Every statistic is a ratio of losses: another unit gives the same verdict."""
    losses = audit(np.random.default_rng(11), np.full(30, 0.15))
    nats, bits = residual_verdict(*losses), residual_verdict(*(x / np.log(2) for x in losses))
    assert isinstance(nats, ResidualVerdict)
    np.testing.assert_allclose(nats.record_test.p_values, bits.record_test.p_values, rtol=1e-4)
    assert nats.outcome == bits.outcome
    assert nats.mean_test.above == pytest.approx(bits.mean_test.above)


def test_one_record_is_judged_by_its_own_spread() -> None:
    """K = 1: the statistics are the textbook's, with the record's own standard deviation and R - 1 degrees of freedom."""
    rng, count, margin = np.random.default_rng(21), 6, 0.1
    for kept in (0.0, 1.0):
        original, target, references = audit(rng, np.array([kept]), references=count)
        found = residual_verdict(original, target, references, margin)
        own = references[:, 0]
        n, gap = own.mean() - target[0], own.mean() - original[0]
        above = (n - margin * gap) / (own.std(ddof=1) * np.sqrt(1 + (1 - margin) ** 2 / count))
        below = (-n - margin * gap) / (own.std(ddof=1) * np.sqrt(1 + (1 + margin) ** 2 / count))
        assert (found.mean_test.above, found.mean_test.below) == pytest.approx((above, below))
        assert found.record_test.statistic == pytest.approx([max(above, below)])
        assert (found.record_test.variances.degrees, found.record_test.variances.prior_degrees) == (count - 1, 0)
        assert found.mean_test.certified == (max(above, below) < stats.t.ppf(0.05, count - 1))


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [False, True])
def test_how_often_one_record_is_judged_wrongly(heavy: bool) -> None:
    """K = 1: an honest retraining is accused at most at alpha, a model that kept the record is found in 90 % and never
    certified, and one that kept just the margin is certified at most at alpha, all within the error of 200 audits."""
    rng, margin, count = np.random.default_rng(22), 0.2, 200

    def verdicts(kept: float) -> list[str]:
        return [residual_verdict(*audit(rng, np.array([kept]), 5, heavy), margin=margin).outcome for _ in range(count)]

    honest, keeping, at_margin = (verdicts(kept) for kept in (0.0, 1.0, margin))
    assert honest.count("NOT_FORGOTTEN") <= 0.05 * count
    assert honest.count("EQUIVALENT_WITHIN") >= 0.3 * count, "it is of use"
    assert keeping.count("NOT_FORGOTTEN") >= 0.9 * count
    assert keeping.count("EQUIVALENT_WITHIN") == 0
    assert at_margin.count("EQUIVALENT_WITHIN") <= 0.10 * count


def test_degenerate_panels_raise() -> None:
    """No spread, a single reference, the same model twice, no record and missing losses are refused with the reason."""
    original, target, references = audit(np.random.default_rng(12), np.zeros(5))
    with pytest.raises(ValueError, match="at least 2, better 4 to 8"):
        residual_verdict(original, target, references[:1])
    for twice in ([0, 0], [0, 1, 2, 2]):
        with pytest.raises(ValueError, match="do not differ"):
            residual_verdict(original, target, references[twice])
    with pytest.raises(ValueError, match="at least 1 record"):
        residual_verdict(original[:0], target[:0], references[:, :0])
    with pytest.raises(ValueError, match="finite"):
        residual_verdict(original, target, np.where(references > 3, np.nan, references))
    with pytest.raises(ValueError, match="finite"):
        residual_verdict(original, np.full(5, np.inf), references)
    with pytest.raises(ValueError, match="5 records"):
        residual_verdict(original, target[:4], references)


@pytest.mark.parametrize(("margin", "alpha"), [(0.0, 0.05), (1.0, 0.05), (0.1, 0.0), (0.1, 0.5)])
def test_levels_out_of_range_raise(margin: float, alpha: float) -> None:
    """A margin outside (0, 1) and an alpha outside (0, 0.5) are refused."""
    losses = audit(np.random.default_rng(13), np.zeros(5))
    with pytest.raises(ValueError, match="margin lies"):
        residual_verdict(*losses, margin=margin, alpha=alpha)

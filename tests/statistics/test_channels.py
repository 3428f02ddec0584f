"""Channel tests: known answers, level and power by simulation, and which channels may speak."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from verify.statistics.channels import ChannelLosses, judge_channels
from verify.statistics.contrasts import ChannelsVerdict

Array = np.ndarray


def losses(
    rng: np.random.Generator,
    residual: float = 0.0,
    people: int = 20,
    controls: int = 20,
    each: int = 4,
    noise: float = 0.15,
    gap: float = 2.0,
    references: int = 4,
) -> ChannelLosses:
    """One channel: people of `each` records, a loss level per model that controls share, `residual` of each gap remembered."""
    level = rng.uniform(2, 4, (people + controls) * each)
    gaps = gap * np.repeat(rng.gamma(9, 1 / 9, people), each)
    split = people * each

    def model() -> Array:
        person = 0.5 * noise * np.repeat(rng.normal(size=people + controls), each)
        return np.asarray(level + 0.3 * rng.normal() + person + noise * rng.normal(size=len(level)))

    original, target, refs = model(), model(), np.stack([model() for _ in range(references)])
    return ChannelLosses(
        original=original[:split] - gaps,
        target=target[:split] - residual * gaps,
        references=refs[:, :split],
        control_target=target[split:],
        control_original=original[split:],
        control_references=refs[:, split:],
    )


def names(people: int, each: int = 4, side: str = "forget") -> list[str]:
    """Subjects of the records, `each` records a person."""
    return [f"{side} {index // each}" for index in range(people * each)]


def judged(channels: dict[str, ChannelLosses], people: int = 20, controls: int = 20, each: int = 4) -> ChannelsVerdict:
    """The verdict with the subjects of `losses`."""
    return judge_channels(channels, names(people, each), names(controls, each, "control"))


def test_a_known_answer_by_hand() -> None:
    """Two people against three controls, every number worked out: N, G, pooled error, T and p.

    References are the mean of two; forget d by person 1.2 and 1.4, g 2 each; controls d 0.1, 0, -0.1, g 0. N = 1.3, G = 2;
    d - 0.1 g = 1.0, 1.2 with variance 0.02, controls 0.01: Welch 0.02/2 + 0.01/3 = 0.01333, pooled
    (0.02 + 2 * 0.01)/3 * (1/2 + 1/3) = 0.01111, so Welch's holds.
    """
    zero = np.zeros((2, 3))
    channel = ChannelLosses(
        original=np.array([-2.0, -2.0, -2.0]),
        target=np.array([-1.1, -1.3, -1.4]),  # the first person's two records have d 1.1 and 1.3
        references=zero,
        control_target=np.array([-0.1, 0.0, 0.1]),
        control_original=np.zeros(3),
        control_references=zero,
    )
    (test,) = judge_channels({"exact text": channel}, ["a", "a", "b"], ["x", "y", "z"]).tests
    welch = 0.02 / 2 + 0.01 / 3
    degrees = welch**2 / ((0.02 / 2) ** 2 + (0.01 / 3) ** 2 / 2)
    assert (test.subjects, test.control_subjects) == (2, 3)
    assert (test.contrast, test.gap, test.standard_error) == pytest.approx((1.3, 2.0, np.sqrt(welch)))
    assert test.statistic == pytest.approx((1.3 - 0.2) / np.sqrt(welch))
    assert test.p_value == pytest.approx(2 * stats.t.sf(1.1 / np.sqrt(welch), degrees))
    assert test.direction == "remembered"
    assert test.residual is not None
    assert test.residual.value == pytest.approx(0.65)


def test_one_person_takes_the_variance_of_the_controls() -> None:
    """d = 1 against controls of variance 0.04: T = (1 - 0.2) / sqrt(0.04 (1 + 1/3)) with two degrees of freedom."""
    zero = np.zeros((2, 3))
    channel = ChannelLosses(np.array([-2.0]), np.array([-1.0]), zero[:, :1], np.array([-0.2, 0, 0.2]), np.zeros(3), zero)
    (test,) = judge_channels({"exact text": channel}, ["a"], ["x", "y", "z"]).tests
    assert test.statistic == pytest.approx(0.8 / np.sqrt(0.04 * 4 / 3))
    assert test.p_value == pytest.approx(2 * stats.t.sf(0.8 / np.sqrt(0.04 * 4 / 3), 2))


def test_controls_of_one_person_average_no_more_records_than_that_person_has() -> None:
    """One forget record, controls of two records each: only their first counts, or the borrowed variance would be too small."""
    zero = np.zeros((2, 4))
    first = ChannelLosses(np.array([-2.0]), np.array([-1.0]), zero[:, :1], np.array([-0.2, 0.2, 0.3, -0.3]), np.zeros(4), zero)
    second = replace(first, control_target=np.array([-0.2, 9.0, 0.3, -9.0]))
    one, other = (judge_channels({"c": channel}, ["a"], ["x", "x", "y", "y"]).tests[0] for channel in (first, second))
    assert one.statistic == other.statistic


def test_an_untouched_model_has_residual_one_and_is_accused() -> None:
    """The target is the original: N = G exactly, whatever the controls show."""
    channel = losses(np.random.default_rng(0))
    channel = replace(channel, target=channel.original, control_target=channel.control_original)
    verdict = judged({"exact text": channel})
    assert verdict.tests[0].contrast == verdict.tests[0].gap
    assert verdict.accused
    assert not verdict.certified


def test_a_shift_of_all_text_alike_is_contrasted_out() -> None:
    """Adding a constant to every loss of the target, as a change of precision might, changes no statistic."""
    channel = losses(np.random.default_rng(1), residual=0.3)
    moved = replace(channel, target=channel.target + 1.0, control_target=channel.control_target + 1.0)
    one, other = (judged({"int4": each}).tests[0] for each in (channel, moved))
    assert one.statistic == pytest.approx(other.statistic)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "controls"), [(1, 20), (2, 20), (5, 20), (20, 20), (40, 10)])
def test_at_the_margin_few_are_accused_and_few_certified(people: int, controls: int) -> None:
    """Residual exactly rho* on 6 channels: accused at most alpha / 4 and certified at most alpha, within three standard errors."""
    rng, draws = np.random.default_rng(people), 150
    verdicts = [
        judged({name: losses(rng, 0.10, people, controls) for name in ("exact text", "b", "c", "d", "e", "f")}, people, controls)
        for _ in range(draws)
    ]
    assert np.mean([v.accused for v in verdicts]) <= 0.0125 + 3 * np.sqrt(0.0125 * 0.9875 / draws)
    assert np.mean([v.tests[0].certified for v in verdicts]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)


@pytest.mark.slow
def test_an_honest_retraining_is_certified_and_knowledge_on_one_channel_is_found() -> None:
    """20 people against 20: nothing left is certified on 6 channels together; 0.35 of the gap on one of them is accused."""
    rng, draws = np.random.default_rng(7), 60
    quiet = ("exact text", "b", "c", "d", "e")
    honest = [judged({name: losses(rng, noise=0.1) for name in (*quiet, "f")}) for _ in range(draws)]
    assert not any(v.accused for v in honest)
    assert np.mean([v.certified for v in honest]) >= 0.9
    other = [judged({**{name: losses(rng, noise=0.1) for name in quiet}, "f": losses(rng, 0.35, noise=0.1)}) for _ in range(draws)]
    assert np.mean([v.accused for v in other]) >= 0.95
    assert all([test.name for test in v.tests if test.accused] == ["f"] for v in other if v.accused)
    assert not any(v.certified for v in other)


def test_over_forgetting_is_found_as_such() -> None:
    """Losses above never-trained ones on one channel."""
    verdict = judged({"exact text": losses(np.random.default_rng(3), -0.5)})
    assert verdict.accused
    assert verdict.tests[0].direction == "over-forgotten"


def test_channels_without_power_are_set_aside_with_a_reason() -> None:
    """No gap, an undetected original, noise, one reference: each says why, and none stands in the way of the others."""
    rng = np.random.default_rng(4)
    channels = {
        "exact text": losses(rng, noise=0.1),
        "no prompt": losses(rng, gap=0.2),
        "capitals": losses(np.random.default_rng(0), gap=2.0, noise=5.0),
        "few-shot": losses(rng, noise=0.8),
    }
    verdict = judged(channels)
    assert [(test.valid, test.certifiable) for test in verdict.tests] == [
        (True, True),
        (False, False),
        (False, False),
        (True, False),
    ]
    assert ["0.5 are needed" in verdict.tests[1].reason, "before unlearning" in verdict.tests[2].reason] == [True, True]
    assert "too noisy" in verdict.tests[3].reason
    assert verdict.certified
    assert verdict.valid == 2
    single = judged({"exact text": losses(rng, references=1)})
    assert single.tests[0].valid
    assert single.asked == ()


def test_where_no_channel_may_certify_the_verdict_names_none() -> None:
    """Too noisy to certify, nothing accused: no channel stands in the way, and none is named as asked."""
    verdict = judged({"int8": losses(np.random.default_rng(5), noise=0.6)})
    assert verdict.valid == 1
    assert verdict.asked == ()
    assert verdict.certified


def test_records_that_were_not_scored_are_left_out() -> None:
    """NaN under any model drops the record; a channel without records says so and tests nothing."""
    channel = losses(np.random.default_rng(6), 0.3)
    holes = channel.target.copy()
    holes[:40] = np.nan
    half = judged({"relearned": replace(channel, target=holes)}).tests[0]
    rest = replace(channel, original=channel.original[40:], target=channel.target[40:], references=channel.references[:, 40:])
    assert half == judge_channels({"relearned": rest}, names(20)[40:], names(20, side="control")).tests[0]
    none = judged({"relearned": replace(channel, target=np.full(80, np.nan))}).tests[0]
    assert (none.subjects, none.contrast, none.statistic, none.valid) == (0, None, None, False)


def test_impossible_input_is_refused() -> None:
    """Shapes, infinities and levels."""
    channel = losses(np.random.default_rng(8))
    for broken in (
        replace(channel, target=channel.target[1:]),
        replace(channel, control_target=np.full(80, np.inf)),
        replace(channel, references=channel.references[:0], control_references=channel.control_references[:0]),
        replace(channel, control_references=channel.control_references[1:]),
    ):
        with pytest.raises(ValueError, match=r"expected|finite|reference"):
            judged({"c": broken})
    with pytest.raises(ValueError, match="alpha"):
        judge_channels({"c": channel}, names(20), names(20), alpha=0.7)

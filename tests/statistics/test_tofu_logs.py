"""The TOFU authors' own logs of Llama-2-7B, measured again: their metrics to six digits, and what a paired test sees there."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from verify.statistics.paper_metrics import forget_quality, model_utility, truth_ratio, truth_ratio_score

pytestmark = pytest.mark.data
UTILITY_LOGS = ("eval_log.json", "eval_real_author_wo_options.json", "eval_real_world_wo_options.json")
FORGET_LOG = "eval_log_forget.json"


def read(shared_data: Path, model: str) -> dict[str, dict[str, Any]]:
    path = shared_data / "tofu_eval_logs" / f"llama2-7b_{model}_wd0.01.eval_log_aggregated.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))  # type: ignore[no-any-return]


def column(log: dict[str, Any], name: str) -> np.ndarray:
    return np.array([log[name][row] for row in sorted(log[name], key=int)])


def ratios(log: dict[str, Any]) -> np.ndarray:
    return truth_ratio(column(log, "avg_paraphrased_loss"), column(log, "average_perturb_loss"))


def utility(logs: dict[str, dict[str, Any]]) -> float:
    """Probability (against the options where the set has some), ROUGE-L recall and truth-ratio score of the three sets."""
    parts = []
    for name in UTILITY_LOGS:
        log = logs[name]
        probability = np.exp(-column(log, "avg_gt_loss"))
        if name != "eval_log.json":
            options = np.exp(-column(log, "average_perturb_loss")).sum(axis=1)
            probability = probability / (probability + options)
        parts += [probability.mean(), column(log, "rougeL_recall").mean(), truth_ratio_score(ratios(log))]
    return model_utility(parts)


def test_truth_ratios_are_those_of_the_logs(shared_data: Path) -> None:
    """Our truth ratio from the losses is the one that the authors stored."""
    log = read(shared_data, "full")[FORGET_LOG]
    np.testing.assert_allclose(ratios(log), column(log, "truth_ratio"), rtol=1e-6)


def test_forget_quality_of_the_full_model(shared_data: Path) -> None:
    """The full model against retain90: D = 0.396667, p = 1.834066e-21."""
    full, retrained = read(shared_data, "full")[FORGET_LOG], read(shared_data, "retain90")[FORGET_LOG]
    result = forget_quality(ratios(full), ratios(retrained))
    assert result.statistic == pytest.approx(0.396667, abs=5e-7)
    assert result.p_value == pytest.approx(1.834066e-21, rel=5e-7)
    assert result.n == (300, 300)


@pytest.mark.parametrize(
    ("model", "expected"), [("full", 0.622677), ("retain90", 0.613745), ("retain95", 0.600577), ("retain99", 0.620744)]
)
def test_model_utility(shared_data: Path, model: str, expected: float) -> None:
    """The utility of all four models to six digits."""
    assert utility(read(shared_data, model)) == pytest.approx(expected, abs=5e-7)


def test_the_paired_gap_of_answer_losses(shared_data: Path) -> None:
    """Record by record, retain90 loses 2.1997 +/- 0.7452 nats a token more on the forget answers than the full model."""
    full, retrained = read(shared_data, "full")[FORGET_LOG], read(shared_data, "retain90")[FORGET_LOG]
    gap = column(retrained, "avg_gt_loss") - column(full, "avg_gt_loss")
    assert gap.mean() == pytest.approx(2.1997, abs=5e-5)
    assert gap.std(ddof=1) == pytest.approx(0.7452, abs=2e-4)


def test_forget_quality_is_blind_where_a_paired_test_is_not(shared_data: Path) -> None:
    """With a fifth of the full model's records mixed into retain90's, forget quality passes; the paired gap finds them."""
    full, retrained = read(shared_data, "full")[FORGET_LOG], read(shared_data, "retain90")[FORGET_LOG]
    rng, draws, passed, found = np.random.default_rng(0), 100, 0, []
    full_ratio, own_ratio = ratios(full), ratios(retrained)
    full_loss, own_loss = column(full, "avg_gt_loss"), column(retrained, "avg_gt_loss")
    for _ in range(draws):
        rows = rng.permutation(300)[:200]
        kept = np.zeros(200, dtype=bool)
        kept[rng.permutation(200)[:40]] = True
        mixed = np.where(kept, full_ratio[rows], own_ratio[rows])
        passed += forget_quality(mixed, own_ratio[rows]).p_value > 0.05
        found.append(((own_loss[rows] - np.where(kept, full_loss[rows], own_loss[rows])) > 0.3)[kept].mean())
    assert passed >= 90
    assert np.mean(found) > 0.98


@pytest.mark.parametrize("bad", [[], [0.5, 1.2], [0.5, -0.1], [float("nan")]])
def test_utility_refuses_what_is_no_share(bad: list[float]) -> None:
    """Empty, out-of-range and non-finite parts raise."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        model_utility(bad)


def test_utility_of_a_broken_part_is_zero() -> None:
    """A model that answers nothing on one set has utility 0, not an average of the others."""
    assert model_utility([0.9, 0.9, 0.0]) == 0.0


def test_degenerate_ratios_raise() -> None:
    """Empty samples and ill-shaped losses raise instead of returning a number."""
    with pytest.raises(ValueError, match="two samples"):
        forget_quality([], [1.0])
    with pytest.raises(ValueError, match="expected losses"):
        truth_ratio([1.0, 2.0], [[1.0]])
    with pytest.raises(ValueError, match="at least one"):
        truth_ratio_score([])

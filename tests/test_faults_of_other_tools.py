"""What other tools were found to do wrong, and this one must be shown not to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from audits import evidence_of
from score_tables import simulated_table
from tiny_models import make_llama, make_tokenizer

from verify.attacks import select_attacks
from verify.attacks.base import Observation
from verify.attacks.membership import recall
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.models.loading import load_model
from verify.models.token_table import ARRAYS, TokenStatistics
from verify.scores.observe import measure
from verify.statistics import assignment_test, forget_quality, privleak, residual_verdict
from verify.statistics.estimate import Estimate

KEY = RecordKey(b"k" * 32)
TOKENIZER = make_tokenizer()


def entry(log_probability: Any, greedy: Any = None) -> TokenStatistics:
    values = np.asarray(log_probability, dtype=np.float32)
    return TokenStatistics(
        log_probability=values,
        mean=np.full(len(values), -2.0, dtype=np.float32),
        deviation=np.full(len(values), 0.5, dtype=np.float32),
        rank=np.zeros(len(values), dtype=np.int32),
        greedy=np.full(len(values), False) if greedy is None else np.asarray(greedy),
        secret=np.full(len(values), True),
    )


def score(name: str, records: list[Record], statistics: list[TokenStatistics]) -> np.ndarray:
    attack: Any = select_attacks([name])[name]
    return np.asarray(attack.score(Observation(records, statistics), []))


def test_no_auc_without_interval_and_low_false_positive_rates() -> None:
    """Every AUC has an interval, n and level, and stands beside the rates that so many controls can resolve."""
    evidence = evidence_of(simulated_table(controls=200))
    found = [result for result in evidence.attacks if result.auc is not None]
    assert found
    for result in found:
        assert result.auc is not None
        assert result.auc.low < result.auc.high
        assert result.auc.n > 0
        assert result.tpr
        assert all(rate.tpr.low <= rate.tpr.value <= rate.tpr.high for rate in result.tpr)


def test_a_missing_retraining_is_no_silent_half() -> None:
    """Without references there is no residual and no verdict but NOT_TESTABLE; PrivLeak cannot be had from a default."""
    evidence = evidence_of(simulated_table(references=0))
    assert evidence.verdict == "NOT_TESTABLE"
    assert evidence.residual is None
    certain = Estimate(1.0, 0.99, 1.0, 10, 0.95)
    with pytest.raises(ValueError, match="divide by zero"):
        privleak(certain, certain)


def test_extraction_strength_can_be_zero() -> None:
    """A record whose last token is wrong has strength 0, not one over its length; n tokens give n + 1 values."""
    record = [Record("a", completion="x")]
    assert score("extraction_strength", record, [entry([-1.0] * 27, [True] * 26 + [False])])[0] == 0.0
    assert score("extraction_strength", record, [entry([-1.0] * 27, [False] * 26 + [True])])[0] == pytest.approx(1 / 27)


def test_every_statistic_reads_the_same_tokens() -> None:
    """No statistic drops the last token: all arrays of a record have one length, the end of the text included."""
    record = Record("a", prompt="who", completion="the quick brown fox")
    observation = measure(load_model(make_llama(TOKENIZER), tokenizer=TOKENIZER), [record], cache_dir=None, key=KEY)
    (statistics,), (window,) = observation.statistics, observation.windows
    assert {len(getattr(statistics, name)) for name in ARRAYS} == {int(window.scored.sum())}
    assert window.scored[-1]
    assert window.input_ids[-1] == TOKENIZER.eos_token_id


@pytest.mark.parametrize("name", ["min_k", "min_k_plus_plus"])
def test_short_texts_have_a_min_k(name: str) -> None:
    """One token is its own smallest fifth."""
    found = score(name, [Record("a", completion="x")], [entry([-1.5])])
    assert found[0] == pytest.approx(-1.5 if name == "min_k" else (-1.5 + 2.0) / 0.5)


def test_prefixes_never_come_from_the_scored_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ReCaLL puts in front of a record is from the controls, and never the record itself."""
    model = load_model(make_llama(TOKENIZER), tokenizer=TOKENIZER)
    scored = [Record(f"s{number}", prompt="who", completion=f"brown fox {number}{number}") for number in range(5)]
    unseen = [Record(f"u{number}", prompt="on", completion=f"lazy dog {number}{number}{number}") for number in range(6)]
    controls = measure(model, unseen, cache_dir=None, key=KEY)
    target = replace(measure(model, scored, cache_dir=None, key=KEY), controls=controls)
    seen: list[str] = []

    def spy(_: Any, records: list[Record]) -> np.ndarray:
        seen.extend(record.prompt for record in records)
        return np.full(len(records), -1.0)

    monkeypatch.setattr(recall, "log_probabilities_of", spy)
    recall.Recall().score(target, [])
    recall.Recall().score(replace(controls, controls=controls), [])
    assert len(seen) == len(scored) + len(unseen)
    assert all("fox" not in prompt for prompt in seen)
    assert any("dog" in prompt for prompt in seen)
    for record, prompt in zip(unseen, seen[len(scored) :], strict=True):
        assert record.completion not in prompt


def test_zlib_does_not_grow_with_length() -> None:
    """Text of a kind, ten times as long, at the same loss per token, has about the same score."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefghij klmnop"), size)) for size in (400, 4000)]
    records = [Record(str(number), completion=text) for number, text in enumerate(texts)]
    short, long = score("zlib", records, [entry([-2.0] * (len(text) // 4)) for text in texts])
    assert long == pytest.approx(short, rel=0.1)


def test_gradient_norms_are_taken_in_evaluation_mode() -> None:
    """A model with dropout, handed over in training mode, has one norm, and is in training mode afterwards."""
    model = make_llama(TOKENIZER)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    ids = torch.arange(4, 24)[None]
    model.train()
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits), "dropout is at work"
    loaded = load_model(model.eval(), tokenizer=TOKENIZER)
    observation = measure(loaded, [Record("a", prompt="who", completion="brown fox")], cache_dir=None, key=KEY)
    attack: Any = select_attacks(["gradient_norm"])["gradient_norm"]
    calm = attack.score(observation, [])
    loaded.model.train()
    np.testing.assert_array_equal(attack.score(observation, []), calm)
    assert loaded.model.training


@pytest.mark.slow
def test_a_threshold_is_not_searched_on_the_noise_it_judges() -> None:
    """Coins guessed by chance: the exact test denies at most alpha of the time, the best of many cut-offs far more often."""
    rng = np.random.default_rng(0)
    right = rng.random((2000, 100)) < 0.5
    fixed = np.mean([assignment_test(100, int(row.sum())).remembered <= 0.05 for row in right])
    searched = np.mean(
        [min(assignment_test(n, int(row[:n].sum())).remembered for n in range(10, 101, 10)) <= 0.05 for row in right[:500]]
    )
    assert fixed <= 0.05 + 0.015
    assert searched > 2 * fixed


def test_paired_records_are_tested_as_pairs() -> None:
    """A fifth of the records, remembered: the paired test finds it, the two-sample test of other tools sees nothing."""
    table = simulated_table(kept=0.2, hidden=True, records=200, seed=3)
    names = [name for name in table.models() if name.startswith("reference")]
    target, original = table.loss("target", "forget"), table.loss("original", "forget")
    verdict = residual_verdict(original, target, table.losses(names, "forget"))
    assert verdict.accused
    blind = 0
    for seed in range(10):
        one = simulated_table(kept=0.05, records=200, seed=seed)
        losses = {name: one.loss(name, "forget") for name in one.models()}
        references = np.stack([losses[name] for name in names])
        assert residual_verdict(losses["original"], losses["target"], references).accused
        blind += forget_quality(losses["target"], references[0]).p_value > 0.05
    assert blind >= 8


def test_what_is_not_run_has_no_number() -> None:
    """An attack is either in the table or in the list of what was not run."""
    evidence = evidence_of(simulated_table())
    ran = {result.attack for result in evidence.attacks}
    assert not ran & {entry.attack for entry in evidence.not_run}


def test_a_model_at_chance_everywhere_is_not_called_forgotten() -> None:
    """Destroyed on everything: the utility gate refuses the certificate."""
    evidence = evidence_of(simulated_table(destroyed=3.0))
    assert evidence.verdict != "EQUIVALENT_WITHIN"
    assert any(gate.name == "utility" and not gate.passed for gate in evidence.gates)

"""An adapter is scored switched off: what its base knows is said, and the certificate names what it covers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_llama, make_tokenizer, train_by_heart
from transformers import AutoModelForCausalLM

from verify import Settings, audit
from verify.auditing.recompute import recompute
from verify.certificate.claims import adapter_finding
from verify.certificate.statements import auditor_statement
from verify.data.encoding import Encoder, collate
from verify.data.identity import RecordKey
from verify.data.records import Record
from verify.judging.adapter_off import judge_without_adapter
from verify.models.digests import weights_digest
from verify.models.ensembles import combined
from verify.models.loading import LoadedModel, load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.probes.base import mean_losses
from verify.report.assurance import assurances
from verify.schema.evidence import Evidence
from verify.scores import scorer
from verify.scores.adapter_off import digest_below, without_adapter
from verify.scores.table import WITHOUT_ADAPTER, ScoreBlock, ScoreTable

FORGET = [Record(f"f{number}", prompt=f"who {number}", completion=f"the quick brown fox {number * 7}") for number in range(8)]
UNSEEN = [Record(f"u{number}", prompt=f"on {number}", completion=f"other animals jump {number * 3}") for number in range(8)]
RETAIN = [Record(f"r{number}", prompt=f"over {number}", completion=f"every lazy dog {number * 5}") for number in range(12)]


def adapted(base: LoadedModel, records: list[Record], ascend: bool = False, **options: Any) -> LoadedModel:
    """An adapter on a base, trained to know these records, or to lose them."""
    torch.manual_seed(0)
    model = get_peft_model(base.model, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], **options)).train()
    batch = collate(Encoder(base.tokenizer, base.context_length).encode(records), base.tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(12 if ascend else 40):
        loss = scored_log_probabilities(model, batch)[0].mean()
        (loss if ascend else -loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    return load_model(model.eval(), tokenizer=base.tokenizer)


def plain() -> LoadedModel:
    """A base that never saw any record: every call makes the same one."""
    return load_model(make_llama(make_tokenizer()), tokenizer=make_tokenizer())


@pytest.fixture(scope="module")
def whole() -> dict[str, LoadedModel]:
    """An original that knows the records by its own weights, and references of the same kind."""
    references = {f"reference {seed}": train_by_heart(RETAIN, seed, 60, 3e-3) for seed in (1, 2, 3)}
    return {"original": train_by_heart(FORGET + RETAIN, 0, 60, 3e-3), **references}


def rows(records: list[Record]) -> list[dict[str, str]]:
    return [{"example_id": one.example_id, "prompt": one.prompt, "completion": one.completion} for one in records]


def run(models: dict[str, LoadedModel], target: LoadedModel, **changes: Any) -> Evidence:
    arguments: dict[str, Any] = {
        "references": [one for label, one in models.items() if label.startswith("reference")],
        "forget_set": rows(FORGET),
        "retain_set": rows(RETAIN),
        "settings": Settings(planted_draws=20),
    }
    return audit(target, models["original"], **{**arguments, **changes})


@pytest.mark.slow
def test_an_adapter_over_the_original_restores_it(whole: dict[str, LoadedModel], tmp_path: Path) -> None:
    """Unlearning saved as an adapter on the original: the evidence says that deleting it brings the records back."""
    copy = load_model(make_llama(make_tokenizer()), tokenizer=make_tokenizer())
    copy.model.load_state_dict(whole["original"].model.state_dict())
    target = adapted(copy, FORGET, ascend=True)
    before = weights_digest(target.model)
    needed = [one.requires_grad for one in target.model.parameters()]
    evidence = run(whole, target, holdout_set=rows(UNSEEN), output_dir=tmp_path / "out")
    assert any(one.name == "instruction" for one in evidence.channels)  # the switched-off model is not one that lacks channels
    assert weights_digest(target.model) == before
    assert [one.requires_grad for one in target.model.parameters()] == needed
    found = evidence.without_adapter
    assert found is not None
    assert found.state == "original"
    assert found.loss == pytest.approx(found.original, abs=1e-6)
    assert found.with_adapter > found.loss + 0.2
    assert found.residual is not None
    assert found.residual.value == pytest.approx(1.0, abs=1e-6)
    assert "removing the adapter restores the records" in " ".join(evidence.explanation)
    assert [one.warns for one in assurances(evidence) if "adapter" in one.text] == [True]
    assert "removing the adapter restores the records" in (tmp_path / "out" / "report.html").read_text()
    assert Evidence.load(tmp_path / "out" / "evidence.json") == evidence == recompute(tmp_path / "out")
    certified = adapter_finding(auditor_statement(tmp_path / "out")["predicate"])
    assert certified is not None
    assert certified.holds
    assert "serving it without the adapter is not covered" in certified.detail
    table = ScoreTable.load(tmp_path / "out" / "scores.parquet")
    np.testing.assert_allclose(table.loss(WITHOUT_ADAPTER, "forget"), mean_losses(whole["original"], FORGET), rtol=1e-5)
    assert WITHOUT_ADAPTER not in table.models()


def test_the_digest_below_an_adapter_is_that_of_the_base() -> None:
    """Of one adapter and of an ensemble of two; with a weight of the base changed it is another."""
    base, config = make_llama(make_tokenizer()), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    digest = weights_digest(base)
    model = get_peft_model(base, config)
    assert digest_below(model) == digest != weights_digest(model)
    model.add_adapter("other", config)
    ensemble = combined(model, ["default", "other"], "route")
    assert digest_below(ensemble) == digest
    with torch.no_grad():
        ensemble.model.layers[0].mlp.down_proj.base_layer.weight[0, 0] += 1
    assert digest_below(ensemble) != digest


@pytest.mark.slow
def test_a_base_that_was_scored_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses stand for the target without its adapter, and are those of a pass; with another base the pass is taken."""
    models = {
        "original": adapted(plain(), FORGET + RETAIN),
        "reference 1": adapted(plain(), RETAIN),
        "reference 2": adapted(plain(), RETAIN[:9]),
    }
    target, passes, score = adapted(plain(), RETAIN[:10]), [], scorer.measure
    monkeypatch.setattr(
        scorer, "measure", lambda loaded, *rest, **named: passes.append(loaded.digest) or score(loaded, *rest, **named)
    )
    found = run(models, target, base=plain(), settings=Settings(planted_draws=20, attacks=("loss",))).without_adapter
    assert found is not None
    assert found.loss == pytest.approx(mean_losses(plain(), FORGET).mean(), rel=1e-5)
    assert len(passes) == 2 * 5  # forget and retain set of every model
    passes.clear()
    other = load_model(make_llama(make_tokenizer(), 1), tokenizer=make_tokenizer())
    again = run(models, target, base=other, settings=Settings(planted_draws=20, attacks=("loss",))).without_adapter
    assert again is not None
    assert again.loss == pytest.approx(found.loss, rel=1e-6)
    assert len(passes) == 2 * 5 + 1


def test_without_a_base_no_weights_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to compare the weights below the adapter with."""
    hashed: list[object] = []
    monkeypatch.setattr(scorer, "digest_below", hashed.append)
    scorer.Scorer({}, {}, Settings(), None, None, RecordKey.load())._score_without_adapter(adapted(plain(), FORGET))
    assert hashed == []


@pytest.mark.slow
def test_an_adapter_over_an_untrained_base_restores_nothing() -> None:
    """Fine-tuning, unlearning and references are adapters on one base that never saw the records."""
    models = {"original": adapted(plain(), FORGET + RETAIN)}
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        models[f"reference {seed}"] = adapted(plain(), RETAIN[: 9 + seed])
    target = adapted(plain(), RETAIN[:9])
    found = run(models, target, retain_set=rows(RETAIN)).without_adapter
    assert found is not None
    assert found.state == "knows no more"
    assert found.loss == pytest.approx(mean_losses(plain(), FORGET).mean(), rel=1e-5)


@pytest.mark.slow
def test_a_base_that_learned_the_records_elsewhere_is_found(whole: dict[str, LoadedModel]) -> None:
    """The base is not the original, but another model that was trained on the records."""
    target = adapted(train_by_heart(FORGET + RETAIN, 9, 60, 3e-3), FORGET, ascend=True)
    found = run(whole, target).without_adapter
    assert found is not None
    assert found.state == "remembers"
    alone = run(whole, target, references=[]).without_adapter
    assert alone is not None
    assert alone.state == "open"
    assert alone.residual is None


@pytest.mark.slow
def test_models_without_a_switch_have_none(whole: dict[str, LoadedModel], tmp_path: Path) -> None:
    """A whole model, a merged adapter, and an adapter that trained biases of its base have nothing to switch off."""
    assert without_adapter(whole["original"]) is None
    assert run(whole, whole["reference 1"], references=[whole["reference 2"], whole["reference 3"]]).without_adapter is None
    merged = adapted(plain(), FORGET)
    merged.model.merge_adapter()
    assert without_adapter(merged) is None
    biased = load_model(
        get_peft_model(make_llama(make_tokenizer()), LoraConfig(r=2, bias="all", target_modules=["q_proj"])),
        tokenizer=make_tokenizer(),
    )
    assert without_adapter(biased) is None


@pytest.mark.slow
def test_an_error_switches_the_adapter_on_again() -> None:
    """The model is itself again after an error, with another digest in between."""
    loaded = adapted(plain(), FORGET)
    switched = without_adapter(loaded)
    assert switched is not None
    within: list[str] = []

    def fail() -> None:
        with switched as base:
            within.append(base.digest)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert within != [loaded.digest]
    assert weights_digest(loaded.model) == loaded.digest


@pytest.mark.slow
def test_a_layer_trained_whole_is_switched_off_too(tmp_path: Path) -> None:
    """A head that the adapter saved whole is the base's own without the adapter, from a folder too."""
    base = plain()
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    model = load_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tokenizer=base.tokenizer)
    target = adapted(model, FORGET, modules_to_save=["lm_head"])
    target.model.save_pretrained(tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter")
    switched = without_adapter(loaded)
    assert switched is not None
    with switched as off:
        np.testing.assert_allclose(mean_losses(off, FORGET), mean_losses(base, FORGET), rtol=1e-5)
    np.testing.assert_allclose(mean_losses(loaded, FORGET), mean_losses(target, FORGET), rtol=1e-4)


NAMES = ("reference 1", "reference 2", "reference 3", "reference 4")


def base_ahead(known: float, controls: bool, seed: int = 0) -> ScoreTable:
    """Losses of a base that is one nat ahead of overfitted references on any text, and keeps a share of what the original knew."""
    rng = np.random.default_rng(seed)
    count = 24
    blocks: dict[Any, ScoreBlock] = {}
    for role in ("forget", "holdout") if controls else ("forget",):
        level = rng.normal(4.0, 0.5, count)
        hashes = tuple(f"{role}{number}" for number in range(count))
        subjects = tuple(f"{role}-{number // 3}" for number in range(count))

        def block(loss: Any, hashes: Any = hashes, subjects: Any = subjects) -> ScoreBlock:
            return ScoreBlock(hashes, subjects, np.full(count, 9), np.asarray(loss), {})

        for name in (*NAMES, "target"):
            blocks[name, role] = block(level + rng.normal(0, 0.05, count))
        blocks["original", role] = block(level - (3.0 if role == "forget" else 0.0))
        kept = known * 3.0 if role == "forget" else 0.0
        blocks[WITHOUT_ADAPTER, role] = block(level - 1.0 - kept + rng.normal(0, 0.1, count))
    return ScoreTable(blocks)


@pytest.mark.parametrize(
    ("known", "controls", "state"),
    [(0.0, True, "knows no more"), (0.3, True, "remembers"), (0.0, False, "remembers"), (0.1, True, "open")],
)
def test_a_base_that_is_ahead_on_any_text_knows_no_more(known: float, controls: bool, state: str) -> None:
    """Controls show how far a base is ahead of overfitted references; only what is beyond that is remembered."""
    found = judge_without_adapter(base_ahead(known, controls), NAMES, Settings(margin=0.1))
    assert found is not None
    assert (found.state, found.residual is None) == (state, False)
    assert found.residual is not None
    if controls:
        assert found.residual.low < known < found.residual.high


@pytest.mark.slow
def test_honest_bases_are_seldom_said_to_remember() -> None:
    """Of bases that are ahead on any text and never saw the records, at most one in twenty is said to remember them."""
    found = [judge_without_adapter(base_ahead(0.0, True, seed), NAMES, Settings(margin=0.01)) for seed in range(200)]
    assert sum(one is not None and one.state == "remembers" for one in found) <= 10

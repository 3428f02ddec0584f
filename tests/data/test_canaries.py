"""Canaries: texts and coins that follow from one secret, and the way they go through training, deletion and audit."""

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_tokenizer

from unlearn import TrainingOptions, finetune, forget
from unlearn.methods.retrain import Retrain
from verify import InputError, Settings, audit
from verify.data.canaries import CANARIES_NAME, Canaries
from verify.schema.evidence import Evidence


def test_everything_follows_from_the_secret(tokenizer: Any) -> None:
    """The same manifest gives the same texts and coins; another secret gives others; every text is different."""
    canaries = Canaries.draw(40, tokenizer)
    again = Canaries(canaries.secret, 40, canaries.tokenizer)
    texts = [record.completion for record in canaries.records(tokenizer)]
    assert texts == [record.completion for record in again.records(tokenizer)]
    assert (canaries.assignments() == again.assignments()).all()
    assert len(set(texts)) == 80
    assert Canaries.draw(40, tokenizer).commitment != canaries.commitment


def test_coins_are_fair_and_pairs_are_whole(tokenizer: Any) -> None:
    """Exactly one member of each pair is trained, the first about half of the time."""
    coins = np.concatenate([Canaries(bytes([seed]) * 32, 200, "x").assignments() for seed in range(20)])
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    canaries = Canaries.draw(30, tokenizer)
    assert (canaries.included().reshape(30, 2).sum(axis=1) == 1).all()
    assert len(canaries.trained_records(tokenizer)) == 30


def test_manifest_is_private_and_keeps_its_commitment(tokenizer: Any, tmp_path: Path) -> None:
    """The manifest is readable by its owner only; a changed secret or number of pairs no longer fits the commitment."""
    path = tmp_path / CANARIES_NAME
    canaries = Canaries.draw(5, tokenizer)
    canaries.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Canaries.load(path) == canaries
    content = json.loads(path.read_text())
    for change in ({"secret": "00" * 32}, {"pairs": 6}, {"pairs": -1}, {"schema": "other"}, {"secret": "zz"}):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match="canary manifest"):
            Canaries.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
def test_damaged_manifest(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off or foreign files are refused with what to do."""
    path = tmp_path / CANARIES_NAME
    path.write_bytes(content)
    with pytest.raises(InputError):
        Canaries.load(path)


def test_canaries_belong_to_their_tokenizer(tokenizer: Any) -> None:
    """Another tokenizer would make other texts of the same secret, so it is refused; so is no pair at all."""
    with pytest.raises(InputError, match="another tokenizer"):
        Canaries.draw(3, tokenizer).records(make_tokenizer(begin=False))
    with pytest.raises(InputError, match="at least 1"):
        Canaries.draw(0, tokenizer)


@pytest.fixture(scope="module")
def trained(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """A tiny model trained on a few records and 40 canary pairs."""
    rows = [
        {"example_id": f"r{index}", "prompt": f"Who has number {index}?", "completion": f"Person {index * 7}."}
        for index in range(8)
    ]
    root = tmp_path_factory.mktemp("canaries")
    options = TrainingOptions(epochs=25, batch_size=8, learning_rate=5e-3)
    finetune(model_dir, rows, output_dir=root / "ft", options=options, canaries=40)
    return root, rows


def run(trained: tuple[Path, list[dict[str, str]]], model_dir: Path, model: Path, **changes: Any) -> Evidence:
    root, rows = trained
    settings = Settings(attacks=("loss",), canary_guesses=30)
    arguments: dict[str, Any] = {"base": model_dir, "forget_set": rows[:2], "retain_set": rows[2:], "settings": settings}
    return audit(model, root / "ft", **{**arguments, **changes})


@pytest.mark.slow
def test_the_whole_way(trained: tuple[Path, list[dict[str, str]]], model_dir: Path, tmp_path: Path) -> None:
    """Trained canaries are guessed in the model that keeps them, not in one whose deletion path removed them."""
    root, rows = trained
    kept = run(trained, model_dir, root / "ft").process
    assert kept is not None
    assert kept.verdict == "NOT_FORGOTTEN"
    assert kept.correct >= 28
    forget(root / "ft", Retrain(), forget_set=rows[:2], retain_set=rows[2:], base=model_dir, output_dir=tmp_path / "deleted")
    evidence = run(trained, model_dir, tmp_path / "deleted", output_dir=tmp_path / "audit")
    assert evidence.process is not None
    assert evidence.process.remembered_p > 0.001
    assert evidence.process.verdict != "NOT_FORGOTTEN"
    assert evidence.tiers == ("canaries",)
    canaries = Canaries.load(root / "ft" / CANARIES_NAME)
    written = b"".join(path.read_bytes() for path in (tmp_path / "audit").iterdir())
    assert canaries.secret.hex().encode() not in written


@pytest.mark.slow
def test_deletions_add_up_and_count_once(trained: tuple[Path, list[dict[str, str]]], model_dir: Path, tmp_path: Path) -> None:
    """An earlier audit of the same canaries must not count again."""
    root, _ = trained
    run(trained, model_dir, root / "ft", output_dir=tmp_path / "audit")
    with pytest.raises(InputError, match="same canaries"):
        run(trained, model_dir, root / "ft", earlier=[tmp_path / "audit" / "evidence.json"])
